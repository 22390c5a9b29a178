"""Tells the supervisor which shards are dedicated, as the business database says it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sqlalchemy import Engine

from cluster.supervisor import Supervisor
from runtime.sql.placement import dedicated

logger = logging.getLogger(__name__)

_LOOK_S: Final = 1.0


class Dedications:
    """`look` once before hosts start, then `run` beside them. While the database is away, what was known stays."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shards: frozenset[int] = frozenset()

    async def look(self) -> frozenset[int]:
        """Shards that are to have a host with nothing else on it: also one that its hospital is just leaving.

        Raises what the database raises.
        """
        wanted, left_soon = await asyncio.to_thread(dedicated, self._engine)
        self._shards = frozenset(wanted | (self._shards & left_soon))
        return self._shards

    async def run(self, supervisor: Supervisor) -> None:
        """Look for ever. That it fails is said once, until it works again."""
        failed = False
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                supervisor.dedicate(await self.look())
            except Exception as error:  # noqa: BLE001 (a database that is away or busy in any way: it is asked again)
                if not failed:
                    logger.warning("which shards are dedicated cannot be read: %s", error)
                failed = True
            else:
                failed = False
