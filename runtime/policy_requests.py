"""What Cedar is asked, in its own terms: the one place where its requests are built. Words: `policies/schema.cedarschema`.

Cedar does not check the types of a request against the schema: a resource of a wrong type would be judged all the same. So
requests are made of typed values only, here, and tests hold what is made against the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import msgspec

from domain.permissions import Action, Located, Purpose
from domain.principals import Caller, Factor, Grant, Must, Role

ANYBODYS: Final = frozenset({Action.SELF, Action.CATALOGUE_READ})  # asked of the caller as such: no grant is needed
IDENTIFY: Final = "patient.identify"  # asked beside an action: whether patients appear by name in its answer
UNMASK: Final = "patient.unmask"  # the same, of a caller who asks for it and says why
POWERS: Final = frozenset({Role.SYSTEM_ADMINISTRATOR, Role.SECURITY_ADMINISTRATOR, Role.AUDIT_ADMINISTRATOR})
USUAL_PURPOSE: Final[Mapping[Role, Purpose]] = {
    **dict.fromkeys(Role, Purpose.HOPERAT),
    Role.HEALTH_COMMISSION: Purpose.PUBHLTH,
    Role.DEPARTMENT_HEAD: Purpose.TREAT,
    Role.DOCTOR: Purpose.TREAT,
    Role.NURSE: Purpose.TREAT,
    Role.STATION: Purpose.TREAT,
    Role.INTEGRATION: Purpose.TREAT,
    Role.PATIENT: Purpose.PATRQT,
    Role.DATA_SCIENTIST: Purpose.HRESCH,
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a caller counts. Nurses of one ward who treat the same patients stand alike."""

    grants: tuple[Grant, ...]  # those that have not ended
    treats: frozenset[str] = frozenset()
    patient_key: str | None = None
    factors: frozenset[Factor] = frozenset()
    must: Must | None = None

    @classmethod
    def of(cls, caller: Caller, now_us: int) -> Self:
        live = [grant for grant in caller.grants if grant.until_us is None or now_us < grant.until_us]
        grants = tuple(replace(grant, until_us=None) for grant in live)
        return cls(grants, caller.treats, caller.patient_key, caller.factors, caller.must)

    @property
    def powers(self) -> int:
        """How many of the three administrators' powers are held together."""
        return len({grant.role for grant in self.grants} & POWERS)


class Asked(NamedTuple):
    """One request: by which of the grants (None: by the caller as such), what, about which of the records."""

    grant: int | None
    action: str
    record: int


class Requests:
    """Builds what Cedar is asked for one caller and purpose; without a purpose each grant's role has its own usual one."""

    def __init__(self, standing: Standing, purpose: Purpose | None) -> None:
        self._standing = standing
        owes = standing.must is not None
        self._context_of_caller = _json({"owes": owes})
        factors = [_value("Factor", factor) for factor in sorted(standing.factors)]
        shared = {"factors": factors, "powers": standing.powers, "owes": owes}
        self._contexts = [
            _json({"purpose": _value("Purpose", purpose or USUAL_PURPOSE[grant.role]), **shared}) for grant in standing.grants
        ]

    def of(self, asked: Asked) -> dict[str, Any]:
        """The request as Cedar takes it."""
        return {
            "principal": _CALLER if asked.grant is None else _uid("Grant", str(asked.grant)),
            "action": _uid("Action", asked.action),
            "resource": _uid("Record", str(asked.record)),
            "context": self._context_of_caller if asked.grant is None else self._contexts[asked.grant],
        }

    def entities(self, records: Sequence[Located]) -> str:
        """The grants, and the records with the places they lie in, as JSON."""
        grants = [_grant(self._standing, number, grant) for number, grant in enumerate(self._standing.grants)]
        return _json([*grants, *(_record(number, record) for number, record in enumerate(records))])


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _value(kind: str, name: str) -> dict[str, Any]:
    """An entity as the value of an attribute."""
    return {"__entity": _uid(kind, name)}


def _grant(standing: Standing, number: int, grant: Grant) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "at": _value("Place", str(grant.place)),
        "relation": _value("Relation", grant.relation),
        "treats": sorted(standing.treats),
    }
    if standing.patient_key is not None:
        attributes["patient"] = standing.patient_key
    return {"uid": _uid("Grant", str(number)), "attrs": attributes, "parents": [_uid("Role", grant.role)]}


def _record(number: int, record: Located) -> dict[str, Any]:
    attributes: dict[str, Any] = {} if record.level is None else {"level": int(record.level)}
    if record.patient_key is not None:
        attributes["patient"] = record.patient_key
    parents = [_uid("Place", str(place)) for place in record.place.chain()]
    return {"uid": _uid("Record", str(number)), "attrs": attributes, "parents": parents}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


_CALLER: Final = _uid("Caller", "caller")
