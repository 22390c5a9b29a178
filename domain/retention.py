"""How long each kind of record is kept, why, and what becomes of it then. Clauses 9.3a, 9.3h.

One rule for each kind in `domain.labels.LABELS` that is stored, and for the files beside them: a guard compares. The
settings `retention.*` may lengthen what the law sets a minimum for; shorten it only the profile `dev` may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DAYS_OF_YEARS: Final = 365.25


class End(StrEnum):
    """What becomes of a record when its time is over."""

    ERASED = "erased"  # with everything of the person, by the job that also follows a request
    DELETED = "deleted"
    DROPPED = "dropped by the stream"  # nats-server ages it out
    EMPTIED = "emptied"  # the commitment stays in the tree, the content goes
    REPLACED = "replaced"  # by the newer state of the same thing
    ENDS_WITH = "goes with what it belongs to"
    KEPT = "kept"  # while the platform stands: it names nobody, or may not be changed


@dataclass(frozen=True, slots=True)
class Rule:
    """`setting`: the setting that says how long, in days; none where nothing is settable. `least_days`: what the law wants."""

    end: End
    why: str
    setting: str | None = None
    least_days: int = 0
    keeps: str = ""  # where no setting says how long

    @property
    def how_long(self) -> str:
        """In Markdown: what says so, or the setting's name."""
        return self.keeps or f"`{self.setting}`"


_MEDICAL: Final = (
    "medical records: inpatient 30 years from the last discharge, outpatient 15 from the last visit "
    "(Rules on Electronic Medical Records, 2017)"
)
_LOGS: Final = "network logs six months at least (Cybersecurity Law)"
_MINIMAL: Final = "no longer than needed (Personal Information Protection Law, article 19)"
_EQUIPMENT: Final = "equipment records five years beyond the end of service (Regulations on Medical Devices)"
_ACCOUNTS: Final = "names of who did what have to stay understandable as long as the log"
INPATIENT_DAYS: Final = round(30 * DAYS_OF_YEARS)
LOG_DAYS: Final = 183
STREAM_DAYS: Final = 30  # of alarms and of rejects

RULES: Final[Mapping[str, Rule]] = {
    "patients": Rule(End.ERASED, _MEDICAL, "retention.inpatient_days", INPATIENT_DAYS),
    **dict.fromkeys(("associations", "limit_presets", "care_teams"), Rule(End.ENDS_WITH, _MEDICAL, keeps="as their patient")),
    "alarms": Rule(End.ENDS_WITH, _MEDICAL, keeps="as their patient; then of nobody, as sums"),
    "alarm_events": Rule(End.ENDS_WITH, _MEDICAL, keeps="as their patient"),
    **dict.fromkeys(
        ("hospitals", "wards", "beds", "devices", "handles", "hand_overs", "positions"),
        Rule(End.KEPT, _EQUIPMENT, keeps="while the platform stands: of nobody"),
    ),
    **dict.fromkeys(
        ("isolations", "device_certificates", "claim_codes", "credential_uses"),
        Rule(End.KEPT, _EQUIPMENT, keeps="while the platform stands: of no patient"),
    ),
    "sightings": Rule(End.REPLACED, _EQUIPMENT, keeps="until the device comes again"),
    "security_events": Rule(End.DELETED, _LOGS, least_days=LOG_DAYS, keeps="400 days, of them the newest million"),
    **dict.fromkeys(
        ("risks", "risk_events"),
        Rule(End.KEPT, "what was known of a risk and done about it has to be told", keeps="while the platform stands"),
    ),
    "maintenance_windows": Rule(End.DELETED, _EQUIPMENT, "retention.maintenance_days"),
    "exports": Rule(End.DELETED, _LOGS, "retention.export_days", LOG_DAYS),
    "write_log": Rule(
        End.KEPT, _LOGS, least_days=LOG_DAYS, keeps="while the platform stands: opaque keys, sealed texts that end with the key"
    ),
    "reject_actions": Rule(End.DELETED, _LOGS, "retention.export_days", LOG_DAYS),
    "outbox": Rule(End.DELETED, _MINIMAL, "retention.outbox_days"),
    **dict.fromkeys(
        ("users", "password_history", "second_factors", "recovery_codes", "grants", "tokens", "bus_certificates"),
        Rule(End.KEPT, _ACCOUNTS, keeps="while the platform stands: staff and programs"),
    ),
    **dict.fromkeys(
        ("sessions", "ended_sessions", "service_access"), Rule(End.DELETED, _MINIMAL, keeps="a day beyond their end")
    ),
    "erasures": Rule(
        End.KEPT, "proof of erasure (Personal Information Protection Law, article 47)", keeps="for good: of nobody"
    ),
    "legal_holds": Rule(End.KEPT, "why something was not deleted has to be told", keeps="while the platform stands"),
    "READINGS": Rule(End.DROPPED, _MINIMAL, keeps="`bus.stream_retention_h`"),
    "ALARMS": Rule(End.DROPPED, _MINIMAL, keeps=f"{STREAM_DAYS} days"),
    "REJECTS": Rule(End.DROPPED, _MINIMAL, keeps=f"{STREAM_DAYS} days"),
    "AUDIT": Rule(End.DROPPED, _LOGS, keeps="until the access log has it, and the last 1,000 records"),
    "readings": Rule(End.DELETED, _MINIMAL, "lake.retention_days"),
    # files beside them
    "access log": Rule(End.KEPT, _LOGS, least_days=LOG_DAYS, keeps="while the platform stands; emptied of who is erased"),
    "rollups": Rule(End.ENDS_WITH, _MINIMAL, keeps="as the lake's file that they are of"),
    "snapshots": Rule(End.REPLACED, _MINIMAL, keeps="`hosts.snapshot_interval_s`"),
    "accesses": Rule(End.DELETED, _LOGS, keeps="until the access log has them"),
    "reports": Rule(End.KEPT, "reports of simulated fleets: of nobody", keeps="until an operator deletes them"),
    "data keys": Rule(End.ERASED, _MEDICAL, keeps="as their patient; the number of a destroyed key stays"),
}
FILES: Final = frozenset({"access log", "rollups", "snapshots", "accesses", "reports", "data keys"})


def too_short(setting: str, days: float) -> str | None:
    """What is wrong with keeping it so long; None: nothing."""
    least = max((rule.least_days for rule in RULES.values() if rule.setting == setting), default=0)
    return None if days >= least else f"{setting} is {days:g} days: the law wants {least} at least"
