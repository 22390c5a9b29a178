"""What there is of devices, how open to attack each is, and two measures: new credentials for many, lists for firewalls.

Clauses 8.4a, 8.4b, 9.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import polars as pl
from fastapi import Query, Request, Response

from api.answers.formats import TABLE_RESPONSES, TableAnswer, Wanted, table_response
from api.asking import Asking, Unplaced
from api.errors import NotAcceptable, problems
from api.given import given
from api.inventory import Judged, chosen
from api.inventory import Wanted as WantedDevices
from api.locators import near_ward, of_device, of_devices
from api.paging import PagedByNumbers, next_link
from api.permissions import may, may_list, may_where_body_says
from api.routes.devices import Named
from api.routes.router import api_router
from api.schemas.security import ExposureOut, InventoryTable, RotatedOut, RotationIn
from api.services import Behind
from api.times import In, Zone
from domain.errors import Conflict, InvalidInput, NotFound, PatientAttached, Unavailable
from domain.exposure import BY_CODE, findings_of
from domain.permissions import Action
from domain.thing_catalogue import thing_model
from runtime.sql import devices
from runtime.sql.isolations import blocked_addresses
from runtime.sql.sightings import sighting_of

router = api_router("/security", tags=["security"])
ExposureList = Annotated[Asking, may_list(Action.EXPOSURE_READ, at=near_ward)]
ExposureRead = Annotated[Asking, may(Action.EXPOSURE_READ, at=of_device)]
Credentials = Annotated[Unplaced, may_where_body_says(Action.DEVICE_CREDENTIAL)]
_PLAIN: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
_TIMES = {"certificate_until_us": "certificate_until", "issued_us": "issued", "seen_us": "seen", "changed_us": "changed"}
_SHOWN = (
    "hospital", "device_id", "model", "ward", "bed", "score", "findings", "is_isolated", "maker", "serial", "firmware",
    "has_token", "has_certificate", "certificate_until_us", "issued_us", "seen_us", "door", "address", "over_tls", "credential",
    "client", "fingerprint", "changed_us", "changes",
)  # fmt: skip


@dataclass(frozen=True)
class InventoryFilter:
    """Which devices in service; whatever is left out does not matter."""

    hospital: Annotated[str | None, Query()] = None
    ward: Annotated[str | None, Query()] = None
    model: Annotated[str | None, Query(description="Thing model, such as `monitor`.")] = None
    min_score: Annotated[int, Query(ge=0, le=100)] = 0
    finding: Annotated[str | None, Query(description="Only those with this finding.", examples=["credential-old"])] = None

    def wanted(self) -> WantedDevices:
        """Raises NotFound for an unknown model, InvalidInput for an unknown finding."""
        if self.finding is not None and self.finding not in BY_CODE:
            raise InvalidInput(f"finding {self.finding!r} is unknown: expected one of {', '.join(BY_CODE)}")
        model = None if self.model is None else thing_model(self.model).id
        return WantedDevices(self.hospital, self.ward, model, self.min_score, self.finding)


@router.get(
    "/inventory", response_class=Response,
    responses={200: TABLE_RESPONSES[200] | {"model": InventoryTable}, **problems(NotFound, InvalidInput, NotAcceptable)},
)  # fmt: skip
async def list_inventory(
    who: ExposureList, request: Request, behind: Behind, paged: PagedByNumbers, zone: In, wanted_format: Wanted,
    wanted: Annotated[InventoryFilter, given(InventoryFilter)],
) -> Response:  # fmt: skip
    """The devices within your reach, the most exposed first. `as_of`: when the directory was read."""
    devices_wanted, reach, after = wanted.wanted(), who.reach, paged.after
    judged = await behind.inventory.present()

    def made() -> Response:
        frame = chosen(judged.frame, reach, devices_wanted)
        return table_response(_page(frame, judged, (paged.limit, after), zone, request), wanted_format)

    return await behind.lanes.codec(made)


@router.get("/inventory/{hospital_id}/{device_id}", responses=problems(NotFound))
async def show_exposure(_who: ExposureRead, device: Named, behind: Behind, zone: In) -> ExposureOut:
    """One device as it is now: what it is, how it came last, each finding with its remedy."""
    frame = await behind.inventory.of_device(device["handle"])
    if frame.is_empty():
        raise NotFound(f"device {device['hospital_id']}/{device['device_id']} is retired: it is in no inventory")
    return ExposureOut.of(frame.row(0, named=True), await behind.read(sighting_of, behind.engine, device["handle"]), zone)


@router.post("/credentials/rotation", status_code=201, responses=problems(NotFound, InvalidInput, Conflict, PatientAttached))
async def rotate_tokens(who: Credentials, body: RotationIn, behind: Behind) -> list[RotatedOut]:
    """Give many devices of a hospital new tokens, all or none; the old ones stop working at once."""
    asking = who.at(await of_devices(behind, body.hospital_id, body.device_ids))
    rotated = await behind.write(
        devices.rotate_tokens, behind.engine, behind.author(asking), body.hospital_id, body.device_ids,
        even_on_patients=body.even_on_patients,
    )  # fmt: skip
    await behind.doors_told()
    return [RotatedOut(device_id=device_id, token=token) for device_id, token in rotated.items()]


@router.get("/blocklist", response_class=Response, responses={200: _PLAIN, **problems(Unavailable)})
async def list_blocked(
    who: ExposureList, behind: Behind, hospital: Annotated[str | None, Query()] = None,
    ward: Annotated[str | None, Query()] = None,
) -> Response:  # fmt: skip
    """The addresses from which isolated devices last came, one a line, for firewalls. An address of others too is not on it."""
    found = await behind.read(blocked_addresses, behind.engine, reach=who.reach, hospital_id=hospital, ward_id=ward)
    return Response("".join(f"{address}\n" for address in found), media_type="text/plain")


def _page(
    frame: pl.DataFrame, judged: Judged, part: tuple[int, tuple[Any, ...] | None], zone: Zone, request: Request
) -> TableAnswer:
    matched, (limit, after) = len(frame), part
    if after is not None:
        score, handle = after
        frame = frame.filter((pl.col("score") < score) | ((pl.col("score") == score) & (pl.col("handle") > handle)))
    page = frame.head(limit)
    key = [*page.select("score", "handle").row(-1)] if len(frame) > limit else None
    codes = [[finding.code for finding in findings_of(bits)] for bits in page["findings"]]
    shown = page.with_columns(pl.Series("findings", codes, dtype=pl.List(pl.String))).select(_SHOWN)
    about = {
        "as_of": zone.text(judged.at_us), "matched": matched, "next": None if key is None else next_link(request, key),
    }  # fmt: skip
    return TableAnswer(shown, zone, about, times=_TIMES, name="inventory")
