"""The platform's own witness of its access log, in a process with a key of its own. Started by `cluster.platform`.

It listens at a socket in its folder, which only the platform's user can reach: no port, and nobody to be told from
another. What it cannot open (a damaged file, a key that is gone) keeps nothing from starting; it says so, and looks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from cluster.processes import tell_ready, until_ended
from cluster.serving import serving_at
from cluster.witness_serving import WitnessApp
from domain.errors import VitalgridError
from domain.signed_notes import PublicKey
from runtime.clock import SystemClock
from runtime.key_provider import provider_in
from runtime.log import configure_logging
from runtime.log_store import LogReader
from runtime.priority import share_finely
from runtime.settings import Settings
from runtime.tasks import end
from runtime.witness import Witness, keys_from
from runtime.witness_client import listen_at

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S: Final = 10.0


def witness_socket(settings: Settings) -> Path:
    """Where the platform's own witness listens."""
    return settings.witness_dir / "socket"


async def main() -> None:
    """Witness until asked to end."""
    share_finely()
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    folder = settings.witness_dir
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    app = WitnessApp()
    async with serving_at(listen_at(witness_socket(settings)), app):
        opening = asyncio.create_task(_open(app, settings), name="open")
        tell_ready()
        await until_ended()
        await end(opening)
    witness_socket(settings).unlink(missing_ok=True)  # copies of the folder need not meet it
    if app.witness is not None:
        app.witness.close()


async def _open(app: WitnessApp, settings: Settings) -> None:
    """As soon as it can be. The log says with which keys it signs: whoever could change that file has the log's keys too."""
    log, folder = LogReader(settings.audit_dir), settings.witness_dir

    def keys_of(origin: str) -> Sequence[PublicKey]:
        return keys_from((log.keys() or b"").decode().split(), origin) if origin == settings.audit_origin else ()

    while app.witness is None:
        try:
            keys, name = provider_in(folder / "keys"), f"{settings.audit_origin}/witness"
            app.witness = await asyncio.to_thread(Witness.open, folder, keys, name, keys_of, SystemClock())
        except (VitalgridError, OSError) as error:
            logger.error("the witness cannot sign: %s", error)
            await asyncio.sleep(_LOOK_AGAIN_S)


if __name__ == "__main__":
    uvloop.run(main())
