"""Lists of devices as people send them (CSV or JSON): rows that can be read become `NewDevice`, the others a report."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import msgspec

from domain.errors import InvalidInput
from runtime.sql.devices import NewDevice, RowReport

MAX_ROWS: Final = 200_000
_COLUMNS: Final = ("device_id", "model", "ward_id", "bed_id", "gateway_id", "with_token", "attributes")
_YES: Final = frozenset({"true", "yes", "1", "y", "是"})
_NO: Final = frozenset({"", "false", "no", "0", "n", "否"})

ReadRow = NewDevice | RowReport


def read_device_list(body: bytes, media_type: str) -> list[ReadRow]:
    """Rows in order. Raises InvalidInput when the list as a whole cannot be read."""
    rows = _csv_rows(body) if "csv" in media_type else _json_rows(body)
    read = [_read(number, row) for number, row in enumerate(rows, start=1)]
    if not read or len(read) > MAX_ROWS:
        raise InvalidInput(f"the list holds {len(read)} devices: expected 1 to {MAX_ROWS}")
    return read


def import_list(rows: list[ReadRow], register: Callable[[list[NewDevice]], list[RowReport]]) -> list[RowReport]:
    """Hand the readable rows to `register`; returns its reports and the unreadable rows', numbered as in the list."""
    good = [(number, row) for number, row in enumerate(rows, start=1) if isinstance(row, NewDevice)]
    made = register([row for _, row in good]) if good else []
    numbered = [replace(report, row=number) for (number, _), report in zip(good, made, strict=True)]
    return sorted([*numbered, *(row for row in rows if isinstance(row, RowReport))], key=lambda report: report.row)


def _csv_rows(body: bytes) -> Iterable[dict[str, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(body.decode("utf-8-sig")), strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"the list is not CSV in UTF-8: {error}") from None
    unknown, missing = sorted(set(columns) - set(_COLUMNS[:-1])), sorted({"device_id", "model"} - set(columns))
    if unknown or missing:
        raise InvalidInput(f"CSV columns {unknown} are unknown and {missing} are missing: expected {', '.join(_COLUMNS[:-1])}")
    reader.fieldnames = columns
    try:
        return list(reader)
    except csv.Error as error:
        raise InvalidInput(f"the list is not CSV: line {reader.line_num}: {error}") from None


def _json_rows(body: bytes) -> Iterable[dict[str, Any]]:
    try:
        return msgspec.json.decode(body, type=list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"the list is not a JSON array of objects: {error}") from None


def _read(number: int, row: dict[str, Any]) -> ReadRow:
    device_id = str(row.get("device_id") or "")
    unknown = sorted(str(name) for name in set(row) - set(_COLUMNS))
    if unknown:
        return RowReport(number, device_id, error=f"fields {unknown} are unknown: expected {', '.join(_COLUMNS)}")
    texts: dict[str, str | None] = {name: row.get(name) for name in _COLUMNS[:5]}
    wrong = [name for name, value in texts.items() if value is not None and not isinstance(value, str)]
    if wrong or not isinstance(row.get("attributes", {}), dict):
        return RowReport(number, device_id, error=f"fields {wrong or ['attributes']} are of the wrong type")
    device_id, model, *others = [(value or "").strip() for value in texts.values()]
    if not device_id or not model:
        return RowReport(number, device_id, error="device_id and model are required")
    with_token = _yes_or_no(row.get("with_token"))
    if with_token is None:
        return RowReport(number, device_id, error=f"with_token is {row['with_token']!r}: expected true or false")
    ward_id, bed_id, gateway_id = (value or None for value in others)
    return NewDevice(device_id, model, ward_id, bed_id, gateway_id, with_token, row.get("attributes") or {})


def _yes_or_no(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    text = str(value or "").strip().lower()
    return True if text in _YES else False if text in _NO else None
