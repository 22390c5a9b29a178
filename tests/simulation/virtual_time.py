"""Virtual time: an asyncio loop whose clock jumps when everything waits, and nodes that can die between two steps.

A node is a process of the platform. Tasks belong to the node in whose context they were made; a node that dies takes
its tasks along, whatever they were doing, and nothing that was on its way to it arrives. Threads are virtual too: what
goes to one happens all at once, some time later, and is told to the loop some time after that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

EPOCH_US = 1_790_000_000_000_000  # virtual second 0
_THREAD_S = 0.04  # the longest that a thread waits before it does its work, and before the loop hears of it


class Stuck(Exception):
    """Everything waits for something that nobody will do."""


class VirtualLoop(asyncio.base_events.BaseEventLoop):
    """See module. There are no sockets and no threads in it; a step takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._selector = self
        self.set_task_factory(_task_of_node)

    def time(self) -> float:
        return self.now_s

    def select(self, timeout: float | None) -> list[Any]:
        """Nothing is ready: time goes on to whatever is next."""
        if timeout is None:
            raise Stuck(f"after {self.now_s:.3f} s nobody has anything left to do")
        self.now_s += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        node, future = NODE.get(), self.create_future()

        def work() -> None:
            if node.is_dead:
                return
            try:
                result, error = func(*args), None
            except Exception as raised:  # noqa: BLE001 (a thread hands on whatever was raised in it)
                result, error = None, raised
            self.call_later(node.random.uniform(0, _THREAD_S), tell, result, error)

        def tell(result: Any, error: Exception | None) -> None:
            if node.is_dead or future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.call_later(node.random.uniform(0, _THREAD_S), work)
        return future


class Node:
    """A process: its tasks, its own chance, and its clock, which may be off from the world's."""

    def __init__(self, name: str, seed: str) -> None:
        self.name = name
        self.random = random.Random(f"{seed}/{name}")
        self.is_dead = False
        self.died = asyncio.Event()
        self.clock_off_us = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which they were made

    def now_us(self) -> int:
        """`domain.ports.Clock`."""
        return EPOCH_US + round(asyncio.get_running_loop().time() * 1e6) + self.clock_off_us

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of this node, whoever asks for it."""
        return self.call(asyncio.get_running_loop().create_task, work)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call in this node's context: tasks and timers that come of it are the node's."""
        context = copy_context()
        context.run(NODE.set, self)
        return context.run(function, *args)

    def die(self) -> None:
        self.is_dead = True
        for task in self._tasks:
            task.cancel()
        self.died.set()

    def own(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        if self.is_dead:
            task.cancel()


NODE: ContextVar[Node] = ContextVar("node")


def _task_of_node(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **more)
    node = NODE.get(None)
    if node is not None:
        node.own(task)
    return task


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on a new loop; whatever else is still running then is cancelled."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(work)
    finally:
        for _ in range(3):  # one cancel may be swallowed
            rest = asyncio.all_tasks(loop)
            for task in rest:
                task.cancel()
            if rest:
                loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
