"""A whole fleet in one call: hospitals, devices, patients and who wears what. Clause 7.3."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from fastapi import Request, Response

from api.asking import Asking, Target, Unplaced, of_places
from api.errors import problems
from api.permissions import may_where_body_says
from api.routes.router import api_router
from api.services import Behind
from domain.errors import Conflict, InvalidInput, NotFound, PatientAttached
from domain.fleet_manifest import FleetManifest
from domain.labels import LABELS
from domain.permissions import Action, Located
from domain.principals import Place
from runtime.sql import locating
from runtime.sql.fleets import Met, met_by, register_fleet

router = api_router("/fleets", tags=["devices"])
FleetRegister = Annotated[Unplaced, may_where_body_says(Action.FLEET_REGISTER)]
_EXAMPLE: Final = {
    "hospitals": [
        {
            "hospital_id": "sz.h012", "name": "福田区人民医院", "tier": "tertiary", "beds": 1200,
            "devices": {
                "device_ids": ["gw-1", "mon-7"], "models": ["gateway", "monitor"], "ward_ids": [None, "icu"],
                "bed_ids": [None, "icu-07"], "gateway_ids": [None, "gw-1"], "with_token": [True, False],
            },
            "patients": {
                "refs": ["MRN-10037"], "names": [None], "ages_years": [67], "pregnant": [False], "spo2_scales": [1],
                "ward_ids": ["icu"], "bed_ids": ["icu-07"], "admitted_us": [1795420800000000], "device_ids": [["mon-7"]],
            },
        }
    ]
}  # fmt: skip
_SETTLE_S: Final = 60.0  # every patient is a message to the hosts
_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}, "example": _EXAMPLE}}}
}
_CREATED: Final[dict[int | str, dict[str, Any]]] = {201: {"content": {"application/json": {"schema": {"type": "object"}}}}}
_decoder: Final = msgspec.json.Decoder(FleetManifest)


@router.post(
    "",
    status_code=201,
    openapi_extra=_BODY,
    response_class=Response,
    responses={
        201: {"content": {"application/json": {"schema": {"type": "object"}}}},
        **problems(InvalidInput, NotFound, Conflict, PatientAttached),
    },
)
async def register(who: FleetRegister, request: Request, behind: Behind) -> Response:
    """Register all of a manifest, or nothing. Columns are parallel lists; handles and keys come back in their order.

    Answered when the hosts' stream has it, so that what devices send next is ordered behind.
    Safe to repeat: what exists is reused, and devices with a token get a new one: connections with the one before are ended.
    So devices that are on patients by then, or carry what is, are refused (409 `patient-attached`) unless the manifest says
    `"even_on_patients": true`.
    For new tokens of devices that exist you need `device.credential` there as well, and for patients that exist
    `patient.manage` and `association.manage`. A patient whose records are withheld is a conflict.
    """
    manifest = await behind.lanes.codec(_decode, await request.body())
    districts = await behind.read(locating.districts_of, behind.engine, [one.hospital_id for one in manifest.hospitals])
    places = [locating.place_in(districts.get(one.hospital_id), one.hospital_id) for one in manifest.hospitals]
    asking = who.at(of_places(places or [Place(behind.services.region_id)], LABELS["patients"]))
    met = await behind.read(met_by, behind.engine, manifest)
    _permit_met(asking, met)
    author = behind.author(asking)
    registered = await behind.write(register_fleet, behind.engine, author, manifest, shards=behind.services.shards, met=met)
    await behind.doors_told()
    await behind.hosts_told(_SETTLE_S)
    await behind.directory.warmed()
    return Response(await behind.lanes.codec(msgspec.json.encode, registered), 201, media_type="application/json")


def _permit_met(asking: Asking, met: Met) -> None:
    """Permit what is done to records that exist: who registers is told the keys of patients, and speaks as the devices."""
    _permit(asking, Action.DEVICE_CREDENTIAL, met.devices.values())
    for action in (Action.PATIENT_MANAGE, Action.ASSOCIATION_MANAGE):
        _permit(asking, action, met.patients)
    asking.shows(patient.patient_key for patient in met.patients)


def _permit(asking: Asking, action: Action, records: Iterable[Located]) -> None:
    reach = asking.reach_of(action)  # for policies to judge a district's patients one by one would take too long
    for record in records:
        if not reach.holds(record):
            asking.also(Target((record,), named=record.place.hospital_id), action)


def _decode(body: bytes) -> FleetManifest:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not a fleet manifest: {error}") from None
