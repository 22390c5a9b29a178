"""Options that commands have in common: which platform of this machine, and with whose token it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.run_target import local_target, settings_of
from scenarios.target import Target

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Data directory of the platform (default: var).")]
Token = Annotated[str | None, typer.Option("--token", help="API token (default: this machine's own).")]


def target_of(token: str | None, data_dir: Path | None) -> Target:
    """The running platform that these options name. Raises Unavailable, or Unauthenticated without a token."""
    return local_target(settings_of(data_dir), token)
