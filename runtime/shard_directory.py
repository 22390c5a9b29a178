"""The directory of a shard over the bus: the business database's own word on who is in it, for a host that has none.

Hosts never read SQL, and need none as long as they have a snapshot or the stream reaches back to the first
registration. When neither is so, they ask here; the answer is the control messages themselves, one a line, so that
applying it is what hosts do with the stream anyhow. Why: docs/decisions/0011-the-directory-can-be-said-again.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from domain import subjects
from domain.errors import Unavailable
from domain.messages import Control, decode_controls, encode_controls
from runtime.bus import Bus

ANSWER_S: Final = 30.0  # the largest shard's devices are read, sent and taken well within it
PATIENCE_S: Final = 5.0  # how long nobody may answer before whoever asks gives up for now
_FIRST_WAIT_S: Final = 0.1
_LAST_WAIT_S: Final = 1.0


class ShardDirectory:
    """Answers for one business database; `answer` is a handler for `Bus.answer` on `subjects.DIRECTORIES`.

    `controls_of` is `runtime.sql.directory.shard_directory` of it: whoever only asks, as hosts do, loads nothing of SQL.
    """

    def __init__(self, controls_of: Callable[[int, int], list[Control]]) -> None:
        self._controls_of = controls_of
        self._one_at_a_time = asyncio.Lock()  # an answer can be large, and all shards may ask at once

    async def answer(self, payload: bytes, subject: str) -> bytes:
        """The present control messages of a shard, for a stream that begins at the sequence in `payload`.

        Raises Unavailable while the database is away.
        """
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._said, int(subject.rpartition(".")[2]), int(payload or b"0"))

    def _said(self, shard: int, since: int) -> bytes:
        return encode_controls(self._controls_of(shard, since))


async def ask_directory(bus: Bus, shard: int, patience_s: float = PATIENCE_S) -> list[Control]:
    """Who is in `shard`. Raises Unavailable when nobody could say it for `patience_s`."""
    loop = asyncio.get_running_loop()
    deadline_s, wait_s = loop.time() + patience_s, _FIRST_WAIT_S
    while True:
        try:
            since = (await bus.stream_state(subjects.READINGS_STREAM)).first_sequence
            said = await bus.ask(subjects.directory(shard), str(since).encode(), ANSWER_S)
        except Unavailable:
            if loop.time() + wait_s > deadline_s:
                raise
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LAST_WAIT_S)
            continue
        return await asyncio.to_thread(decode_controls, said)
