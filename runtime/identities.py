"""Who is at a door, from the business database, with short memories so that a flood of messages is no flood of queries."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from domain.errors import Unauthenticated
from domain.ports import Principal
from domain.thing_catalogue import thing_model
from runtime.sql.devices import device_of_token, token_digest
from runtime.sql.engine import reading
from runtime.sql.tables import devices, hospitals, patients

_REMEMBER_S: Final = 30.0
_REFRESH_EVERY_S: Final = 0.2  # unknown handles cause at most this many looks a second


class SqlIdentities:
    """`domain.ports.Identities` over the business database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._principals: dict[str, tuple[float, Principal]] = {}
        self._hospitals: list[str] = []
        self._shards = np.empty(0, dtype=np.int16)  # of each hospital number
        self._hospital_of = np.full(1024, -1, dtype=np.int32)  # of each handle
        self._highest = 0
        self._refreshed_s = float("-inf")
        self._refreshing = asyncio.Lock()

    def forget(self) -> None:
        """Drop what is remembered of tokens, after one was changed."""
        self._principals.clear()

    async def identify(self, token: str) -> Principal:
        """The device or gateway that holds `token`; raises Unauthenticated.

        A wrong token costs the same look as a right one.
        """
        digest = token_digest(token)
        kept = self._principals.get(digest)
        if kept is not None and time.monotonic() - kept[0] < _REMEMBER_S:
            return kept[1]
        row = await asyncio.to_thread(device_of_token, self._engine, digest)
        if row is None:
            raise Unauthenticated("the token is unknown, or its device is retired")
        model = thing_model(row["model"])
        principal = Principal(
            name=f"{row['hospital_id']}/{row['device_id']}", handle=row["handle"], hospital_id=row["hospital_id"],
            shard=row["shard"], model=model if model.channels else None,
        )  # fmt: skip
        self._principals[digest] = (time.monotonic(), principal)
        return principal

    async def shards_of(self, principal: Principal, handles: NDArray[np.uint32]) -> NDArray[np.int16]:
        """The shard of each handle, -1 for one that is unknown or of another hospital than the principal's."""
        numbers = self._numbers(handles)
        if (numbers < 0).any() or principal.hospital_id not in self._hospitals:
            await self._refresh()
            numbers = self._numbers(handles)
        if principal.hospital_id not in self._hospitals:
            return np.full(len(handles), -1, dtype=np.int16)
        own = self._hospitals.index(principal.hospital_id)
        shards: NDArray[np.int16] = np.where(numbers == own, self._shards[own], -1).astype(np.int16)
        return shards

    def _numbers(self, handles: NDArray[np.uint32]) -> NDArray[np.int32]:
        known = handles < len(self._hospital_of)
        return np.where(known, self._hospital_of[np.where(known, handles, 0)], -1)

    async def _refresh(self) -> None:
        async with self._refreshing:
            if time.monotonic() - self._refreshed_s < _REFRESH_EVERY_S:
                return
            places, rows = await asyncio.to_thread(self._look, self._highest)
            self._refreshed_s = time.monotonic()
            self._hospitals = [hospital_id for hospital_id, _ in places]
            self._shards = np.array([shard for _, shard in places], dtype=np.int16)
            number_of = {hospital_id: number for number, hospital_id in enumerate(self._hospitals)}
            if not rows:
                return
            self._highest = max(handle for handle, _ in rows)
            if self._highest >= len(self._hospital_of):
                grown = np.full(max(self._highest + 1, 2 * len(self._hospital_of)), -1, dtype=np.int32)
                grown[: len(self._hospital_of)] = self._hospital_of
                self._hospital_of = grown
            self._hospital_of[[handle for handle, _ in rows]] = [number_of[hospital_id] for _, hospital_id in rows]

    def _look(self, beyond: int) -> tuple[list[tuple[str, int]], list[tuple[int, str]]]:
        """Hospitals in the order in which they came, so that their numbers stay; and handles that are new."""
        with reading(self._engine) as connection:
            query = select(hospitals.c.id, hospitals.c.shard).order_by(hospitals.c.created_us, hospitals.c.id)
            places = [(row.id, row.shard) for row in connection.execute(query)]
            rows: list[tuple[int, str]] = []
            for table in (devices, patients):
                found = connection.execute(select(table.c.handle, table.c.hospital_id).where(table.c.handle > beyond))
                rows += [(handle, hospital_id) for handle, hospital_id in found]
        return places, rows
