"""Every device in service as one row of a frame, with what is known of how it connects. Clause 8.4a.

A statement over the whole directory and one over what is good of certificates, the rest as columns: a million devices take
seconds, so whoever answers from it keeps it (`api.inventory`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import polars as pl
from sqlalchemy import Connection, Engine, Row, Select, Text, cast, func, select

from domain.sightings import FIRMWARE, SERIAL
from domain.thing_catalogue import BY_MODEL_ID
from runtime.sql.credential_tables import device_certificates
from runtime.sql.devices import RETIRED
from runtime.sql.engine import reading
from runtime.sql.isolation_tables import is_isolated
from runtime.sql.sighting_tables import sightings
from runtime.sql.tables import devices, hospitals

_FETCHED: Final = 50_000
_READ: Final = {
    "handle": pl.UInt32, "hospital": pl.String, "district": pl.String, "device_id": pl.String, "model": pl.String,
    "ward": pl.String, "bed": pl.String, "gateway_handle": pl.UInt32, "has_token": pl.Boolean, "token_us": pl.Int64,
    "needs_certificate": pl.Boolean, "level": pl.UInt8, "is_isolated": pl.Boolean, "door": pl.String, "address": pl.String,
    "over_tls": pl.Boolean, "credential": pl.String, "client": pl.String, "seen_us": pl.Int64, "fingerprint": pl.String,
    "changed_us": pl.Int64, "changes": pl.UInt32, "attributes": pl.String,
}  # fmt: skip
_CERTIFICATES: Final = {"handle": pl.UInt32, "certificate_us": pl.Int64, "certificate_until_us": pl.Int64}
_MAKER: Final = ("manufacturer",)
_CRITICALITY: Final = pl.DataFrame(
    {"model": list(BY_MODEL_ID), "criticality": [int(model.criticality) for model in BY_MODEL_ID.values()]},
    schema={"model": pl.String, "criticality": pl.Int8},
)


def inventory(engine: Engine, now_us: int, handle: int | None = None) -> pl.DataFrame:
    """All devices in service, by handle; or one. `certificate_us`: of the newest that is good. Raises Unavailable."""
    with reading(engine) as connection:
        parts = [_frame(rows) for rows in _fetched(connection, _query(handle))]
        held = [_columns(rows, _CERTIFICATES) for rows in _fetched(connection, _certificates(now_us, handle))]
    frame = pl.concat(parts) if parts else _frame([])
    certificates = pl.concat(held) if held else pl.DataFrame(schema=_CERTIFICATES)
    frame = frame.join(certificates, on="handle", how="left", maintain_order="left")
    frame = frame.with_columns(has_certificate=pl.col("certificate_us").is_not_null())
    return frame.with_columns(issued_us=_issued()).join(_CRITICALITY, on="model", how="left", maintain_order="left")


def _fetched(connection: Connection, query: Select[Any]) -> Iterator[list[Row[Any]]]:
    found = connection.execute(query)
    while rows := found.fetchmany(_FETCHED):
        yield list(rows)


def _certificates(now_us: int, handle: int | None) -> Select[Any]:
    """When the newest certificate of each device that has one was made, and until when one is good."""
    table = device_certificates
    query = select(table.c.handle, func.max(table.c.made_us), func.max(table.c.until_us)).group_by(table.c.handle)
    query = query.where(table.c.revoked_us.is_(None), table.c.until_us > now_us)
    return query if handle is None else query.where(table.c.handle == handle)


def _issued() -> pl.Expr:
    """When what it comes with was issued: the younger of token and certificate, but of one that it does not come with."""
    token, certificate = pl.col("has_token"), pl.col("has_certificate")
    by_token = (pl.col("credential") == "token").fill_null(value=False) & token
    by_certificate = (pl.col("credential") == "certificate").fill_null(value=False) & certificate
    return pl.max_horizontal(
        pl.when(token & ~by_certificate).then("token_us"), pl.when(certificate & ~by_token).then("certificate_us")
    )


def _query(handle: int | None) -> Select[Any]:
    columns = (
        devices.c.handle, devices.c.hospital_id, hospitals.c.district, devices.c.device_id, devices.c.model, devices.c.ward_id,
        devices.c.bed_id, devices.c.gateway_handle, devices.c.token_digest.is_not(None), devices.c.token_made_us,
        devices.c.needs_certificate, devices.c.level, is_isolated(devices.c.handle), sightings.c.door,
        sightings.c.address, sightings.c.over_tls, sightings.c.credential,
        sightings.c.client, sightings.c.last_us, sightings.c.fingerprint, sightings.c.changed_us, sightings.c.changes,
    )  # fmt: skip
    there = devices.join(hospitals, hospitals.c.id == devices.c.hospital_id)
    there = there.outerjoin(sightings, sightings.c.device_handle == devices.c.handle)
    query = select(*columns, cast(devices.c.attributes, Text)).select_from(there).where(devices.c.status != RETIRED)
    return query.order_by(devices.c.handle) if handle is None else query.where(devices.c.handle == handle)


def _frame(rows: list[Row[Any]]) -> pl.DataFrame:
    return _columns(rows, _READ).with_columns(
        _said(SERIAL).alias("serial"), _said(FIRMWARE).alias("firmware"), _said(_MAKER).alias("maker"),
        (_said(("configuration",)) == "default").fill_null(value=False).alias("is_default"),
    ).drop("attributes")  # fmt: skip


def _columns(rows: list[Row[Any]], schema: dict[str, Any]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in schema]
    return pl.DataFrame(dict(zip(schema, columns, strict=True)), schema=schema)


def _said(names: Sequence[str]) -> pl.Expr:
    """The first of these attributes that says something; nothing of what is no JSON (NaN, which Python writes)."""
    found = [pl.col("attributes").str.json_path_match(f"$.{name}") for name in names]
    return pl.coalesce(*(pl.when(one != "").then(one) for one in found))
