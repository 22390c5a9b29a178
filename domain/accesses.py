"""What was asked of the platform and what was written, by whom, about whose records: as FHIR R4 AuditEvents.

After IHE BALP 1.1 (Basic Audit Log Patterns): the profile of the interaction, with patients where there are any. In it
are opaque keys only: a patient's key, never a name; a query without the values that could hold one. Clauses 6.1b, 9.3e.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

import msgspec

from domain.instants import to_rfc3339
from domain.permissions import Action, Purpose, View
from domain.principals import Kind, Principal

_TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
_BALP: Final = "https://profiles.ihe.net/ITI/BALP"
DICOM: Final = "http://dicom.nema.org/resources/ontology/DCM"
ROLES_OF_ENTITIES: Final = f"{_TERMINOLOGY}/object-role"
KINDS_OF_ENTITIES: Final = f"{_TERMINOLOGY}/audit-entity-type"
RECORD, QUERY = "4", "24"  # of object-role: a domain resource, a query
REASON: Final = "reason"
WARD: Final = "ward"
DETAIL: Final = "detail"  # of a write: what it says beyond its target, in JSON
OURS: Final = "urn:vitalgrid:"
PATIENT: Final = "Patient/"
PATIENT_KEY: Final = re.compile(r"(?<![0-9a-z])[0-9a-f]{32}(?![0-9a-z])")
POLICY_URI: Final = f"{OURS}policy:"  # before the id of a policy
encode_event: Final = msgspec.json.Encoder(order="deterministic").encode


class Interaction(StrEnum):
    """What a request is, in FHIR's words (http://hl7.org/fhir/restful-interaction)."""

    READ = "read"
    SEARCH = "search"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Outcome(StrEnum):
    """Of a request (http://hl7.org/fhir/R4/valueset-audit-event-outcome.html)."""

    SUCCESS = "0"
    REFUSED = "4"  # minor failure: denied, or asked wrongly
    FAILED = "8"  # serious failure: of the platform


@dataclass(frozen=True, slots=True)
class Access:
    """One request for protected records. `query` holds no value that could be a name or a text of somebody."""

    id: str
    at_us: int
    request_id: str
    principal: Principal
    action: Action
    interaction: Interaction
    route: str  # "GET /api/v1/patients/{patient_key}"
    path: str
    status: int
    query: str = ""
    session_id: str | None = None
    address: str | None = None
    place: str | None = None
    wards: tuple[str, ...] = ()  # whose records were shown besides: of a list, all of them
    patients: tuple[str, ...] = ()  # keys of those whose records were shown or changed
    purpose: Purpose | None = None
    policies: tuple[str, ...] = ()  # that allowed it
    view: View | None = None  # how patients appeared; of a list whether some could appear by name
    reason: str | None = None  # in the caller's words, sealed

    @property
    def target(self) -> str:
        """What was asked for, as a line about it says it (`domain.audit_reading.said`)."""
        return self.route if self.interaction is Interaction.SEARCH else self.path

    @property
    def outcome(self) -> Outcome:
        if self.status < 400:
            return Outcome.SUCCESS
        return Outcome.REFUSED if self.status < 500 else Outcome.FAILED


_PROFILES: Final[Mapping[Interaction, tuple[str, str]]] = {  # the profile's name, and DICOM's action code
    Interaction.READ: ("Read", "R"),
    Interaction.SEARCH: ("Query", "E"),
    Interaction.CREATE: ("Create", "C"),
    Interaction.UPDATE: ("Update", "U"),
    Interaction.DELETE: ("Delete", "D"),
}


def audit_event(access: Access, site: str) -> bytes:
    """The AuditEvent of `access`, recorded by the platform of region `site`: JSON, always the same bytes.

    A refused or failed request names no profile: BALP's are of what succeeded.
    """
    profile, action = _PROFILES[access.interaction]
    if access.patients:
        profile = f"Patient{profile}"
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": access.id,
        "type": coding(f"{_TERMINOLOGY}/audit-event-type", "rest"),
        "subtype": [
            coding("http://hl7.org/fhir/restful-interaction", access.interaction),
            coding(f"{OURS}action", access.action),
        ],
        "action": action,
        "recorded": to_rfc3339(access.at_us),
        "outcome": access.outcome,
        "outcomeDesc": f"{access.status}",
        "agent": _agents(access, site),
        "source": source_of(site),
        "entity": _entities(access),
    }
    if access.outcome is Outcome.SUCCESS:
        event["meta"] = {"profile": [f"{_BALP}/StructureDefinition/IHE.BasicAudit.{profile}"]}
    if access.purpose is not None:
        event["purposeOfEvent"] = [{"coding": [coding(f"{_TERMINOLOGY}/v3-ActReason", access.purpose)]}]
    return encode_event(event)


# of a write by how its action begins: what DICOM calls it (PS3.16 CID 400 and 401)
_KINDS_OF_WRITES: Final[Mapping[str, tuple[str, str | None]]] = {
    "session.begin": ("110114", "110122"),  # user authentication: login
    "session.end": ("110114", "110123"),  # user authentication: logout
    "user.lock": ("110113", "110135"),  # security alert: object security attributes changed
    "user.": ("110113", "110137"),  # security alert: user security attributes changed
    "grant.": ("110113", "110137"),
    **dict.fromkeys(("token.", "bus-certificate."), ("110113", "110137")),
    "key.": ("110113", "110129"),  # security alert: security configuration
    "export.": ("110106", None),
    "patient.": ("110110", None),  # patient record
}
_OTHER_WRITE: Final = ("110100", None)  # application activity
_ACTIONS: Final = (
    ("C", (".create", ".admit", ".register", ".start", ".make")),
    ("D", (".remove", ".revoke", ".retire", ".destroy", ".destroyed")),
)


