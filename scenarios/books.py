"""The generator's books: every reading it sent and whether it was acknowledged, and when each message was due.

Kept as columns while the run lasts, written once at its end as an Arrow file for the ledger and for matching alarms
to the reading that caused them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scenarios.ledger import Keys

_BASE: Final = b"sequence-base"


class Books:
    """One row a message: its readings' keys, when it was due, the event times it carried, and its acknowledgement."""

    def __init__(self, base: int = 0) -> None:
        self._base = base
        self._keys: list[Keys] = []
        self._sources: list[int] = []
        self._due_us: list[int] = []
        self._from_us: list[int] = []
        self._until_us: list[int] = []
        self._acknowledged = bytearray()

    def sent(self, source: int, keys: Keys, *, due_us: int, times_us: tuple[int, int]) -> int:
        """Enter a message as it leaves; returns its number."""
        self._keys.append(keys)
        self._sources.append(source)
        self._due_us.append(due_us)
        self._from_us.append(times_us[0])
        self._until_us.append(times_us[1])
        self._acknowledged.append(0)
        return len(self._keys) - 1

    def acknowledged(self, number: int) -> None:
        self._acknowledged[number] = 1

    def save(self, path: Path) -> None:
        table = pa.table({
            "source": pa.array(self._sources, pa.uint32()),
            "due_us": pa.array(self._due_us, pa.int64()),
            "from_us": pa.array(self._from_us, pa.int64()),
            "until_us": pa.array(self._until_us, pa.int64()),
            "acknowledged": pa.array(np.frombuffer(bytes(self._acknowledged), np.uint8)),
            "keys": pa.array(self._keys, pa.large_list(pa.uint64())),
        })  # fmt: skip
        table = table.replace_schema_metadata({_BASE: str(self._base)})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


class ClosedBooks:
    """Books read back. `due_of` answers when the reading behind an alarm was due."""

    def __init__(self, table: pa.Table) -> None:
        keys = table["keys"].combine_chunks()
        lengths = np.diff(keys.offsets.to_numpy())
        acknowledged = table["acknowledged"].to_numpy().astype(bool)
        self.sent: Keys = keys.flatten().to_numpy(zero_copy_only=False).astype(np.uint64, copy=False)
        self.acknowledged: Keys = self.sent[np.repeat(acknowledged, lengths)]
        self.base = int((table.schema.metadata or {}).get(_BASE, b"0"))
        self.sources: NDArray[np.uint32] = np.unique(table["source"].to_numpy())
        self._by_source = _by_source(table)

    @classmethod
    def load(cls, path: Path) -> ClosedBooks:
        with pa.memory_map(str(path)) as source:
            return cls(pa.ipc.open_file(source).read_all())

    def span_us(self) -> tuple[int, int]:
        """The least and greatest event time sent; (0, 0) when nothing was."""
        starts = [rows["from_us"].min() for rows in self._by_source.values() if len(rows["from_us"])]
        ends = [rows["until_us"].max() for rows in self._by_source.values() if len(rows["until_us"])]
        return (int(min(starts)), int(max(ends))) if starts else (0, 0)

    def due_of(self, source: int, event_us: int) -> int | None:
        """When the first message of `source` that carried event time `event_us` was due; None when none did."""
        rows = self._by_source.get(source)
        if rows is None:
            return None
        carries = (rows["from_us"] <= event_us) & (event_us <= rows["until_us"])
        due: NDArray[np.int64] = rows["due_us"][carries]
        return int(due.min()) if len(due) else None


def _by_source(table: pa.Table) -> dict[int, dict[str, NDArray[Any]]]:
    columns = {name: table[name].to_numpy() for name in ("source", "due_us", "from_us", "until_us")}
    order = np.argsort(columns["source"], kind="stable")
    sources, starts = np.unique(columns["source"][order], return_index=True)
    parts = np.split(order, starts[1:])
    return {
        int(source): {name: column[rows] for name, column in columns.items()}
        for source, rows in zip(sources, parts, strict=True)
    }
