"""`vitalgrid fleet`: record what flows through the platform, and play recordings and real patients through its doors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table

from cluster.command_options import DataDir, Token, target_of
from cluster.rest_calls import ask
from cluster.run_target import settings_of, some_platform
from cluster.run_view import RunView, wide_console
from domain import subjects
from domain.alarms import INTENDED_USE
from domain.errors import InvalidInput
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.settings import Settings
from scenarios.launch import new_run_id
from scenarios.record import Recorded, Recorder
from scenarios.recorded import place_of
from scenarios.replay import Replay, ReplayResult, ReplayWish
from scenarios.target import Target
from scenarios.verdicts import ExitCode

fleet = typer.Typer(name="fleet", help="Fleets recorded and played back through the real doors.", no_args_is_help=True)
_console = wide_console()
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration_s(text: str) -> float:
    """Seconds of `90`, `60s`, `5m` or `1h`. Raises InvalidInput."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS_S else (text, "s")
    try:
        seconds = float(number) * _UNITS_S[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidInput(f"{text!r} is no duration: expected such as 60s, 5m or 1h")
    return seconds


@fleet.command("record")
def record(
    out: Annotated[Path, typer.Option("--out", help="Folder for the recording.")],
    hospital: Annotated[str | None, typer.Option(help="Only this hospital (default: all, a folder each).")] = None,
    duration: Annotated[str, typer.Option("--for", help="How long, such as 60s or 5m.")] = "60s",
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the access log.")] = "vitalgrid fleet record",
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Write what the platform of this machine receives from now on as Parquet, with the fleet that sent it. No names.

    Needs a token that reads patients' readings there (`vitalgrid token add NAME --role scenario-runner`): this machine's own
    reads no patient. What its holder may not see, such as patients whose records are withheld, is left out.
    """
    target = target_of(token, data_dir)
    order = partial(ask, target, reason=reason)
    recorded = asyncio.run(_record(target, order, out, hospital, parse_duration_s(duration)))
    table = Table("hospital", "folder", "devices", "patients", "readings", "left out")
    for one in recorded:
        counts = (f"{count:,}" for count in (one.devices, one.patients, one.readings, one.left_out))
        table.add_row(one.hospital_id, one.folder, *counts)
    _console.print(table)


async def _record(
    target: Target, order: Callable[..., dict[str, Any]], out: Path, hospital: str | None, seconds: float
) -> list[Recorded]:
    """`order` asks the API, which grants it before anything is read of the bus, and says before it is written what may be."""
    await asyncio.to_thread(out.mkdir, parents=True, exist_ok=True)  # before so much is heard for nothing
    wish = {"hospital_id": hospital, "duration_s": seconds}
    granted = await asyncio.to_thread(order, "POST", "/recordings", wish)
    recorder = Recorder(hospital)
    recorder.leave_out(granted["left_out_handles"])
    await _listen(target, recorder, seconds)
    query = "" if hospital is None else f"?{urlencode({'hospital': hospital})}"
    now = await asyncio.to_thread(order, "GET", f"/recordings/left-out{query}")
    recorder.leave_out(now["left_out_handles"])
    return await asyncio.to_thread(recorder.save, out)


async def _listen(target: Target, recorder: Recorder, seconds: float) -> None:
    """Give the recorder what the stream tells of devices and patients, and all readings of so many seconds."""
    assert target.nats_url is not None and target.bus_key is not None, "of this machine"  # noqa: PT018
    bus = await Bus.connect(target.nats_url, target.bus_key, "fleet record")
    try:
        state = await bus.stream_state(subjects.READINGS_STREAM)
        past = await bus.follow(subjects.READINGS_STREAM, ["control.*"], 1, recorder.take)
        readings = await bus.follow(
            subjects.READINGS_STREAM, [subjects.READINGS_SUBJECTS[0]], state.last_sequence + 1, recorder.take
        )
        recorder.recording = True
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 5.0))
            _console.print(f"{recorder.readings:,} readings, {max(0.0, ends - time.monotonic()):.0f} s to go", highlight=False)
        await readings.stop()
        await past.stop()
    finally:
        await bus.close()


@fleet.command("replay")
def replay(
    path: Annotated[str, typer.Argument(help="Our recording, a MIMIC numerics CSV, or a PhysioNet 2012 folder or CSV.")],
    speed: Annotated[float, typer.Option(help="How many times as fast as it was recorded.")] = 1.0,
    times: Annotated[int, typer.Option(help="How many copies at once, each with identities of its own.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Only the first so many patients.")] = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Play a recording through the real doors, then check that what is stored is what was sent.

    Exit codes: 0 everything came back equal, 1 something did not.
    """
    wish = ReplayWish(str(place_of(path)), speed, times, limit)
    result = asyncio.run(_replay(settings_of(data_dir), wish, token))
    show_replay(_console, result)
    raise typer.Exit(ExitCode.PASSED if result.is_right else ExitCode.FAILED)


async def _replay(settings: Settings, wish: ReplayWish, token: str | None) -> ReplayResult:
    clock = SystemClock()
    folder = settings.data_dir / "replays" / new_run_id(wish.path, clock.now_us())
    async with some_platform(settings, token) as (target, is_own):
        if is_own:
            _console.print("no platform was running here: one was started for this replay", highlight=False)
        with RunView(_console) as view:
            return await Replay(wish, target, folder, clock=clock, show=view.show).play()


def show_replay(console: Console, result: ReplayResult) -> None:
    """The figures of a replay, for people."""
    table = Table.grid(padding=(0, 2))
    rate = result.sent / result.replay_s if result.replay_s else 0.0
    table.add_row("sent", f"{result.sent:,} readings by {result.senders:,} clients")
    table.add_row("acknowledged", f"{result.acknowledged:,}")
    table.add_row("stored equal", _equal(result))
    hours = result.recorded_s / 3600
    table.add_row("replay time", f"{result.replay_s:.1f} s for {hours:.1f} h recorded ({rate:,.0f} readings/s)")
    if result.durable_p99_ms is not None:
        table.add_row("reading → durable", f"p99 {result.durable_p99_ms:,.0f} ms from when it was due")
    if result.scores is not None:
        scores = result.scores
        words = f"{scores.complete:,} complete, {scores.partial:,} partial (no total), {scores.not_computable:,} not computable"
        table.add_row("NEWS2", words)
    for reason, count in (result.errors | result.rejects).items():
        table.add_row("refused", f"{count:,} messages: {reason}")
    console.print(table)
    alarms = Table("rule", "priority", "live", "raised", title="alarms by rule", title_justify="left")
    for row in result.alarms_by_rule:
        alarms.add_row(row["rule"], row["priority"], "yes" if row["live"] else "no, history", f"{row['count']:,}")
    console.print(alarms)
    console.print(INTENDED_USE, style="yellow", highlight=False)


def _equal(result: ReplayResult) -> str:
    if result.ledger is None or result.values is None:
        return "not measured: the lake is out of reach"
    ledger, values = result.ledger, result.values
    words = f"{values.equal:,} of {values.compared:,}, queried back and compared value by value"
    return f"{words}; lost {ledger.lost}, doubled {ledger.doubled}, rejected {ledger.rejected}"
