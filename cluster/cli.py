"""`vitalgrid`: the command line. Commands translate to calls; errors become one line and an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated, ClassVar, Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from cluster.lazy_commands import LazyCommands
from domain.errors import VitalgridError
from runtime.garbage import look_seldom_while_loading
from runtime.log import configure_logging, pass_over_what_is_no_fault
from runtime.private_folder import OWNER_ONLY, make_private
from runtime.settings import Settings

logger = logging.getLogger(__name__)


class _Commands(LazyCommands):
    ELSEWHERE: ClassVar[dict[str, str]] = {
        "doctor": "cluster.doctor:doctor",
        "scenario": "cluster.scenario_commands:scenario",
        "fleet": "cluster.fleet_commands:fleet",
        "devices": "cluster.device_commands:devices",
        "trace": "cluster.trace_commands:trace",
        "hosts": "cluster.hosts_commands:hosts",
        "user": "cluster.user_commands:user",
        "token": "cluster.token_commands:token_app",
        "bus": "cluster.bus_commands:bus",
        "log": "cluster.log_commands:log",
        "witness": "cluster.witness_commands:witness",
        "backup": "cluster.backup_commands:backup",
        "retention": "cluster.life_commands:retention",
        "keys": "cluster.keys_commands:keys",
        "sql-accounts": "cluster.sql_commands:sql_accounts",
        "ray-certificate": "cluster.ray_commands:ray_certificate",
    }


app = typer.Typer(
    name="vitalgrid",
    cls=_Commands,
    help="Regional medical IoT platform (T/GDIOT 009-2024): readings in, alarms and answers out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where the platform keeps everything (default: var).")]
_console = Console(stderr=True)
_STDERR: Final = 2


@app.callback()
def _root() -> None:
    """Keep `vitalgrid --help` about the platform, not about one command."""


@app.command()
def up(data_dir: DataDir = None) -> None:
    """Start the platform on this machine; stop it with Ctrl-C. Settings: vitalgrid.toml and VITALGRID_* variables."""
    settings = load_settings(data_dir)
    _prepare_ray(settings)
    from cluster.up import run_platform  # noqa: PLC0415 (imports Ray, which reads its environment then)

    asyncio.run(run_platform(settings, _console))


@app.command()
def demo(
    data_dir: DataDir = None,
    scenario_name: Annotated[str, typer.Option("--scenario", help="The story to play.")] = "calm-district",
    stay: Annotated[bool, typer.Option(help="Keep the platform up afterwards, until Ctrl-C.")] = True,
    assign: Annotated[list[str] | None, typer.Option("--set", help="Override of the scenario, as key=value.")] = None,
) -> None:
    """Start the platform, play a scenario against it with a live view, show the verdicts, and stay up (`make run`)."""
    settings = load_settings(data_dir)
    _prepare_ray(settings)
    from cluster.up import run_demo  # noqa: PLC0415 (as above)

    code = asyncio.run(run_demo(settings, _console, scenario_name, assign or [], stay=stay))
    raise typer.Exit(code)


@app.command()
def version() -> None:
    """Print the version."""
    try:
        typer.echo(metadata.version("vitalgrid"))
    except metadata.PackageNotFoundError:
        typer.echo("vitalgrid, run from its sources")


def _prepare_ray(settings: Settings) -> None:
    from cluster.pki import ray_tls  # noqa: PLC0415 (what only these two need; so below)
    from cluster.ray_environment import prepare_ray  # noqa: PLC0415

    prepare_ray(ray_tls(settings))
    _keep_apart(settings.data_dir / "log" / "ray.log")


def load_settings(data_dir: Path | None) -> Settings:
    """The settings in force; `--data-dir` wins over file and environment, for this process and its children."""
    if data_dir is not None:
        os.environ["VITALGRID_DATA_DIR"] = str(data_dir)
    settings = Settings()
    if make_private(settings.data_dir):  # before anything is put there
        _console.print(f"{settings.data_dir} was open to others, and is closed to them now", highlight=False)
    configure_logging(settings.log_level, settings.log_format, settings.data_dir / "log" / "up.log")
    return settings


def _keep_apart(log: Path) -> None:
    """What libraries write past Python (Ray's do, of each connection that fails) goes to `log`; words for people stay here."""
    if sys.stderr.fileno() != _STDERR:
        return  # done already
    sys.stderr = os.fdopen(os.dup(_STDERR), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    with log.open("ab") as file:
        os.dup2(file.fileno(), _STDERR)


def _end(number: int, _frame: FrameType | None) -> None:
    """Leave as after Ctrl-C, so that what was started for the time being is stopped. `up` listens for itself."""
    sys.exit(128 + number)


def main() -> None:
    """Entry point of the `vitalgrid` command. Exit codes: 0 done, 1 failed, 2 wrong use or settings."""
    os.umask(OWNER_ONLY)  # of all that is started from here too
    signal.signal(signal.SIGTERM, _end)
    pass_over_what_is_no_fault()
    look_seldom_while_loading()
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            if problem["loc"]:
                key = ".".join(map(str, problem["loc"]))
                says = f"[red]setting {key}[/red]: {problem['msg']} (given: {problem.get('input')!r})"
            else:  # about several: given is the whole tree then, passwords too
                says = f"[red]settings[/red]: {problem['msg']}"
            _console.print(says, highlight=False)
        sys.exit(2)
    except VitalgridError as error:
        _console.print(f"[red]{error}[/red]", highlight=False)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        logger.info("a file or folder cannot be used", exc_info=error)  # where it was, for the log of `up`
        _console.print(f"[red]{escape(str(error.filename))} cannot be used: {error.strerror}[/red]", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
