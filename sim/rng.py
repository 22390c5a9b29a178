"""Named random streams from one seed. The only place where randomness is made.

Each stream is a numpy Generator whose seed follows from the run's seed and the stream's *name*, not from the order
in which streams are asked for: adding a source of randomness never shifts another one's draws.
"""

from __future__ import annotations

import numpy as np
import xxhash

from domain.errors import InvalidInput


class Streams:
    """The streams of one run. `stream("network", 7)` always starts at the same place for the same seed."""

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise InvalidInput(f"seed {seed} is negative: expected 0 or more")
        self.seed = seed

    def stream(self, *name: str | int) -> np.random.Generator:
        """A fresh generator for `name`; asking twice gives the same draws twice, so keep what you got."""
        digest = xxhash.xxh3_128_intdigest("/".join(map(str, name)).encode())
        words = tuple(digest >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96))
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=words)))
