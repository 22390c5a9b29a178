"""Hospitals, wards and beds. Clause 5.1."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from api.asking import Asking, Unplaced
from api.errors import PreconditionRequired, problems
from api.locators import in_hospital, in_region, near_hospital, of_bed, of_hospital, of_ward
from api.paging import Page, PagedByName
from api.permissions import may, may_list, may_where_body_says
from api.preconditions import ExpectedVersion, set_etag
from api.routes.router import api_router
from api.schemas.places import (
    BedChange,
    BedIn,
    BedOut,
    HandOverIn,
    HandOverOut,
    HospitalChange,
    HospitalIn,
    HospitalOut,
    PlacementIn,
    PlacementOut,
    WardChange,
    WardIn,
    WardOut,
)
from api.services import Backend, Behind
from api.times import In
from domain.errors import Conflict, NotFound, StaleVersion
from domain.fleet_manifest import Tier
from domain.host_orders import Placement
from domain.permissions import Action
from runtime.sql import hand_overs, placement, places
from runtime.sql.records import Row

router = api_router("/hospitals", tags=["places"])
HospitalList = Annotated[Asking, may_list(Action.PLACE_READ)]
WardList = Annotated[Asking, may_list(Action.PLACE_READ, at=near_hospital)]
HospitalRead = Annotated[Asking, may(Action.PLACE_READ, at=of_hospital())]
HospitalCreate = Annotated[Asking, may(Action.HOSPITAL_MANAGE, at=in_region("hospitals"))]
HospitalManage = Annotated[Asking, may(Action.HOSPITAL_MANAGE, at=of_hospital())]
PlaceManage = Annotated[Asking, may(Action.PLACE_MANAGE, at=of_hospital("wards"))]
WardManage = Annotated[Asking, may(Action.PLACE_MANAGE, at=of_ward)]
BedAdd = Annotated[Unplaced, may_where_body_says(Action.PLACE_MANAGE)]
BedManage = Annotated[Asking, may(Action.PLACE_MANAGE, at=of_bed)]
BedList = Annotated[Asking, may_list(Action.PLACE_READ, at=near_hospital)]
_UPDATE = problems(NotFound, PreconditionRequired, StaleVersion)


@router.get("")
async def list_hospitals(
    who: HospitalList,
    behind: Behind,
    paged: PagedByName,
    zone: In,
    tier: Annotated[Tier | None, Query()] = None,
    q: Annotated[str | None, Query(description="Part of the id or the name.", max_length=64)] = None,
) -> Page[HospitalOut]:
    """The hospitals that you may see."""
    found = await behind.read(
        places.list_hospitals, behind.engine, reach=who.reach, limit=paged.limit, after=paged.after, tier=tier, text=q
    )
    return paged.page([HospitalOut.of(row, zone) for row in found.rows], found.after)


@router.post("", status_code=201, responses=problems(Conflict))
async def create_hospital(who: HospitalCreate, body: HospitalIn, behind: Behind, zone: In, response: Response) -> HospitalOut:
    """Register a hospital; it is placed in the least loaded shard that is not dedicated."""
    row = await behind.write(
        places.create_hospital, behind.engine, behind.author(who), hospital_id=body.id, name=body.name, tier=body.tier,
        bed_count=body.beds, shards=behind.services.shards, district=body.district,
    )  # fmt: skip
    set_etag(response, row["version"])
    return HospitalOut.of(row, zone)


@router.get("/{hospital_id}", responses=problems(NotFound))
async def show_hospital(_who: HospitalRead, hospital_id: str, behind: Behind, zone: In, response: Response) -> HospitalOut:
    """One hospital."""
    row = await behind.read(places.get_hospital, behind.engine, hospital_id)
    set_etag(response, row["version"])
    return HospitalOut.of(row, zone)


@router.patch("/{hospital_id}", responses=_UPDATE)
async def update_hospital(
    who: HospitalManage,
    hospital_id: str,
    body: HospitalChange,
    behind: Behind,
    version: ExpectedVersion,
    zone: In,
    response: Response,
) -> HospitalOut:
    """Change name, tier, number of beds or district: who was given something in a district has it in its hospitals."""
    values = body.model_dump(exclude_unset=True, exclude_none=True)
    row = await behind.write(places.update_hospital, behind.engine, behind.author(who), hospital_id, values, version=version)
    set_etag(response, row["version"])
    return HospitalOut.of(row, zone)


@router.post("/{hospital_id}/hand-over", status_code=202, responses=problems(NotFound, Conflict))
async def hand_over(who: HospitalManage, hospital_id: str, body: HandOverIn, behind: Behind, zone: In) -> HandOverOut:
    """Hand a hospital over to another shard, while it sends. Its state goes along, and nothing is lost or told twice."""
    row = await behind.write(
        placement.hand_over, behind.engine, behind.author(who), hospital_id, body.shard, shards=behind.services.shards
    )
    behind.relay.nudge()
    return HandOverOut.of(row, zone)


@router.get("/{hospital_id}/hand-over", responses=problems(NotFound))
async def show_hand_over(_who: HospitalRead, hospital_id: str, behind: Behind, zone: In) -> HandOverOut:
    """The last hand-over of a hospital, and how far it has come."""
    return HandOverOut.of(await behind.read(hand_overs.newest, behind.engine, hospital_id), zone)


@router.put("/{hospital_id}/placement", status_code=202, responses=problems(NotFound, Conflict))
async def place_hospital(who: HospitalManage, hospital_id: str, body: PlacementIn, behind: Behind) -> PlacementOut:
    """Give a hospital a shard and a host of its own, or put it among the others again, while it sends. Once more changes
    nothing.

    Answered when the order stands; it is carried out when `to_shard` is null and, of a dedicated one, `is_alone` is true.
    """
    order = placement.dedicate if body.placement is Placement.DEDICATED else placement.share
    row = await behind.write(order, behind.engine, behind.author(who), hospital_id, shards=behind.services.shards)
    behind.relay.nudge()
    return _placed(behind, row)


@router.get("/{hospital_id}/placement", responses=problems(NotFound))
async def show_placement(_who: HospitalRead, hospital_id: str, behind: Behind) -> PlacementOut:
    """How a hospital is placed, and which host holds it."""
    return _placed(behind, await behind.read(placement.placement_of, behind.engine, hospital_id))


def _placed(behind: Backend, row: Row) -> PlacementOut:
    holder = behind.hosts.holder(row["shard"])
    is_alone = holder is not None and len(holder.shards) == 1
    return PlacementOut(**row, host=holder.host if holder else None, is_alone=is_alone)


@router.get("/{hospital_id}/wards")
async def list_wards(who: WardList, hospital_id: str, behind: Behind, paged: PagedByName) -> Page[WardOut]:
    """The wards of a hospital that you may see."""
    found = await behind.read(
        places.list_wards, behind.engine, hospital_id, reach=who.reach, limit=paged.limit, after=paged.after
    )
    return paged.page([WardOut(**row) for row in found.rows], found.after)


@router.post("/{hospital_id}/wards", status_code=201, responses=problems(NotFound, Conflict))
async def create_ward(who: PlaceManage, hospital_id: str, body: WardIn, behind: Behind, response: Response) -> WardOut:
    """Add a ward."""
    row = await behind.write(places.create_ward, behind.engine, behind.author(who), hospital_id, body.id, body.name)
    set_etag(response, row["version"])
    return WardOut(**row)


@router.patch("/{hospital_id}/wards/{ward_id}", responses=_UPDATE)
async def update_ward(
    who: WardManage,
    hospital_id: str,
    ward_id: str,
    body: WardChange,
    behind: Behind,
    version: ExpectedVersion,
    response: Response,
) -> WardOut:
    """Rename a ward."""
    author = behind.author(who)
    row = await behind.write(places.update_ward, behind.engine, author, hospital_id, ward_id, body.name, version=version)
    set_etag(response, row["version"])
    return WardOut(**row)


@router.delete("/{hospital_id}/wards/{ward_id}", status_code=204, responses={**_UPDATE, **problems(Conflict)})
async def remove_ward(who: PlaceManage, hospital_id: str, ward_id: str, behind: Behind, version: ExpectedVersion) -> None:
    """Remove a ward in which nothing stands any more."""
    await behind.write(places.remove_ward, behind.engine, behind.author(who), hospital_id, ward_id, version=version)


@router.get("/{hospital_id}/beds")
async def list_beds(
    who: BedList, hospital_id: str, behind: Behind, paged: PagedByName, ward: Annotated[str | None, Query()] = None
) -> Page[BedOut]:
    """The beds of a hospital, or of one ward, that you may see."""
    found = await behind.read(
        places.list_beds, behind.engine, hospital_id, reach=who.reach, limit=paged.limit, after=paged.after, ward_id=ward
    )
    return paged.page([BedOut(**row) for row in found.rows], found.after)


@router.post("/{hospital_id}/beds", status_code=201, responses=problems(NotFound, Conflict))
async def create_bed(who: BedAdd, hospital_id: str, body: BedIn, behind: Behind, response: Response) -> BedOut:
    """Add a bed."""
    author = behind.author(who.at(await in_hospital(behind, "beds", hospital_id, body.ward_id)))
    row = await behind.write(places.create_bed, behind.engine, author, hospital_id, body.id, body.ward_id)
    set_etag(response, row["version"])
    return BedOut(**row)


@router.patch("/{hospital_id}/beds/{bed_id}", responses=_UPDATE)
async def update_bed(
    who: BedManage,
    hospital_id: str,
    bed_id: str,
    body: BedChange,
    behind: Behind,
    version: ExpectedVersion,
    response: Response,
) -> BedOut:
    """Put a bed into another ward."""
    who.also(await in_hospital(behind, "beds", hospital_id, body.ward_id))
    author = behind.author(who)
    row = await behind.write(places.update_bed, behind.engine, author, hospital_id, bed_id, body.ward_id, version=version)
    set_etag(response, row["version"])
    return BedOut(**row)


@router.delete("/{hospital_id}/beds/{bed_id}", status_code=204, responses={**_UPDATE, **problems(Conflict)})
async def remove_bed(who: BedManage, hospital_id: str, bed_id: str, behind: Behind, version: ExpectedVersion) -> None:
    """Remove a bed in which nobody lies and nothing stands any more."""
    await behind.write(places.remove_bed, behind.engine, behind.author(who), hospital_id, bed_id, version=version)
