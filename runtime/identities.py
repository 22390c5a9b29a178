"""Who is at a door, from the business database, with short memories so that a flood of messages is no flood of queries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, literal, select, union_all

from domain.bounded import keep_newest
from domain.errors import CertificateRequired, Unauthenticated, Unavailable, WrongCertificate
from domain.ports import Clock, Sender, Shown
from domain.thing_catalogue import BY_MODEL_ID, thing_model
from domain.thing_models import Lane
from runtime.clock import SystemClock
from runtime.gathered import Gathered
from runtime.sql.credentials import holders_of, standing
from runtime.sql.devices import devices_of_tokens
from runtime.sql.engine import reading
from runtime.sql.hand_overs import places
from runtime.sql.isolations import isolated_handles
from runtime.sql.records import Row
from runtime.sql.tables import devices, patients
from runtime.tokens import token_digest

logger = logging.getLogger(__name__)

_BULK_MODELS: Final = frozenset(model.id for model in BY_MODEL_ID.values() if model.lane is Lane.BULK)
_REMEMBER_S: Final = 30.0
_REMEMBER_WRONG_S: Final = 5.0
_MOST_WRONG: Final = 10_000
_UNKNOWN: Final = "the {} is unknown, or its device is retired or isolated"
_UNKNOWN_TOKEN, _UNKNOWN_CERTIFICATE = _UNKNOWN.format("token"), _UNKNOWN.format("certificate")
_PLACES_EVERY_S: Final = 10.0
_ISOLATED_EVERY_S: Final = 2.0  # a message that tells of a change may be lost, and a device must be cut off all the same
_REFRESH_EVERY_S: Final = 0.2  # looks for unknown handles are this far apart, however many senders ask


@dataclass(frozen=True, slots=True)
class _Kept:
    at_s: float
    sender: Sender
    needs_certificate: bool = False
    until_us: int = 0  # of a certificate


class SqlIdentities:
    """`domain.ports.Identities` over the business database."""

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        self._engine = engine
        self._clock = clock or SystemClock()
        self._senders: dict[str, _Kept] = {}  # by the digest of the token, or by the fingerprint of the certificate
        self._wrong: dict[str, float] = {}  # when the digest of no token was looked for, the oldest first
        self._devices: Gathered[str, Row] = Gathered(lambda tokens: devices_of_tokens(engine, tokens))
        self._holders: Gathered[str, Row] = Gathered(lambda fingerprints: holders_of(engine, fingerprints))
        self._forgotten = 0
        self._places: dict[str, int] = {}  # of hospitals that were handed over
        self._look_again = asyncio.Event()
        self._numbers_of: dict[str, int] = {}  # a hospital's number, by the order in which this door met them
        self._hospital_of = np.full(1024, -1, dtype=np.int32)  # the number of each handle's hospital
        self._is_bulk = np.zeros(1024, dtype=np.bool_)  # whether each handle's readings are
        self._highest = 0
        self._looked_s = float("-inf")  # when the last look began
        self._looking = asyncio.Lock()

    def forget(self) -> None:
        """Drop what is remembered of tokens, after one was changed."""
        self._forgotten += 1
        self._senders.clear()
        self._wrong.clear()
        self._look_again.set()

    def place_of(self, hospital_id: str, shard: int) -> int:
        """As `domain.ports.Identities.place_of`; as new as `keep_places` is."""
        return self._places.get(hospital_id, shard)

    async def keep_places(self) -> None:
        """Know where hospitals are that were handed over, for ever: at once when told that something changed."""
        while True:
            self._look_again.clear()
            with contextlib.suppress(Unavailable):
                self._places = await asyncio.to_thread(places, self._engine)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PLACES_EVERY_S):
                    await self._look_again.wait()

    async def keep_isolated(self, recheck: Callable[[], None]) -> None:
        """Know for ever which devices are cut off: on a change forget who was known, and `recheck` who is connected."""
        isolated: frozenset[int] = frozenset()
        while True:
            try:
                found = await asyncio.to_thread(isolated_handles, self._engine)
            except Unavailable:
                found = isolated  # nothing is known against anybody
            except Exception:  # whatever it was: a door that looks no more would let the isolated stay
                logger.exception("isolated devices could not be looked for: tried again in %.0f s", _ISOLATED_EVERY_S)
                found = isolated
            if found != isolated:
                isolated = found
                self.forget()
                recheck()
            await asyncio.sleep(_ISOLATED_EVERY_S)

    async def sender_of(self, shown: Shown) -> Sender:
        """As `domain.ports.Identities.sender_of`."""
        if shown.certificate is None:
            return await self._by_tokens(shown.tokens)
        sender = await self._by_certificate(shown.certificate)
        for place, token in enumerate(shown.tokens, start=1):
            try:
                beside = (await self._found(token))[0]
            except Unauthenticated:
                if shown.is_named and place == len(shown.tokens):
                    continue
                raise WrongCertificate(f"the token beside the certificate of {sender.name} is unknown") from None
            if beside.handle != sender.handle:
                raise WrongCertificate(f"the certificate is {sender.name}'s, the token beside it another device's")
            sender = replace(sender, credentials=(*sender.credentials, *beside.credentials))
        return sender

    async def _by_tokens(self, tokens: Sequence[str]) -> Sender:
        for token in tokens[:-1]:
            try:
                return await self.identify(token)
            except CertificateRequired:
                raise
            except Unauthenticated:
                continue
        if not tokens:
            raise Unauthenticated("nothing was shown: expected a token, or a certificate")
        return await self.identify(tokens[-1])

    async def identify(self, token: str) -> Sender:
        """The device or gateway that holds `token`, and needs no more; raises Unauthenticated.

        However many tokens are wrong, or new here, at a time: they are looked for together.
        """
        sender, needs_certificate = await self._found(token)
        if needs_certificate:
            raise CertificateRequired(f"{sender.name} has to show its certificate: its token alone opens nothing")
        return sender

    async def _found(self, token: str) -> tuple[Sender, bool]:
        digest = token_digest(token)
        kept = self._senders.get(digest)
        if kept is not None and time.monotonic() - kept.at_s < _REMEMBER_S:
            return kept.sender, kept.needs_certificate
        if time.monotonic() - self._wrong.get(digest, float("-inf")) < _REMEMBER_WRONG_S:
            raise Unauthenticated(_UNKNOWN_TOKEN)
        forgotten = self._forgotten
        row = await self._devices.get(token)
        if row is None:
            if forgotten == self._forgotten:
                keep_newest(self._wrong, digest, time.monotonic(), _MOST_WRONG)
            raise Unauthenticated(_UNKNOWN_TOKEN)
        sender = _sender(row, row["token_digest"])
        if forgotten == self._forgotten:  # else the row may be older than the change
            self._senders[digest] = _Kept(time.monotonic(), sender, needs_certificate=row["needs_certificate"])
        return sender, row["needs_certificate"]

    async def _by_certificate(self, fingerprint: str) -> Sender:
        """The holder of a certificate that is good now: who made it was checked when hands were shaken."""
        now_us = self._clock.now_us()
        kept = self._senders.get(fingerprint)
        if kept is not None and time.monotonic() - kept.at_s < _REMEMBER_S and now_us < kept.until_us:
            return kept.sender
        forgotten = self._forgotten
        row = await self._holders.get(fingerprint)
        if row is None:
            raise WrongCertificate(_UNKNOWN_CERTIFICATE)
        sender = _sender(row, fingerprint)
        if row["revoked_us"] is not None or row["until_us"] <= now_us:
            why = "it was revoked" if row["revoked_us"] is not None else "it has ended, or another one took its place"
            raise WrongCertificate(f"the certificate of {sender.name} is good no more: {why}")
        if forgotten == self._forgotten:
            self._senders[fingerprint] = _Kept(time.monotonic(), sender, until_us=row["until_us"])
        return sender

    async def revoked(self, senders: Sequence[Sender]) -> list[Sender]:
        """As `domain.ports.Identities.revoked`: the database is asked, whatever is remembered."""
        handles = [sender.handle for sender in senders]
        good = await asyncio.to_thread(standing, self._engine, handles, self._clock.now_us())
        return [sender for sender in senders if sender.handle not in good or not good[sender.handle].holds(sender.credentials)]

    async def shards_of(self, sender: Sender, handles: NDArray[np.uint32]) -> NDArray[np.int16]:
        """The shard of each handle, -1 for one that is unknown or of another hospital than the sender's.

        A handle that is unknown here is looked for before it is called unknown: its device may be a moment old.
        """
        numbers = self._numbers(handles)
        if (numbers < 0).any():
            await self._look_since(time.monotonic())
            numbers = self._numbers(handles)
        own = self._numbers_of.get(sender.hospital_id, -1)
        shard = self.place_of(sender.hospital_id, sender.shard)
        shards: NDArray[np.int16] = np.where((numbers == own) & (numbers >= 0), shard, -1).astype(np.int16)
        return shards

    def lane_of(self, handles: NDArray[np.uint32]) -> Lane:
        """As `domain.ports.Identities.lane_of`."""
        return Lane.BULK if self._is_bulk[handles].all() else Lane.PRIORITY

    def _numbers(self, handles: NDArray[np.uint32]) -> NDArray[np.int32]:
        known = handles < len(self._hospital_of)
        return np.where(known, self._hospital_of[np.where(known, handles, 0)], -1)

    async def _look_since(self, asked_s: float) -> None:
        """Learn the handles that exist at `asked_s`. All who ask before a look begins share it."""
        async with self._looking:
            if self._looked_s > asked_s:
                return
            wait_s = self._looked_s + _REFRESH_EVERY_S - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            looked_s = time.monotonic()
            rows = await asyncio.to_thread(self._handles_beyond, self._highest)
            self._looked_s = looked_s
            self._learn(rows)

    def _learn(self, rows: list[tuple[int, str, str]]) -> None:
        if not rows:
            return
        self._highest = max(handle for handle, _, _ in rows)
        if self._highest >= len(self._hospital_of):
            more = max(self._highest + 1, 2 * len(self._hospital_of)) - len(self._hospital_of)
            self._hospital_of = np.append(self._hospital_of, np.full(more, -1, dtype=np.int32))
            self._is_bulk = np.append(self._is_bulk, np.zeros(more, dtype=np.bool_))
        handles = [handle for handle, _, _ in rows]
        numbers_of = self._numbers_of
        self._hospital_of[handles] = [numbers_of.setdefault(hospital_id, len(numbers_of)) for _, hospital_id, _ in rows]
        self._is_bulk[handles] = [model in _BULK_MODELS for _, _, model in rows]

    def _handles_beyond(self, highest: int) -> list[tuple[int, str, str]]:
        """New handles with their hospitals and models: one statement, so one moment. In two, a device that is registered
        between them stays below the highest handle seen and is never found.
        """
        kinds = ((devices, devices.c.model), (patients, literal("")))
        query = union_all(*(select(t.c.handle, t.c.hospital_id, model).where(t.c.handle > highest) for t, model in kinds))
        with reading(self._engine) as connection:
            return [(handle, hospital_id, model) for handle, hospital_id, model in connection.execute(query)]


def _sender(row: Row, credential: str) -> Sender:
    model = thing_model(row["model"])
    return Sender(
        name=f"{row['hospital_id']}/{row['device_id']}", handle=row["handle"], hospital_id=row["hospital_id"],
        shard=row["shard"], model=model if model.channels else None, credentials=(credential,),
    )  # fmt: skip
