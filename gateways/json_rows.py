"""Rows of readings from JSON, value by value, with the checks of `gateways.checks`. Both JSON formats build on it.

Further refusals: `malformed-value` for a value that is no number, boolean or name of the metric's enumeration.
`null` is a reading too: the device says that it has no value.
"""

from __future__ import annotations

from math import isinf, isnan
from typing import Final, TypeAlias

from domain.errors import InvalidInput, RejectedInput
from domain.instants import parse_rfc3339
from domain.ports import Sender
from domain.quality import Mark
from domain.readings import NO_SEQUENCE, pack_row
from domain.units import CANONICAL, Unit, accepted_units, find_unit
from gateways.checks import judge, time_detail, time_is_sane
from gateways.model_rules import KeyRule, rules_of

JsonValue: TypeAlias = float | bool | str | None
_NAN: Final = float("nan")
_CONVERTED: Final = int(Mark.CONVERTED)
_SHOWN_CHARS: Final = 40  # of what a sender wrote, repeated in an error's sentence


def parse_time(time: str | int, arrival_us: int) -> int:
    """UTC microseconds of an RFC 3339 text or a Unix time in milliseconds. Raises RejectedInput."""
    if isinstance(time, str):
        try:
            time_us = parse_rfc3339(time[:_SHOWN_CHARS])
        except InvalidInput as error:
            raise RejectedInput("malformed-value", str(error)) from None
    else:
        time_us = time * 1000
    if not time_is_sane(time_us, arrival_us):
        raise RejectedInput("implausible-time", time_detail(time_us))
    return time_us


class JsonRows:
    """Collects the rows of one message of one device; `packed` gives them as records."""

    __slots__ = ("_handle", "_keys", "_rows", "_rules", "arrival_us")

    def __init__(self, sender: Sender, arrival_us: int) -> None:
        if sender.model is None:
            raise RejectedInput("unknown-metric", "a gateway has no metrics of its own: it sends frames for its devices")
        self.arrival_us = arrival_us
        self._rules = rules_of(sender.model)
        self._keys = self._rules.keys
        self._handle = sender.handle
        self._rows: list[bytes] = []

    def add(
        self,
        key: str,
        value: JsonValue,
        time_us: int,
        unit: str | None = None,
        sequence: int = NO_SEQUENCE,
        quality: int = 0,
    ) -> None:
        """Check one value and keep it. `key` names the instance too (`spo2.1`); `quality` is what the sender says."""
        rule = self._keys.get(key)
        if rule is None:
            model_id = self._rules.model.id
            raise RejectedInput("unknown-metric", f"metric {key[:_SHOWN_CHARS]!r} is not one of thing model {model_id}")
        number = value if type(value) is float else _number(rule, value)
        foreign = None if unit is None or unit == rule.unit else _foreign_unit(rule, unit)
        raw_value, raw_unit = (number, foreign.code) if foreign else (_NAN, CANONICAL)
        if number in rule.sentinels:
            raw_value, number = number, _NAN
        elif foreign and not isnan(number):
            number, quality = _converted(rule, number, foreign), quality | _CONVERTED
        quality = judge(number, rule.metric_id, quality)
        handle = self._handle
        self._rows.append(
            pack_row(handle, rule.instance, rule.metric_id, time_us, number, quality, handle, sequence, raw_value, raw_unit)
        )

    def packed(self) -> bytes:
        """All rows as `domain.readings.ROW` records. Raises RejectedInput (`empty-message`) when there are none."""
        if not self._rows:
            raise RejectedInput("empty-message", "the message holds no reading: expected one or more")
        return self._rows[0] if len(self._rows) == 1 else b"".join(self._rows)


def _number(rule: KeyRule, value: JsonValue) -> float:
    if value is None:
        return _NAN
    if isinstance(value, str):
        code = rule.codes.get(value)
        if code is None:
            expected = f"one of {', '.join(rule.codes)}" if rule.codes else "a number"
            raise RejectedInput("malformed-value", f"{rule.metric} is the text {value[:_SHOWN_CHARS]!r}: expected {expected}")
        return code
    if isinstance(value, bool) and not rule.is_coded:
        raise RejectedInput("malformed-value", f"{rule.metric} is {str(value).lower()}: expected a number")
    return float(value)


def _foreign_unit(rule: KeyRule, unit: str) -> Unit | None:
    """The row that converts `unit`; None for another spelling of the metric's own."""
    row = find_unit(unit, rule.unit)
    if row is None:
        accepted = ", ".join(accepted_units(rule.unit)) or rule.unit
        raise RejectedInput("wrong-unit", f"unit {unit[:_SHOWN_CHARS]!r} does not fit {rule.metric}: expected {accepted}")
    return None if row.ucum == rule.unit else row


def _converted(rule: KeyRule, raw: float, unit: Unit) -> float:
    value = raw * unit.factor + unit.offset
    if isinf(value):
        raise RejectedInput("malformed-value", f"{rule.metric} is {raw:g} {unit.ucum}, too large to convert to {rule.unit}")
    return value
