"""Memories that are bounded: dicts, the oldest first."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep_newest(memory: dict[K, V], key: K, value: V, most: int) -> None:
    """Put it as the newest; beyond `most` the oldest go."""
    memory.pop(key, None)
    memory[key] = value
    while len(memory) > most:
        del memory[next(iter(memory))]
