"""Puts the rules of `domain.retention` in force where the platform itself deletes, and tells what is kept. Clause 9.3h.

The lake's own days go with its upkeep (`lake_upkeep`), streams with nats-server; here is the business database, and persons
whose record has been kept as long as the law wants.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from pydantic import BaseModel
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from domain.errors import Unavailable
from domain.instants import DAY_US, US_PER_S
from domain.ports import Clock
from domain.retention import RULES
from runtime.lake import Lake
from runtime.lake_rewriting import SeenFiles, count_overdue, expire_but
from runtime.lake_upkeep import expire, stats
from runtime.setting_sections import LakeSettings, RetentionSettings
from runtime.sql.erasures import request_by_rule
from runtime.sql.holds import kept_readings
from runtime.sql.records import by_platform
from runtime.sql.retention import delete_expired, expired, held_of, next_to_expire
from runtime.tasks import again_and_again

logger = logging.getLogger(__name__)

_LAKE: Final = "readings"
_EPOCH_DAY: Final = 719_163  # date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule with what there is of it. `next_us`: when the next record goes, if nothing holds it."""

    kind: str
    how_long: str
    days: float | None
    least_days: int
    why: str
    end: str
    rows: int | None = None
    oldest_us: int | None = None
    next_us: int | None = None


@dataclass(frozen=True, slots=True)
class Periods:
    """How long things are kept. `days`: by the setting that says so; `grace_us`: within which an erasure may be taken back."""

    days: Mapping[str, float]
    grace_us: int

    @classmethod
    def of(cls, retention: RetentionSettings, lake: LakeSettings) -> Self:
        parts: dict[str, BaseModel] = {"retention": retention, "lake": lake}
        settings = {rule.setting for rule in RULES.values() if rule.setting is not None}
        named = {setting: setting.partition(".") for setting in sorted(settings)}
        days = {setting: float(getattr(parts[part], name)) for setting, (part, _, name) in named.items()}
        return cls(days, round(retention.erasure_grace_s * US_PER_S))

    @property
    def inpatient_us(self) -> int:
        return round(self.days["retention.inpatient_days"] * DAY_US)


def overview(engine: Engine, lake: Lake, periods: Periods) -> list[Kept]:
    """Every rule, and what is held under it now."""
    held, days = held_of(engine), periods.days
    following = next_to_expire(engine, days, periods.inpatient_us)
    in_lake = stats(lake)
    if in_lake.first_day is not None:
        first_us = (in_lake.first_day.toordinal() - _EPOCH_DAY) * DAY_US
        held[_LAKE] = {"rows": in_lake.rows, "oldest_us": first_us}
        following[_LAKE] = first_us + round((days["lake.retention_days"] + 1) * DAY_US)
    else:
        held[_LAKE] = {"rows": 0, "oldest_us": None}
    return [
        Kept(
            kind, rule.keeps or f"{days[rule.setting or '']:g} days", days.get(rule.setting or ""), rule.least_days, rule.why,
            rule.end.value, **held.get(kind, {}), next_us=following.get(kind),
        )
        for kind, rule in RULES.items()
    ]  # fmt: skip


def run_rules(engine: Engine, now_us: int, periods: Periods) -> dict[str, int]:
    """One round; how many rows went of each table, and of how many persons the erasure was asked for."""
    done = delete_expired(engine, by_platform("past its time", now_us), periods.days)
    persons = request_by_rule(engine, now_us, retention_us=periods.inpatient_us)
    if persons:
        done["patients"] = persons
    if done:
        logger.info("what is past its time was deleted: %s", ", ".join(f"{name} {count}" for name, count in done.items()))
    return done


def dry_run(engine: Engine, lake: Lake | None, now_us: int, periods: Periods) -> dict[str, int]:
    """What `run_rules` and the lake's upkeep would do now; nothing is deleted. None: there is no lake yet."""
    persons = request_by_rule(engine, now_us, retention_us=periods.inpatient_us, is_dry=True)
    found = expired(engine, now_us, periods.days) | {"patients": persons}
    if lake is None:
        return found
    days = int(periods.days["lake.retention_days"])
    return found | {_LAKE: count_overdue(lake, days, now_us, kept_readings(engine, now_us))}


def expire_lake(engine: Engine, seen: SeenFiles, lake: Lake, retention_days: int, now_us: int) -> int:
    """Let whole days leave the lake, but for what a legal hold keeps. Raises Unavailable when nobody knows what is held.

    `seen`: for all rounds of a process the same.
    """
    try:
        kept = kept_readings(engine, now_us)
    except SQLAlchemyError as error:
        raise Unavailable(f"it is not known what is held, so nothing leaves the lake: {type(error).__name__}") from None
    if kept.is_nothing:
        return expire(lake, retention_days, now_us)
    return expire_but(lake, retention_days, now_us, kept, seen)


async def keep_rules(engine: Engine, clock: Clock, periods: Periods, every_s: float) -> None:
    """For ever. What fails is logged and tried again."""

    def run() -> None:
        run_rules(engine, clock.now_us(), periods)

    await again_and_again(run, every_s, "what is past its time is not deleted; it is tried again")
