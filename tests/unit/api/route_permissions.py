"""What each route ought to need, written by hand: which action, about which records. A second opinion on the signatures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from domain.permissions import Action, Level, Located
from domain.principals import Place
from tests.unit.api.two_hospitals import Ward

REGION: Final = Place("sz")
OWN: Final = "own"  # stands for the key of a caller who is a patient
_OWN_WARD: Final = Place("sz", "futian", "sz.h001", "icu")  # of the callers with the smallest place
_RECORDING: Final[dict[str, Any]] = {"duration_s": 60}
Need = tuple[Action, Located]


@dataclass(frozen=True)
class Route:
    """`where`: whether it depends on the ward that is asked about; `is_hidden`: what is out of reach is unknown."""

    action: Action
    records: Callable[[Ward], list[Located]]
    is_placed: bool = True
    is_hidden: bool = False
    query: Callable[[Ward], dict[str, Any]] | None = None
    body: Callable[[Ward], Any] | None = None
    also: Action | None = None  # needed of the same records too
    is_list: bool = False  # answered to whom one of the records is permitted, with those that are


def _region(action: str, level: int) -> Route:
    return Route(Action(action), lambda _: [Located(REGION, Level(level))], is_placed=False)


def _hospital(action: str, level: int = 2, **more: Any) -> Route:
    return Route(Action(action), lambda w: [Located(w.hospital, Level(level))], **more)


def _ward(action: str, level: int, **more: Any) -> Route:
    return Route(Action(action), lambda w: [Located(w.place, Level(level))], **more)


def _patient(action: str, *, is_hidden: bool = True, **more: Any) -> Route:
    return Route(Action(action), lambda w: [w.of_patient()], is_hidden=is_hidden, **more)


def _list(action: str, places: Callable[[Ward], list[Place]], **more: Any) -> Route:
    """A list of what lies at these places and in them."""

    def records(w: Ward) -> list[Located]:
        return [Located(place, level, key) for place in places(w) for level in Level for key in (None, w.patient_key, OWN)]

    return Route(Action(action), records, is_list=True, **more)


def _region_list(action: str) -> Route:
    return _list(action, lambda w: [w.hospital, w.place, _OWN_WARD, REGION], is_placed=False)


def _hospital_list(action: str, **more: Any) -> Route:
    own = [_OWN_WARD]
    return _list(action, lambda w: [w.hospital, w.place, *(own if w.hospital_id == _OWN_WARD.hospital_id else [])], **more)


def _ward_list(action: str, **more: Any) -> Route:
    return _list(action, lambda w: [w.place], **more)


def _device_readings(action: Action = Action.READING_READ, **more: Any) -> Route:
    """What a device measured of its patient, and of nobody."""
    return Route(action, lambda w: [Located(w.place, Level.RESTRICTED), w.of_patient()], is_list=True, **more)


def _in_hospital(w: Ward) -> dict[str, Any]:
    return {"hospital": w.hospital_id}


def _in_ward(w: Ward) -> dict[str, Any]:
    return {"hospital": w.hospital_id, "ward": w.ward_id}


def _by_patient(w: Ward) -> dict[str, Any]:
    return {"patient": w.patient_key}


def _by_device(w: Ward) -> dict[str, Any]:
    return {"device": f"{w.hospital_id}/{w.device_id}"}


def _device_body(w: Ward) -> dict[str, Any]:
    return {"hospital_id": w.hospital_id, "device_id": "new", "model": "monitor", "ward_id": w.ward_id}


def _rotation_body(w: Ward) -> dict[str, Any]:
    return {"hospital_id": w.hospital_id, "device_ids": [w.device_id]}


def _span_body(w: Ward) -> dict[str, Any]:
    return {"hospital_id": w.hospital_id, "device_id": w.device_id, "patient_key": w.patient_key}


def _window_body(w: Ward) -> dict[str, Any]:
    return {"hospital_id": w.hospital_id, "ward_id": w.ward_id, "until": "2030-01-01T00:00:00Z"}


def _patient_body(w: Ward) -> dict[str, Any]:
    return {"hospital_id": w.hospital_id, "ward_id": w.ward_id, "ref": "new"}


def _grant_body(w: Ward) -> dict[str, Any]:
    return {"role": "nurse", "place": f"{w.hospital_id}/{w.ward_id}"}


def _token_body(w: Ward) -> dict[str, Any]:
    return _grant_body(w) | {"name": "new", "role": "station"}


def _fleet_body(w: Ward) -> dict[str, Any]:
    return {"hospitals": [{"hospital_id": w.hospital_id, "name": "n", "tier": "primary", "beds": 1}]}


def _fleet_again_body(w: Ward) -> dict[str, Any]:
    """New tokens for a device that exists."""
    columns = {
        "device_ids": [w.device_id], "models": ["monitor"], "ward_ids": [w.ward_id], "bed_ids": [None],
        "gateway_ids": [None], "with_token": [True],
    }  # fmt: skip
    return {"hospitals": [{"hospital_id": w.hospital_id, "name": "n", "tier": "primary", "beds": 1, "devices": columns}]}


def _associate(w: Ward) -> list[Located]:
    return [Located(w.place, Level.IDENTIFYING), w.of_patient()]


ROUTES: Final[dict[str, list[Route]]] = {
    "GET /hospitals": [_region_list("place.read")],
    "POST /hospitals": [_region("hospital.manage", 2)],
    "GET /hospitals/{hospital_id}": [_hospital("place.read")],
    "PATCH /hospitals/{hospital_id}": [_hospital("hospital.manage")],
    "POST /hospitals/{hospital_id}/hand-over": [_hospital("hospital.manage")],
    "GET /hospitals/{hospital_id}/hand-over": [_hospital("place.read")],
    "PUT /hospitals/{hospital_id}/placement": [_hospital("hospital.manage")],
    "GET /hospitals/{hospital_id}/placement": [_hospital("place.read")],
    "GET /hospitals/{hospital_id}/wards": [_hospital_list("place.read")],
    "POST /hospitals/{hospital_id}/wards": [_hospital("place.manage")],
    "PATCH /hospitals/{hospital_id}/wards/{ward_id}": [_ward("place.manage", 2)],
    "DELETE /hospitals/{hospital_id}/wards/{ward_id}": [_hospital("place.manage")],
    "GET /hospitals/{hospital_id}/beds": [
        _hospital_list("place.read"), _hospital_list("place.read", query=lambda w: {"ward": w.ward_id}),
    ],
    "POST /hospitals/{hospital_id}/beds": [_ward("place.manage", 2, body=lambda w: {"id": "new", "ward_id": w.ward_id})],
    "PATCH /hospitals/{hospital_id}/beds/{bed_id}": [_ward("place.manage", 2, body=lambda w: {"ward_id": w.ward_id})],
    "DELETE /hospitals/{hospital_id}/beds/{bed_id}": [_ward("place.manage", 2)],
    "GET /devices": [
        _region_list("device.read"), _hospital_list("device.read", query=_in_hospital),
        _ward_list("device.read", query=_in_ward),
    ],
    "POST /devices": [_ward("device.manage", 2, body=_device_body)],
    "POST /devices/import": [_hospital("device.manage", query=_in_hospital)],
    "GET /devices/{hospital_id}/{device_id}": [_ward("device.read", 2)],
    "PATCH /devices/{hospital_id}/{device_id}": [_ward("device.manage", 2)],
    "GET /devices/{hospital_id}/{device_id}/state": [_patient("reading.read", is_hidden=False)],
    "POST /devices/{hospital_id}/{device_id}/retire": [_ward("device.manage", 2)],
    "POST /devices/{hospital_id}/{device_id}/token": [_ward("device.credential", 2)],
    "POST /devices/{hospital_id}/{device_id}/isolation": [_ward("device.isolate", 2)],
    "POST /devices/{hospital_id}/{device_id}/isolation/release": [_ward("device.isolate", 2)],
    "GET /devices/{hospital_id}/{device_id}/isolations": [_ward("exposure.read", 2)],
    "GET /isolations": [
        _region_list("exposure.read"), _hospital_list("exposure.read", query=_in_hospital),
        _ward_list("exposure.read", query=_in_ward),
    ],
    "GET /security/inventory": [
        _region_list("exposure.read"), _hospital_list("exposure.read", query=_in_hospital),
        _ward_list("exposure.read", query=_in_ward),
    ],
    "GET /security/inventory/{hospital_id}/{device_id}": [_ward("exposure.read", 2)],
    "GET /security/blocklist": [
        _region_list("exposure.read"), _hospital_list("exposure.read", query=_in_hospital),
        _ward_list("exposure.read", query=_in_ward),
    ],
    "POST /security/credentials/rotation": [_ward("device.credential", 2, body=_rotation_body)],
    "POST /devices/{hospital_id}/{device_id}/claim-code": [_ward("device.credential", 2)],
    "GET /devices/{hospital_id}/{device_id}/credentials": [_ward("device.credential", 2)],
    "DELETE /devices/{hospital_id}/{device_id}/credentials/{credential_id}": [_ward("device.credential", 2)],
    "POST /devices/claim-codes": [_hospital("device.credential", query=_in_hospital)],
    "POST /devices/certificates": [_hospital("device.credential", query=_in_hospital)],
    "POST /fleets": [
        _hospital("fleet.register", 4, body=_fleet_body),
        _hospital("fleet.register", 4, body=_fleet_again_body, also=Action.DEVICE_CREDENTIAL),
    ],
    "GET /maintenance-windows": [_hospital_list("maintenance.read", query=_in_hospital)],
    "POST /maintenance-windows": [_ward("maintenance.manage", 2, body=_window_body)],
    "POST /maintenance-windows/{window_id}/end": [_ward("maintenance.manage", 2, is_hidden=True)],
    "GET /patients": [
        _region_list("patient.read"), _hospital_list("patient.read", query=_in_hospital),
        _ward_list("patient.read", query=_in_ward),
    ],
    "POST /patients": [_ward("patient.manage", 4, body=_patient_body)],
    "GET /patients/{patient_key}": [_patient("patient.read")],
    "PATCH /patients/{patient_key}": [_patient("patient.manage")],
    "GET /patients/{patient_key}/state": [_patient("reading.read")],
    "POST /patients/{patient_key}/discharge": [_patient("patient.manage")],
    "POST /patients/{patient_key}/observations": [_patient("observation.enter")],
    "GET /patients/{patient_key}/presets": [_patient("preset.read")],
    "PUT /patients/{patient_key}/presets/{metric}": [_patient("preset.set")],
    "DELETE /patients/{patient_key}/presets/{metric}": [_patient("preset.set")],
    "GET /patients/{patient_key}/care-team": [_patient("patient.read")],
    "POST /patients/{patient_key}/care-team": [_patient("patient.manage")],
    "DELETE /patients/{patient_key}/care-team/{name}": [_patient("patient.manage")],
    "GET /retention": [_region("risk.read", 2)],
    "GET /holds": [_region_list("patient.erase")],
    "POST /holds": [_patient("patient.erase", body=lambda w: {"kind": "patient", "target": w.patient_key})],
    "DELETE /holds/{hold_id}": [_hospital("patient.erase", 4, is_hidden=True)],
    "POST /patients/{patient_key}/erasure": [_patient("patient.erase")],
    "GET /patients/{patient_key}/erasure": [_patient("patient.erase")],
    "DELETE /patients/{patient_key}/erasure": [_patient("patient.erase")],
    "GET /patients/{patient_key}/erasure/record": [_patient("patient.erase")],
    "GET /patients/{patient_key}/erasure/certificate": [_patient("patient.erase")],
    "GET /associations": [
        _patient("association.read", query=_by_patient), _ward_list("association.read", query=_by_device),
    ],
    "POST /associations": [Route(Action.ASSOCIATION_MANAGE, _associate, body=_span_body)],
    "POST /associations/{association_id}/end": [_patient("association.manage")],
    "POST /associations/{association_id}/correct": [_patient("association.manage")],
    "GET /metrics-table": [_region("catalogue.read", 1)],
    "GET /metrics-table/{code}": [_region("catalogue.read", 1)],
    "GET /thing-models": [_region("catalogue.read", 1)],
    "GET /thing-models/{model_id}": [_region("catalogue.read", 1)],
    "GET /thing-models/{model_id}/thing-description": [_region("catalogue.read", 1)],
    "GET /readings": [
        _region_list("reading.read"), _ward_list("reading.read", query=_in_ward), _patient("reading.read", query=_by_patient),
    ],
    "GET /readings/by-patient": [_device_readings(query=_by_device)],
    "GET /readings/latest": [_device_readings(is_hidden=True, query=lambda w: {"handle": w.handle})],
    "GET /readings/buckets": [_patient("reading.read", query=_by_patient)],
    "GET /readings/search": [
        _hospital_list("reading.read", query=lambda w: _in_hospital(w) | {"q": "mon"}),
        _ward_list("reading.read", query=lambda w: _in_ward(w) | {"above": 1}),
    ],
    "POST /recordings": [
        Route(Action.READING_READ, lambda _: [Located(REGION, Level.IDENTIFYING)], is_placed=False, body=lambda _: _RECORDING),
        _hospital("reading.read", 4, body=lambda w: _RECORDING | {"hospital_id": w.hospital_id}),
    ],
    "GET /recordings/left-out": [_region("reading.read", 4), _hospital("reading.read", 4, query=_in_hospital)],
    "GET /aggregates/fleet": [_region_list("statistics.read"), _hospital_list("statistics.read", query=_in_hospital)],
    "GET /freshness": [_hospital_list("device.read", query=_in_hospital)],
    "GET /alarms": [
        _region_list("alarm.read"), _ward_list("alarm.read", query=_in_ward),
    ],
    "GET /alarms/counts": [_hospital_list("statistics.read", query=_in_hospital)],
    "GET /alarms/episodes": [_ward_list("alarm.read", query=_in_ward)],
    "GET /alarms/{alarm_id}": [_patient("alarm.read")],
    "GET /alarms/{alarm_id}/knowledge": [_patient("alarm.read")],
    "POST /alarms/{alarm_id}/acknowledge": [_patient("alarm.answer")],
    "POST /alarms/{alarm_id}/pause-audio": [_patient("alarm.answer")],
    "GET /live/alarms": [_region_list("alarm.read"), _hospital_list("alarm.read", query=_in_hospital)],
    "GET /live/readings": [_hospital_list("reading.read", query=_in_hospital), _ward_list("reading.read", query=_in_ward)],
    "GET /rejects": [_hospital_list("reject.read", query=_in_hospital)],
    "GET /rejects/{sequence}": [_hospital("reject.read", 3, is_hidden=True)],
    "POST /rejects/{sequence}/resubmit": [_hospital("reject.resubmit", 3, is_hidden=True)],
    "GET /security/events": [
        _region_list("exposure.read"), _hospital_list("exposure.read", query=_in_hospital),
        _ward_list("exposure.read", query=_by_device),
    ],
    "GET /scenarios": [_region("scenario.read", 2)],
    "POST /scenarios/{name}/runs": [_region("scenario.run", 2)],
    "GET /scenario-runs": [_region("scenario.read", 2)],
    "GET /scenario-runs/{run_id}": [_region("scenario.read", 2)],
    "GET /scenario-runs/{run_id}/report": [_region("scenario.read", 2)],
    "POST /tokens": [_ward("token.manage", 3, body=_token_body, also=Action.GRANT_MANAGE)],
    "GET /tokens": [_region_list("token.read")],
    "DELETE /tokens/{name}": [_ward("token.manage", 3)],
    "GET /tokens/{name}/bus-certificates": [_ward("token.read", 3)],
    "POST /tokens/{name}/bus-certificates": [_ward("token.manage", 3)],
    "DELETE /tokens/{name}/bus-certificates/{certificate_id}": [_ward("token.manage", 3)],
    "GET /writes": [_region("audit.read", 3)],
    "GET /exports": [_region("audit.read", 4)],
    "GET /audit/events": [_region("audit.read", 4)],
    "GET /traces": [_device_readings(Action.MESSAGE_TRACE, query=_by_device)],
    "GET /traces/{receipt}": [_hospital("message.trace", 3, is_hidden=True)],
    "GET /patients/{patient_key}/accesses": [_patient("audit.read")],
    "GET /log/checkpoint": [_region("log.read", 1)],
    "GET /log/tile/{path}": [_region("log.read", 1)],
    "GET /log/entries/{index}": [_region("log.read", 1)],
    "GET /log/entries/{index}/proof": [_region("log.read", 1)],
    "GET /log/consistency": [_region("log.read", 1)],
    "GET /log/keys": [_region("log.read", 1)],
    "GET /log/verifier": [_region("log.read", 1)],
    "POST /users": [
        _ward("user.manage", 3, body=lambda w: {"name": "new", "grants": [_grant_body(w)]}, also=Action.GRANT_MANAGE),
    ],
    "GET /users": [_region_list("user.read")],
    "GET /users/{name}": [_ward("user.read", 3)],
    "POST /users/{name}/reset": [_ward("user.manage", 3)],
    "POST /users/{name}/unlock": [_ward("user.manage", 3)],
    "POST /users/{name}/disable": [_ward("user.manage", 3)],
    "POST /users/{name}/enable": [_ward("user.manage", 3)],
    "POST /users/{name}/second-factor/reset": [_ward("user.manage", 3)],
    "GET /sessions": [_region_list("user.read")],
    "DELETE /sessions/{session_id}": [_ward("user.manage", 3, is_hidden=True)],
    "GET /risks": [_region("risk.read", 3)],
    "POST /risks": [_region("risk.manage", 3)],
    "POST /risks/look": [_region("risk.manage", 3)],
    "GET /risks/{risk_id}": [_region("risk.read", 3)],
    "PATCH /risks/{risk_id}": [_region("risk.manage", 3)],
    "GET /users/{name}/grants": [_ward("user.read", 3)],
    "POST /users/{name}/grants": [_ward("grant.manage", 3, body=_grant_body)],
    "DELETE /users/{name}/grants/{grant_id}": [_ward("grant.manage", 3, is_hidden=True)],
    "GET /users/{name}/permissions": [_ward("user.read", 3)],
    "GET /me": [_region("self", 3)],
    "GET /me/permissions": [_region("self", 3)],
    "POST /me/password": [_region("self", 3)],
    "POST /me/second-factor": [_region("self", 3)],
    "POST /me/second-factor/confirm": [_region("self", 3)],
    "POST /me/second-factor/remove": [_region("self", 3)],
    "GET /hosts": [_region("host.read", 2)],
    "POST /hosts": [_region("host.manage", 2)],
    "POST /hosts/{name}/drain": [_region("host.manage", 2)],
    "POST /hosts/{name}/resume": [_region("host.manage", 2)],
    "DELETE /hosts/{name}": [_region("host.manage", 2)],
    "GET /health": [_region("operation.read", 2)],
    "GET /ready": [_region("operation.read", 2)],
    "GET /metrics": [_region("operation.read", 2)],
}  # fmt: skip