def write_event(row: Mapping[str, Any], site: str) -> bytes:
    """The AuditEvent of a row of the write log (`id`, `at_us`, `who`, `action`, `target`, `reason`, `detail`).

    With `by_kind` and `by_id`, where it is known whose name `who` is.

    Always the same bytes. Raises ValueError or RecursionError for what JSON cannot hold.
    """
    action, target = str(row["action"]), str(row["target"])
    kind, sub = next((kinds for begin, kinds in _KINDS_OF_WRITES.items() if action.startswith(begin)), _OTHER_WRITE)
    done = next((letter for letter, ends in _ACTIONS if action.endswith(ends)), "U")
    subtypes = [coding(f"{OURS}write", action)] + ([] if sub is None else [coding(DICOM, sub)])
    details = [(REASON, row["reason"]), (DETAIL, None if row["detail"] is None else encode_event(row["detail"]).decode())]
    written = {
        "what": {"identifier": {"value": target}},
        "type": coding(KINDS_OF_ENTITIES, "2"),
        "role": coding(ROLES_OF_ENTITIES, RECORD),
        "detail": [{"type": name, "valueString": text} for name, text in details if text],
    }
    if not written["detail"]:
        del written["detail"]
    event = {
        "resourceType": "AuditEvent",
        "id": f"w-{row['id']}",
        "type": coding(DICOM, kind),
        "subtype": subtypes,
        "action": "E" if kind == "110114" else done,
        "recorded": to_rfc3339(row["at_us"]),
        "outcome": Outcome.SUCCESS,
        "agent": [{"who": _writer(row), "requestor": True}],
        "source": source_of(site),
        "entity": [*_patients(sorted(set(PATIENT_KEY.findall(target)))), written],
    }
    return encode_event(event)


def _writer(row: Mapping[str, Any]) -> dict[str, Any]:
    """Who wrote, in the form of an access' agent: the write and its access name one principal alike."""
    if row.get("by_kind") is None:
        return {"display": row["who"]}
    return {"identifier": {"system": f"{OURS}{row['by_kind']}", "value": row["by_id"]}, "display": row["who"]}


def _agents(access: Access, site: str) -> list[dict[str, Any]]:
    """The client, the server, and who was signed in. The client is the source, but of what it reads the destination."""
    is_read = access.interaction is Interaction.READ
    client, server = ("110152", "110153") if is_read else ("110153", "110152")
    came_from = {"network": {"address": access.address, "type": "2"}} if access.address else {}
    who: dict[str, Any] = {
        "type": {"coding": [coding(f"{_TERMINOLOGY}/v3-ParticipationType", "IRCP")]},
        "who": {
            "identifier": {"system": f"urn:vitalgrid:{access.principal.kind}", "value": access.principal.id},
            "display": access.principal.in_log,
        },
        "requestor": True,
    }
    if access.session_id is not None:
        who["altId"] = access.session_id
    if access.policies:
        who["policy"] = [f"{POLICY_URI}{quote(policy)}" for policy in access.policies]
    if access.principal.kind is Kind.SERVICE:
        del who["type"]  # nobody reads there
    return [
        {
            "type": {"coding": [coding(DICOM, client)]},
            "who": {"display": access.address or "unknown"},
            "requestor": False,
            **came_from,
        },
        {"type": {"coding": [coding(DICOM, server)]}, "who": {"display": f"vitalgrid {site}"}, "requestor": False},
        who,
    ]


def _entities(access: Access) -> list[dict[str, Any]]:
    """Whose records, which ones, and the request by its id."""
    is_search = access.interaction is Interaction.SEARCH
    asked: dict[str, Any] = {
        "type": coding(KINDS_OF_ENTITIES, "2"),  # a system object
        "role": coding(ROLES_OF_ENTITIES, QUERY if is_search else RECORD),
        "description": access.route,
    }
    details = [("place", access.place), ("view", access.view), (REASON, access.reason), *((WARD, one) for one in access.wards)]
    if any(text for _, text in details):
        asked["detail"] = [{"type": name, "valueString": text} for name, text in details if text]
    if is_search:
        asked["query"] = base64.b64encode(f"{access.path}?{access.query}".rstrip("?").encode()).decode()
    else:
        asked["what"] = {"identifier": {"value": access.path}}
    request = {
        "what": {"identifier": {"value": access.request_id}},
        "type": coding(f"{_BALP}/CodeSystem/BasicAuditEntityType", "XrequestId"),
    }
    return [*_patients(access.patients), asked, request]


def _patients(keys: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {
            "what": {"reference": f"{PATIENT}{key}"},
            "type": coding(KINDS_OF_ENTITIES, "1"),  # a person
            "role": coding(ROLES_OF_ENTITIES, "1"),  # the patient
        }
        for key in keys
    ]


def source_of(site: str) -> dict[str, Any]:
    """Who recorded an event: the platform of region `site`."""
    return {
        "site": site,
        "observer": {"display": "vitalgrid"},
        "type": [coding(f"{_TERMINOLOGY}/security-source-type", "4")],  # an application server
    }


def coding(system: str, code: str) -> dict[str, str]:
    """A code, and whose it is, as FHIR writes them."""
    return {"system": system, "code": str(code)}
