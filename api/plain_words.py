"""What may be kept of a request's path and query: no word that could be a name, or a text of somebody. Clause 9.3e.

A value stays when it has a form that no name has: a key, a number, a time, a hospital of this region, a word of a closed
list. A word of people's own (a ward's, a device's) stays when the request succeeded, because then it was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from api.answers.formats import Format
from domain.alarms import AlarmState, Priority
from domain.exposure import BY_CODE as FINDINGS_BY_CODE
from domain.fleet_manifest import Tier
from domain.messages import SecurityKind
from domain.metrics import BY_CODE, Group
from domain.risks import RiskState

LEFT_OUT: Final = "…"
_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_OPAQUE: Final = re.compile(r"[0-9]{1,20}|[0-9a-f-]{16,80}")  # numbers, keys, ids that the platform makes
_PATIENT: Final = re.compile(r"[0-9a-f]{32}")
_NUMBERS: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?(,[0-9]{1,20})*")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[ +-]\d\d:\d\d)")
_TILE: Final = re.compile(r"(entries|data|[0-9]{1,2}|x?[0-9]{3}(\.p)?)(/(x?[0-9]{3}(\.p)?|[0-9]{1,3})){1,10}")
_TRACE: Final = re.compile(r"(reject|[0-9]{1,4}|at-[0-9]{1,10}-[0-9]{1,18})-[0-9]{1,18}")
_HOSPITAL: Final = re.compile(r"(?P<region>[a-z0-9][a-z0-9_-]{0,31})\.[a-z0-9][a-z0-9_-]{0,31}")
_ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,63}")  # of staff, programs and hosts
_WORD: Final = re.compile(r"[A-Za-z0-9._:/+-]{1,100}")  # an id of somebody's own making


def _one_of(words: Any) -> Callable[[str], bool]:
    known = frozenset(map(str, words))
    return known.__contains__


def _has(form: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda value: form.fullmatch(value) is not None


_QUERY: Final[Mapping[str, Callable[[str], bool]]] = {
    **dict.fromkeys(("handle", "limit", "bucket_s", "above", "below", "to", "min_score"), _has(_NUMBERS)),
    **dict.fromkeys(("open", "open_now", "live", "present", "descending", "dry_run"), _one_of(("true", "false", "1", "0"))),
    **dict.fromkeys(("from", "until", "since", "known_at"), _has(_TIME)),
    "patient": _has(_PATIENT),
    "with": _one_of(("trace",)),
    "metric": _one_of(BY_CODE),
    "state": _one_of(AlarmState),
    "risk_state": _one_of(RiskState),
    "priority": _one_of(priority.value for priority in Priority),
    "format": _one_of(Format),
    "tier": _one_of(Tier),
    "group": _one_of(Group),
    "kind": _one_of(SecurityKind),
    "finding": _one_of(FINDINGS_BY_CODE),
    "status": _one_of(("in-use", "retired")),
}
_PATH: Final[Mapping[str, Callable[[str], bool]]] = {
    "patient_key": _has(_PATIENT),
    "name": _has(_ACCOUNT),
    "path": _has(_TILE),
    "receipt": _has(_TRACE),
    **dict.fromkeys(("metric", "code"), _one_of(BY_CODE)),
}
_FOUND: Final = frozenset({"ward", "device", "rule"})  # of a query: ids, once they were found
_EMPTIED: Final = frozenset(  # parameters of which the name alone stays
    {"q", "cursor", "tz", "principal", "user", "by", "after", "bed", "door", "model", "reason", "confirmed_by"}
)
PARAMETERS: Final = frozenset(_QUERY) | _FOUND | _EMPTIED | {"hospital"}


def plain_query(query: bytes, region_id: str, *, is_found: bool) -> str:
    """A query with the values that are no words of people; of all others the names of the parameters alone.

    A name that no parameter of ours has is left out, whatever it says.
    """
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if name in PARAMETERS]
    return urlencode(
        [(name, value if _stays(_QUERY, _FOUND, name, value, region_id, is_found) else "") for name, value in kept], safe=":/,"
    )


def plain_path(template: str | None, values: Mapping[str, Any], region_id: str, *, is_found: bool) -> str:
    """The path of a request by its route's template; nothing of one that no route has."""
    if template is None:
        return LEFT_OUT
    names = frozenset(values)

    def filled(parameter: re.Match[str]) -> str:
        name = parameter[1]
        value = str(values.get(name, ""))
        stays = _stays(_PATH, names, name, value, region_id, is_found)
        return value if stays or (name not in _PATH and _OPAQUE.fullmatch(value)) else LEFT_OUT

    return _PARAMETER.sub(filled, template)


def _stays(
    forms: Mapping[str, Callable[[str], bool]], ids: frozenset[str], name: str, value: str, region_id: str, is_found: bool
) -> bool:
    if name in ("hospital", "hospital_id"):
        hospital = _HOSPITAL.fullmatch(value)
        return hospital is not None and hospital["region"] == region_id
    if name in forms:
        return forms[name](value)
    return is_found and name in ids and _WORD.fullmatch(value) is not None
