"""Ports: what one layer needs of another, as small protocols. Implementations live in `runtime/` and `actors/`."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from domain.enrolment import Enrolled
from domain.messages import DeviceEvent, SecurityNotice
from domain.readings import ReadingBatch
from domain.thing_models import Lane, ThingModel


class Clock(Protocol):
    """The only source of now. Injected, so that time can be stopped in tests."""

    def now_us(self) -> int:
        """UTC microseconds."""
        ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Who is talking at a door. `handle` is its own; `model` is None for a gateway that carries other devices.

    `shard`: where its hospital was when it was identified; `Identities.place_of` knows where it is now.
    `credentials`: what it came with, in the words of `Identities`: a token's digest, a certificate's fingerprint, or both.
    """

    name: str
    handle: int
    hospital_id: str
    shard: int
    model: ThingModel | None = None
    credentials: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that readings are kept: the stream position of the frame that carries them. Of an event, `readings` is 0.

    `counts_anew`: with them their sender began to number from the start again, and did not say when it did.
    """

    shard: int
    stream_sequence: int
    readings: int
    counts_anew: bool = False


class KeptIn(StrEnum):
    STREAM = "stream"
    LAKE = "lake"


@dataclass(frozen=True, slots=True)
class ReceiptState:
    """Where what a receipt stands for lies now. In the stream: since when, and how many readings are the asker's."""

    kept_in: KeptIn
    stored_us: int | None
    readings: int | None


class Receipts(Protocol):
    """Looks receipts up."""

    async def look_up(self, sender: Sender, shard: int, sequence: int) -> ReceiptState:
        """Raises NotFound for a receipt that was never the sender's, Unavailable, or IntegrityViolation (damaged)."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """What somebody at a door shows of itself. `certificate`: the fingerprint of the one whose key it has proved to have.

    `tokens`: what may be its token, the likeliest first. `is_named`: the last of them may be no more than a name.
    """

    certificate: str | None = None
    tokens: tuple[str, ...] = ()
    is_named: bool = False

    @property
    def is_nothing(self) -> bool:
        return self.certificate is None and not self.tokens


class Identities(Protocol):
    """Who holds a token or a certificate, and which handles a sender may speak for."""

    async def sender_of(self, shown: Shown) -> Sender:
        """The sender who shows this: all that is shown has to be the same device's. Raises Unauthenticated, Unavailable."""
        ...

    async def revoked(self, senders: Sequence[Sender]) -> list[Sender]:
        """Those who came with something that is good no more: replaced, revoked, ended, or of a device retired or isolated.

        Raises Unavailable.
        """
        ...

    def place_of(self, hospital_id: str, shard: int) -> int:
        """The shard that a hospital is in now, if it was handed over since it was in `shard`. Never waits."""
        ...

    async def shards_of(self, sender: Sender, handles: NDArray[np.uint32]) -> NDArray[np.int16]:
        """The shard of each handle; -1 where the handle is unknown or not of the sender's hospital."""
        ...

    def lane_of(self, handles: NDArray[np.uint32]) -> Lane:
        """The lane of readings of devices that `shards_of` has found: bulk when all of them are."""
        ...


class Enrolment(Protocol):
    """Gives devices what they will prove with who they are."""

    async def claim(self, code: str, request: bytes, address: str) -> Enrolled:
        """What a claim code is good for: a certificate for the key of `request` (PKCS #10), or a token when it is empty.

        Raises InvalidInput, Unauthenticated, Conflict (used already), TooManyAttempts or Busy (of `address`), Unavailable.
        """
        ...

    async def renew(self, sender: Sender, request: bytes) -> Enrolled:
        """Another certificate for who is known already. Raises InvalidInput, Conflict, TooManyRequests or Busy, Unavailable."""
        ...


class Intake(Protocol):
    """The one way in for readings, shared by all doors."""

    def submit(self, sender: Sender, readings: ReadingBatch, arrival_us: int = 0) -> Awaitable[Receipt]:
        """Done once the readings are fsynced in the stream (one group commit serves many callers).

        `arrival_us`: the event time of readings that state none. What came before is answered as then, and not stored again.

        Raises RejectedInput when none of them can be taken (the whole batch is refused, nothing is stored), and
        Unavailable when the stream does not answer or is full: the sender keeps its readings and tries again.
        """
        ...

    async def tell_event(self, event: DeviceEvent | SecurityNotice, shard: int) -> None:
        """Put a device's event, or a notice about it, into the stream; same guarantees as `submit`."""
        ...

    async def submit_event(self, sender: Sender, event: DeviceEvent) -> Receipt:
        """As `tell_event`, of an event that `sender` says of a device: RejectedInput when it may not speak for it.

        Events of one sender reach the stream in the order in which they were submitted.
        """
        ...

    def allowance(self, sender: Sender) -> int:
        """How many messages of this sender a door may hold unanswered now: 1 while such messages wait for room, and 0
        while so much waits that a door had better read nothing. Asking again is all that tells of a change.
        """
        ...

    def reject(self, *, door: str, sender: Sender | None, topic: str | None, payload: bytes,
               reason: str, detail: str) -> Awaitable[None]:  # fmt: skip
        """Keep a refused message with its reason; returns once it is stored."""
        ...


class PackedIntake(Intake, Protocol):
    """An Intake that also takes single readings as packed records, which costs a fraction of columns."""

    def submit_packed(self, sender: Sender, rows: bytes, arrival_us: int = 0) -> Awaitable[Receipt]:
        """As `submit`, of `domain.readings.ROW` records that are all of the sender's own handle."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A sender's idempotency key, taken for one body. `arrival_us` is the first attempt's; `receipt` its answer, if any."""

    name: str
    sequence: int
    arrival_us: int
    body: str
    receipt: Receipt | None = None


class OnceIntake(Intake, Protocol):
    """An Intake that also knows requests by a key of the sender's, so that a repeated one is stored once."""

    async def claim(self, sender: Sender, content: ReadingBatch | DeviceEvent, key: str, payload: bytes) -> Claim:
        """Take `key` for this payload, or find it taken. Raises Conflict when it was taken for another payload.

        `content` is the payload's; RejectedInput as `submit`, before the key is taken.
        """
        ...

    async def submit_once(self, sender: Sender, content: ReadingBatch | DeviceEvent, claim: Claim) -> Receipt:
        """As `submit`; of all calls with one claim, the first stores and the others get its receipt."""
        ...


class Scorer(Protocol):
    """A streaming detector over channels: columns in, scores out; no bus, no clock, no Ray."""

    name: str
    version: int

    def score(self, rows: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score values in order, each against what came before it in its channel row; NaN while still learning."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all it has learnt: arrays of one length. `load_state` of it goes on as if never stopped."""
        ...

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take what `state` gave, in place of whatever is here."""
        ...
