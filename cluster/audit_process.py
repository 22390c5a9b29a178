"""The access log's process: alone writes to it and signs it. See `runtime.log_keeper`. Started by `cluster.platform`.

A log that is damaged keeps nobody's vital signs away: this process starts all the same, takes nothing more into the log,
and says so.
"""

from __future__ import annotations

import asyncio
import secrets

import uvloop

from cluster.connection import Connection
from cluster.processes import tell_ready, until_ended
from domain import bus_rights
from domain.log_entries import SALT_BYTES
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.log import configure_logging
from runtime.log_following import LogFollowing
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.priority import share_finely
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys
from runtime.tasks import end


async def main() -> None:
    """Keep the log until asked to end."""
    share_finely()
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    connection = Connection.load(settings.data_dir)
    bus = await Bus.connect(connection.nats_url, connection.bus_key(bus_rights.AUDIT), "audit")
    signer = LogSigner(SoftKeys(settings.keys_dir), settings.audit_origin)

    def open_log() -> LogKeeper:
        return LogKeeper.open(settings.audit_dir, signer, lambda: secrets.token_bytes(SALT_BYTES))

    following = asyncio.create_task(LogFollowing(bus, open_log, SystemClock()).run(), name="follow")
    ended = asyncio.create_task(until_ended(), name="until ended")
    tell_ready()
    await asyncio.wait((ended, following), return_when=asyncio.FIRST_COMPLETED)
    has_broken = following.done()
    await end(ended, following)
    await bus.close()
    if has_broken:  # this process is nothing without it; its keeper starts another
        await following


if __name__ == "__main__":
    uvloop.run(main())
