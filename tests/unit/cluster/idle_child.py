"""A process that says that it is ready, and ends when it is asked to. Run by `test_processes.py`."""

from __future__ import annotations

import asyncio

from cluster.processes import tell_ready, until_ended


async def main() -> None:
    tell_ready()
    await until_ended()


if __name__ == "__main__":
    asyncio.run(main())
