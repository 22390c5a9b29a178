"""Hospitals on their way from one shard to another, as both shards see them; decision 0014.

All shards share one stream, so one message in it is one moment for both of them. `prepare` tells the new shard to follow
the old one's subjects too. At `cut`, a message among the old shard's, the old one gives the hospital's state away and the
new one takes it up; whatever of the hospital still comes by the old shard's subjects behind it is the new one's, in the
stream's order. At `settle` that ends: by then every door sends to the new shard.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from domain.messages import Control, DevicesRegistered, HandOver, PatientAdmitted

_TABLE: Final = "hand_overs"
_SCHEMA: Final = pa.schema([
    ("number", pa.int64()), ("hospital_id", pa.string()), ("from_shard", pa.int64()), ("to_shard", pa.int64()),
    ("is_cut", pa.bool_()), ("handles", pa.list_(pa.int64())),
])  # fmt: skip


@dataclass(slots=True)
class _UnderWay:
    """One hand-over; `handles`: of what has gone from here, so that its readings are known to be another's."""

    number: int
    hospital_id: str
    from_shard: int
    to_shard: int
    is_cut: bool = False
    handles: list[int] = field(default_factory=list)


class HandOvers:
    """The hand-overs that a shard takes part in and that are not settled."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._under_way: dict[str, _UnderWay] = {}
        self._away = np.empty(0, dtype=np.int64)

    def prepare(self, message: HandOver) -> None:
        """Expect a hospital."""
        if not self._is_over(message):
            self._under_way[message.hospital_id] = _of(message)

    def cut(self, message: HandOver, handles: NDArray[np.uint32]) -> None:
        """The hospital has changed hands; `handles` of what went, where it went from here."""
        known = self._under_way.setdefault(message.hospital_id, _of(message))
        known.is_cut, known.handles = True, sorted(handles.tolist())
        self._note()

    def settle(self, message: HandOver) -> None:
        known = self._under_way.get(message.hospital_id)
        if known is not None and known.number == message.number:
            del self._under_way[message.hospital_id]
            self._note()

    def is_done(self, message: HandOver) -> bool:
        """Whether this cut was made before."""
        known = self._under_way.get(message.hospital_id)
        return known is not None and known.number == message.number and known.is_cut

    def sources(self) -> list[int]:
        """Shards whose messages are followed too."""
        return sorted({one.from_shard for one in self._under_way.values() if one.to_shard == self._shard})

    def arrived_from(self, shard: int) -> set[str]:
        """Hospitals whose messages still come by `shard`'s subjects, and are ours."""
        return {
            one.hospital_id
            for one in self._under_way.values()
            if one.is_cut and (one.from_shard, one.to_shard) == (shard, self._shard)
        }

    def is_gone(self, message: Control) -> bool:
        """Whether a message among ours is of a hospital that has gone from here. What it brings has gone there too."""
        known = self._under_way.get(message.hospital_id)
        if known is None or not known.is_cut or known.from_shard != self._shard:
            return False
        if isinstance(message, DevicesRegistered):
            known.handles = sorted({*known.handles, *message.handles})
        elif isinstance(message, PatientAdmitted):
            known.handles = sorted({*known.handles, message.handle})
        self._note()
        return True

    def are_gone(self, handles: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which of these are of hospitals that have gone from here."""
        return np.isin(handles, self._away)

    def snapshot(self) -> dict[str, pa.Table]:
        return {_TABLE: pa.Table.from_pylist([asdict(one) for one in self._under_way.values()], schema=_SCHEMA)}

    def restore(self, tables: dict[str, pa.Table]) -> None:
        rows = tables[_TABLE].to_pylist() if _TABLE in tables else []
        self._under_way = {row["hospital_id"]: _UnderWay(**row) for row in rows}
        self._note()

    def _is_over(self, message: HandOver) -> bool:
        known = self._under_way.get(message.hospital_id)
        return known is not None and known.number >= message.number

    def _note(self) -> None:
        gone = [one.handles for one in self._under_way.values() if one.is_cut and one.from_shard == self._shard]
        self._away = np.array(sorted(handle for handles in gone for handle in handles), dtype=np.int64)


def _of(message: HandOver) -> _UnderWay:
    return _UnderWay(message.number, message.hospital_id, message.from_shard, message.to_shard)
