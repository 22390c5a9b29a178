"""The access log's process: alone writes to it and signs it. See `runtime.log_keeper`. Started by `cluster.platform`.

A log that is damaged keeps nobody's vital signs away: this process starts all the same, takes nothing more into the log,
and says so.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import uvloop

from cluster.connection import Connection
from cluster.processes import tell_ready, until_ended
from cluster.witness_process import witness_socket
from domain import bus_rights
from domain.errors import Unavailable
from domain.log_entries import SALT_BYTES
from domain.signed_notes import PublicKey
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.key_provider import provider_of
from runtime.log import configure_logging
from runtime.log_following import LogFollowing
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_witnesses import LogWitness, LogWitnesses
from runtime.priority import share_finely
from runtime.settings import Settings
from runtime.tasks import end
from runtime.tls import Trust
from runtime.witness import VKEY
from runtime.witness_client import WitnessClient


async def main() -> None:
    """Keep the log until asked to end."""
    share_finely()
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    connection = Connection.load(settings.data_dir)
    bus = await Bus.connect(connection.nats_url, connection.bus_key(bus_rights.AUDIT), "audit")
    signer = LogSigner(provider_of(settings), settings.audit_origin)
    witnesses = LogWitnesses(signer, list(_witnesses(settings)))

    def open_log() -> LogKeeper:
        return LogKeeper.open(settings.audit_dir, signer, lambda: secrets.token_bytes(SALT_BYTES), witnesses=witnesses)

    following = asyncio.create_task(LogFollowing(bus, open_log, SystemClock(), witnesses).run(), name="follow")
    ended = asyncio.create_task(until_ended(), name="until ended")
    tell_ready()
    await asyncio.wait((ended, following), return_when=asyncio.FIRST_COMPLETED)
    has_broken = following.done()
    await end(ended, following)
    await bus.close()
    if has_broken:  # this process is nothing without it; its keeper starts another
        await following


def _witnesses(settings: Settings) -> Iterator[LogWitness]:
    """The platform's own, and those of the settings."""
    if settings.audit.own_witness:
        vkey = settings.witness_dir / VKEY

        def own() -> PublicKey:
            try:
                return PublicKey.parse(vkey.read_text().strip())
            except FileNotFoundError:
                raise Unavailable("it has not begun yet") from None

        yield LogWitness(WitnessClient(witness_socket(settings)), own, "the platform's own witness")
    for other in settings.audit.witnesses:
        public = PublicKey.parse(other.vkey)
        trust = Trust(str(other.ca_file) if other.ca_file else "")
        yield LogWitness(WitnessClient(other.url, trust), lambda public=public: public, other.url)  # type: ignore[misc]


if __name__ == "__main__":
    uvloop.run(main())
