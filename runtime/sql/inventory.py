"""Every device in service as one row of a frame, with what is known of how it connects. Clause 8.4a.

One statement over the whole directory, the rest as columns: a million devices take seconds, so
whoever answers from it keeps it (`api.inventory`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import polars as pl
from sqlalchemy import Engine, Row, Select, Text, cast, select

from domain.sightings import FIRMWARE, SERIAL
from domain.thing_catalogue import BY_MODEL_ID
from runtime.sql.devices import RETIRED
from runtime.sql.engine import reading
from runtime.sql.isolation_tables import is_isolated
from runtime.sql.sighting_tables import sightings
from runtime.sql.tables import devices, hospitals

_FETCHED: Final = 50_000
_READ: Final = {
    "handle": pl.UInt32, "hospital": pl.String, "district": pl.String, "device_id": pl.String, "model": pl.String,
    "ward": pl.String, "bed": pl.String, "gateway_handle": pl.UInt32, "has_token": pl.Boolean, "issued_us": pl.Int64,
    "level": pl.UInt8, "is_isolated": pl.Boolean, "door": pl.String, "address": pl.String, "over_tls": pl.Boolean,
    "credential": pl.String, "client": pl.String, "seen_us": pl.Int64, "fingerprint": pl.String, "changed_us": pl.Int64,
    "changes": pl.UInt32, "attributes": pl.String,
}  # fmt: skip
_MAKER: Final = ("manufacturer",)
_CRITICALITY: Final = pl.DataFrame(
    {"model": list(BY_MODEL_ID), "criticality": [int(model.criticality) for model in BY_MODEL_ID.values()]},
    schema={"model": pl.String, "criticality": pl.Int8},
)


def inventory(engine: Engine, handle: int | None = None) -> pl.DataFrame:
    """All devices in service, by handle; or one. Raises Unavailable."""
    parts: list[pl.DataFrame] = []
    with reading(engine) as connection:
        found = connection.execute(_query(handle))
        while rows := found.fetchmany(_FETCHED):
            parts.append(_frame(list(rows)))
    frame = pl.concat(parts) if parts else _frame([])
    return frame.join(_CRITICALITY, on="model", how="left", maintain_order="left")


def _query(handle: int | None) -> Select[Any]:
    columns = (
        devices.c.handle, devices.c.hospital_id, hospitals.c.district, devices.c.device_id, devices.c.model, devices.c.ward_id,
        devices.c.bed_id, devices.c.gateway_handle, devices.c.token_digest.is_not(None), devices.c.token_made_us,
        devices.c.level, is_isolated(devices.c.handle), sightings.c.door,
        sightings.c.address, sightings.c.over_tls, sightings.c.credential,
        sightings.c.client, sightings.c.last_us, sightings.c.fingerprint, sightings.c.changed_us, sightings.c.changes,
    )  # fmt: skip
    there = devices.join(hospitals, hospitals.c.id == devices.c.hospital_id)
    there = there.outerjoin(sightings, sightings.c.device_handle == devices.c.handle)
    query = select(*columns, cast(devices.c.attributes, Text)).select_from(there).where(devices.c.status != RETIRED)
    return query.order_by(devices.c.handle) if handle is None else query.where(devices.c.handle == handle)


def _frame(rows: list[Row[Any]]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in _READ]
    frame = pl.DataFrame(dict(zip(_READ, columns, strict=True)), schema=_READ)
    return frame.with_columns(
        _said(SERIAL).alias("serial"), _said(FIRMWARE).alias("firmware"), _said(_MAKER).alias("maker"),
        (_said(("configuration",)) == "default").fill_null(value=False).alias("is_default"),
    ).drop("attributes")  # fmt: skip


def _said(names: Sequence[str]) -> pl.Expr:
    """The first of these attributes that says something; nothing of what is no JSON (NaN, which Python writes)."""
    found = [pl.col("attributes").str.json_path_match(f"$.{name}") for name in names]
    return pl.coalesce(*(pl.when(one != "").then(one) for one in found))
