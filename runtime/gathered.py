"""Questions by key that come while one is being answered are put together: a flood of them is few questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_AT_ONCE: Final = 500


class Gathered(Generic[K, V]):
    """`ask` runs in a thread, never twice at once, with at most `at_once` keys, the first that came first."""

    def __init__(self, ask: Callable[[list[K]], Mapping[K, V]], at_once: int = _AT_ONCE) -> None:
        self._ask = ask
        self._at_once = at_once
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """What is known of `key`, asked for after this call began; raises what `ask` raises."""
        answer = self._waiting.get(key)
        if answer is None:
            answer = self._waiting[key] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may have left
        if self._asking is None:
            self._asking = asyncio.create_task(self._put(), name="ask for what was gathered")
        return await asyncio.shield(answer)

    async def _put(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[: self._at_once]
                answers = {key: self._waiting.pop(key) for key in keys}
                try:
                    found = await asyncio.to_thread(self._ask, keys)
                except Exception as error:  # noqa: BLE001 (whatever it is, it is theirs who asked)
                    for answer in answers.values():
                        answer.set_exception(error)
                else:
                    for key, answer in answers.items():
                        answer.set_result(found.get(key))
        finally:
            self._asking = None
