"""What tests put in the way of a platform's processes, from the outside: its code has no line for them.

`links`: part of a bus connection's name -> url of the proxy it goes through instead of to the nats-server.
`clock_file`: a file with microseconds that every process adds to the time of day.
`broken`: deliberately broken variants of the code, by which the history checker is shown to go red.

A module is changed once it has been imported, so that nothing is imported earlier than it would be.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

Change = Callable[[Any], None]


def install(words: str) -> None:
    """Prepare the changes that `words` ask for."""
    wanted = json.loads(words)
    changes: dict[str, list[Change]] = {}
    if wanted.get("links"):
        changes.setdefault("runtime.bus", []).append(lambda module: _lead_through(module, wanted["links"]))
    if wanted.get("clock_file"):
        changes.setdefault("runtime.clock", []).append(lambda module: _move_clock(module, Path(wanted["clock_file"])))
    if wanted.get("broken"):
        import broken_variants  # noqa: PLC0415 (only a broken platform may have read it)

        for variant in wanted["broken"]:
            name, change = broken_variants.BROKEN[variant]
            changes.setdefault(name, []).append(change)
    if changes:
        sys.meta_path.insert(0, _Changer(changes))


class _Changer(importlib.abc.MetaPathFinder):
    def __init__(self, changes: dict[str, list[Change]]) -> None:
        self._changes = changes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        changes = self._changes.pop(name, None)
        spec = importlib.util.find_spec(name) if changes else None
        if changes is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            for change in changes:
                change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _lead_through(bus: Any, links: dict[str, str]) -> None:
    connect = bus.Bus.connect.__func__

    async def through(cls: Any, url: str, token: str, name: str) -> Any:
        proxy = next((proxy for part, proxy in links.items() if part in name), url)
        return await connect(cls, proxy, token, name)

    bus.Bus.connect = classmethod(through)


def _move_clock(clock: Any, file: Path) -> None:
    now_us = clock.SystemClock.now_us

    def moved_us(self: Any) -> int:
        try:
            return int(now_us(self)) + int(file.read_text() or 0)
        except (FileNotFoundError, ValueError):
            return int(now_us(self))

    clock.SystemClock.now_us = moved_us
