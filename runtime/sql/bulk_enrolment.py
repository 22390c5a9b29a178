"""Credentials for many devices of a hospital at once: each row of a list for itself, in one transaction. Clause 5.4a."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sqlalchemy import Connection, Engine, select

from domain.errors import InvalidInput, VitalgridError
from runtime.device_authority import Signer
from runtime.sql.credentials import EnrolmentRules, give_certificate, make_claim_code
from runtime.sql.engine import writing
from runtime.sql.records import Author, shard_of
from runtime.sql.tables import devices

MOST_AT_ONCE: Final = 500  # others who write wait meanwhile, about a second
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """What became of one row, counted from 1: what was given, or an error in words."""

    row: int
    device_id: str
    given: T | None = None
    error: str | None = None


def give_claim_codes(
    engine: Engine, author: Author, hospital_id: str, device_ids: Sequence[str], rules: EnrolmentRules
) -> list[Row[str]]:
    """A claim code for each. Raises NotFound (hospital), InvalidInput when there are none or too many."""
    return _each(
        engine, hospital_id, device_ids, lambda connection, handle: make_claim_code(connection, author, handle, rules)[0]
    )


def give_certificates(
    engine: Engine, author: Author, hospital_id: str, device_ids: Sequence[str], signer: Signer, rules: EnrolmentRules
) -> list[Row[tuple[str, str]]]:
    """A key, kept nowhere, and a certificate with its chain for each, PEM. Errors as `give_claim_codes`."""
    return _each(
        engine, hospital_id, device_ids, lambda connection, handle: give_certificate(connection, author, handle, signer, rules)
    )


def _each(engine: Engine, hospital_id: str, device_ids: Sequence[str], give: Callable[[Connection, int], T]) -> list[Row[T]]:
    if not 0 < len(device_ids) <= MOST_AT_ONCE:
        raise InvalidInput(f"the list holds {len(device_ids)} devices: expected 1 to {MOST_AT_ONCE}, more in further lists")
    done: list[Row[T]] = []
    seen = set[str]()
    with writing(engine) as connection:
        shard_of(connection, hospital_id)
        query = select(devices.c.device_id, devices.c.handle).where(devices.c.hospital_id == hospital_id)
        known = dict(connection.execute(query.where(devices.c.device_id.in_(list(device_ids)))).all())
        for number, device_id in enumerate(device_ids, start=1):
            if device_id in seen:
                done.append(Row(number, device_id, error="the device stands twice in the list"))
            elif device_id not in known:
                done.append(Row(number, device_id, error=f"hospital {hospital_id!r} has no such device: register it first"))
            else:
                done.append(_row(connection, number, device_id, known[device_id], give))
            seen.add(device_id)
    return done


def _row(connection: Connection, number: int, device_id: str, handle: int, give: Callable[[Connection, int], T]) -> Row[T]:
    try:
        return Row(number, device_id, given=give(connection, handle))
    except VitalgridError as error:  # raised before anything of the row was written
        return Row(number, device_id, error=str(error))
