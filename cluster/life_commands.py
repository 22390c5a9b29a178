"""`vitalgrid retention`: how long everything is kept, and what would go now."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from cluster.command_options import DataDir
from cluster.run_target import settings_of
from cluster.run_view import wide_console
from cluster.sealing import file_seal
from domain.errors import NotFound
from domain.instants import from_us
from domain.retention import RULES
from runtime.clock import SystemClock
from runtime.lake import Lake
from runtime.retention import Periods, dry_run
from runtime.sql.engine import open_engine

_console = wide_console()
Dry = Annotated[bool, typer.Option("--dry-run", help="Count what the next round would delete, and delete nothing.")]


def retention(data_dir: DataDir = None, *, is_dry: Dry = False) -> None:
    """The rules in force; with --dry-run what the platform would delete now. It deletes by itself, once an hour."""
    settings = settings_of(data_dir)
    periods = Periods.of(settings.retention, settings.lake)
    if not is_dry:
        table = Table("kind", "kept", "then", "why", title="Retention")
        for kind, rule in RULES.items():
            days = None if rule.setting is None else periods.days[rule.setting]
            table.add_row(kind, rule.keeps if days is None else f"{days:g} days ({rule.setting})", rule.end, rule.why)
        _console.print(table)
        return
    if settings.database_url is None and not (settings.data_dir / "vitalgrid.db").exists():
        raise NotFound(f"there is no platform's database in {settings.data_dir}")
    now_us = SystemClock().now_us()
    engine = open_engine(settings.sql_url)
    lake = Lake(settings.lake_dir, file_seal(settings)) if settings.lake_dir.exists() else None
    try:
        counts = dry_run(engine, lake, now_us, periods)
    finally:
        engine.dispose()
    table = Table("kind", "would go", title=f"What is past its time at {from_us(now_us):%F %T} UTC")
    for kind, count in counts.items():
        table.add_row(kind, str(count))
    _console.print(table)
