"""Risks to data, found by rules in how the platform is set up, who has an account, and who looked at what. Clause 6.1.

A rule says what may happen, to which class of records, what is to be done about it and by whom. What it finds bears its
likelihood and severity (1 to 5) and its evidence: counts, ages and settings, never a patient. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from domain.instants import DAY_US, US_PER_S
from domain.labels import LABELS
from domain.permissions import Level
from domain.principals import POWERFUL, Role

_UNDIVIDED: Final = frozenset({Role.ADMINISTRATOR})

DORMANT_DAYS: Final = 90
OLD_TOKEN_DAYS: Final = 365
OLD_BACKUP_DAYS: Final = 7
OVERDUE_DAYS: Final = 2  # a round of deletion is an hour, an erasure some seconds
LONG_ISOLATED_DAYS: Final = 7
MANY_NOTICES: Final = 20
MANY_EXPORTS: Final = 20
MANY_BY_NAME: Final = 200
MANY_WARDS: Final = 5
MANY_PATIENTS: Final = 500
MANY_AT_NIGHT: Final = 50
MANY_REFUSED: Final = 50
MANY_BY_TOKEN: Final = 500  # patients by name in one day
UNUSUAL: Final = 3  # times what a token shows on a usual day
DAYS_OF_USE: Final = 3  # below so many whole days nothing is usual
_MOSTLY: Final = 0.8


class RiskState(StrEnum):
    OPEN = "open"
    MEASURE_IN_FORCE = "measure-in-force"
    ACCEPTED = "accepted"  # with a reason, until a time
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Posture:
    """How the platform is set up. What is not known is None, and judged by no rule."""

    speaks_plain: bool | None = None
    is_on_loopback: bool = True
    seals_files: bool | None = None
    keys_lie_beside: bool | None = None
    outside_witnesses: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A user who may sign in."""

    name: str
    roles: frozenset[str]
    created_us: int
    last_login_us: int | None
    has_second_factor: bool


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a service that is in force."""

    name: str
    created_us: int
    last_used_us: int | None


@dataclass(slots=True)
class Accesses:
    """What one person asked for of records of level 4 and above, within a window. Numbers only.

    The first three count accesses, the others what was different in them: wards, patients, patients whom they may have seen
    by name. Of more than a thousand patients the number is near the true one (`domain.distinct`).
    """

    asked: int = 0
    at_night: int = 0
    refused: int = 0
    wards: int = 0
    patients: int = 0
    by_name: int = 0


@dataclass(frozen=True, slots=True)
class ByToken:
    """How many different patients a service's token may have shown by name on each whole day of the window that was counted."""

    by_name_daily: tuple[int, ...]

    @property
    def usual(self) -> int:
        """The median day."""
        return sorted(self.by_name_daily)[len(self.by_name_daily) // 2]

    @property
    def bound(self) -> int:
        """From how many on a day is unusual."""
        return max(MANY_BY_TOKEN, UNUSUAL * self.usual)


@dataclass(frozen=True, slots=True)
class Devices:
    """How many devices in service: known at all, last seen over a plain link, speaking with a gateway's credential alone.

    `isolated`, `isolated_days`: cut off for longer than LONG_ISOLATED_DAYS, and the oldest of them.
    """

    known: int = 0
    plain: int = 0
    without_credential: int = 0
    isolated: int = 0
    isolated_days: int = 0


@dataclass(frozen=True, slots=True)
class Overdue:
    """What should have been done more than OVERDUE_DAYS ago: rows past their retention, erasures that nothing holds up."""

    rows: int = 0
    erasures: int = 0
    erasure_days: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """All that rules look at. `accesses` None: the access log could not be read, and no rule judges by it.

    `accesses_reached_us`: since when they were counted, where those of the whole window were too many. What is found is so;
    what is not found may be there all the same, so nothing is closed by it.
    """

    now_us: int
    posture: Posture = Posture()
    accounts: Sequence[Account] = ()
    tokens: Sequence[Token] = ()
    exports: Mapping[str, int] = field(default_factory=dict)  # by who made them, within the window
    last_backup_us: int | None = None
    accesses: Mapping[str, Accesses] | None = None
    window_days: int = 7
    devices: Devices = Devices()
    overdue: Overdue = Overdue()
    notices: Mapping[str, int] = field(default_factory=dict)  # security events of devices by kind, within the window
    accesses_reached_us: int | None = None
    by_tokens: Mapping[str, ByToken] | None = None  # of services' tokens, as `accesses`

    @property
    def counted_in(self) -> Mapping[str, int]:
        """For the evidence: the time within which accesses were counted."""
        if self.accesses_reached_us is None:
            return {"days": self.window_days}
        return {"hours": (self.now_us - self.accesses_reached_us) // (3600 * US_PER_S)}


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule found about a subject: a principal, or nothing where it is about the platform as a whole."""

    rule: str
    likelihood: int
    severity: int
    evidence: Mapping[str, int]
    subject: str = ""

    @property
    def key(self) -> str:
        """The same finding has the same key, whenever it is found."""
        return f"{self.rule}|{self.subject}"


Find = Callable[[Facts], Iterator[Found] | None]  # None: the rule cannot judge


@dataclass(frozen=True, slots=True)
class Rule:
    """`kind`: the class of records that is at risk (`domain.labels`). `owner`: the role that sees to the measure."""

    id: str
    title: str
    measure: str
    kind: str
    owner: Role
    find: Find
    counts_accesses: bool = False

    @property
    def level(self) -> Level:
        return LABELS[self.kind]


def evaluate(facts: Facts) -> tuple[list[Found], frozenset[str]]:
    """What all rules find, and which of them could judge at all: what those do not find is not so any more."""
    found: list[Found] = []
    judged = set()
    for rule in RULES.values():
        findings = rule.find(facts)
        if findings is not None:
            found += findings
            if not rule.counts_accesses or facts.accesses_reached_us is None:
                judged.add(rule.id)
    return found, frozenset(judged)


def _plain_links(facts: Facts) -> Iterator[Found] | None:
    if facts.posture.speaks_plain is None:
        return None
    likelihood = 2 if facts.posture.is_on_loopback else 5
    return iter([Found("plain-links", likelihood, 4, {})] if facts.posture.speaks_plain else [])


def _files_in_clear(facts: Facts) -> Iterator[Found] | None:
    if facts.posture.seals_files is None:
        return None
    return iter([] if facts.posture.seals_files else [Found("files-in-clear", 2, 4, {})])


def _keys_beside(facts: Facts) -> Iterator[Found] | None:
    if facts.posture.keys_lie_beside is None:
        return None
    return iter([Found("keys-beside-data", 2, 5, {})] if facts.posture.keys_lie_beside else [])


def _unwitnessed(facts: Facts) -> Iterator[Found] | None:
    if facts.posture.outside_witnesses is None:
        return None
    return iter([] if facts.posture.outside_witnesses else [Found("log-unwitnessed", 2, 4, {"outside_witnesses": 0})])


def _old_backup(facts: Facts) -> Iterator[Found]:
    if facts.last_backup_us is None:
        yield Found("backup-old", 4, 5, {"backups": 0})
    elif (days := (facts.now_us - facts.last_backup_us) // DAY_US) >= OLD_BACKUP_DAYS:
        yield Found("backup-old", 3, 5, {"age_days": days})


def _overdue(facts: Facts) -> Iterator[Found]:
    if facts.overdue.rows:
        yield Found("retention-behind", 4, 3, {"rows": facts.overdue.rows, "days": OVERDUE_DAYS})


def _stuck(facts: Facts) -> Iterator[Found]:
    late = facts.overdue
    if late.erasures:
        yield Found("erasure-stuck", 4, 4, {"erasures": late.erasures, "age_days": late.erasure_days})


def _of_devices(rule: str, severity: int, count: Callable[[Devices], int]) -> Callable[[Facts], Iterator[Found]]:
    """A rule that finds devices, the likelier the larger their part of all is."""

    def find(facts: Facts) -> Iterator[Found]:
        if found := count(facts.devices):
            likelihood = 2 + min(3, 10 * found // max(facts.devices.known, 1))
            yield Found(rule, likelihood, severity, {"devices": found, "of": facts.devices.known})

    return find


def _long_isolated(facts: Facts) -> Iterator[Found]:
    if facts.devices.isolated:
        yield Found(
            "isolation-long", 3, 3, {"devices": facts.devices.isolated, "age_days": facts.devices.isolated_days}
        )  # fmt: skip


def _attacked(facts: Facts) -> Iterator[Found]:
    total = sum(facts.notices.values())
    if total >= MANY_NOTICES:
        yield Found("devices-attacked", _more(total, MANY_NOTICES), 4, {**facts.notices, "days": facts.window_days})


def _dormant(facts: Facts) -> Iterator[Found]:
    for account in facts.accounts:
        idle_days = (facts.now_us - (account.last_login_us or account.created_us)) // DAY_US
        if idle_days >= DORMANT_DAYS:
            yield Found("account-dormant", 3, 4 if account.roles & POWERFUL else 2, {"idle_days": idle_days}, account.name)


def _undivided(facts: Facts) -> Iterator[Found]:
    return (
        Found("power-undivided", 3, 4, {}, account.name) for account in facts.accounts if account.roles & _UNDIVIDED
    )  # fmt: skip


def _one_factor(facts: Facts) -> Iterator[Found]:
    return (
        Found("one-factor", 3, 5, {}, account.name)
        for account in facts.accounts if account.roles & POWERFUL and not account.has_second_factor
    )  # fmt: skip


def _old_token(facts: Facts) -> Iterator[Found]:
    for token in facts.tokens:
        age_days = (facts.now_us - token.created_us) // DAY_US
        idle_days = (facts.now_us - (token.last_used_us or token.created_us)) // DAY_US
        if age_days >= OLD_TOKEN_DAYS or idle_days >= DORMANT_DAYS:
            yield Found("token-without-end", 3, 4, {"age_days": age_days, "idle_days": idle_days}, token.name)


def _exports(facts: Facts) -> Iterator[Found]:
    for who, exports in facts.exports.items():
        if exports >= MANY_EXPORTS:
            yield Found("bulk-export", _more(exports, MANY_EXPORTS), 4, {"exports": exports, "days": facts.window_days}, who)


def _by_access(
    rule: str, severity: int, most: int, count: Callable[[Accesses], int]
) -> Callable[[Facts], Iterator[Found] | None]:
    """A rule that finds whose count is `most` or more."""

    def find(facts: Facts) -> Iterator[Found] | None:
        if facts.accesses is None:
            return None
        return (
            Found(rule, _more(count(asked), most), severity, {"count": count(asked), **facts.counted_in}, who)
            for who, asked in sorted(facts.accesses.items()) if count(asked) >= most
        )  # fmt: skip

    return find


def _unusual_token(facts: Facts) -> Iterator[Found] | None:
    """A program may rightly see everybody, so it is held against its own usual day: one that is new has none."""
    if facts.by_tokens is None:
        return None
    known = {name: one for name, one in sorted(facts.by_tokens.items()) if len(one.by_name_daily) >= DAYS_OF_USE}
    return (
        Found("token-unusual", _more(most, one.bound), 4, {"count": most, "usual": one.usual, **facts.counted_in}, name)
        for name, one in known.items() if (most := max(one.by_name_daily)) >= one.bound
    )  # fmt: skip


def _at_night(facts: Facts) -> Iterator[Found] | None:
    """Of a part of the window, which may be a night, nothing can be said."""
    by_night = _by_access("at-night", 3, MANY_AT_NIGHT, _mostly_at_night)
    return by_night(facts) if facts.accesses_reached_us is None else None


def _mostly_at_night(accesses: Accesses) -> int:
    return accesses.at_night if accesses.at_night >= _MOSTLY * accesses.asked else 0


def _more(count: int, most: int) -> int:
    """The further beyond a bound, the likelier that it is no accident: 3 at the bound, 5 at four times of it."""
    return min(5, 2 + (count // most).bit_length())


def _rules(rules: Iterable[Rule]) -> Mapping[str, Rule]:
    return {rule.id: rule for rule in rules}


RULES: Final = _rules([
    Rule("plain-links", "Links are plain: who listens on the way reads along", "Run in profile standard or cn",
         "READINGS", Role.SYSTEM_ADMINISTRATOR, _plain_links),
    Rule("files-in-clear", "Lake, snapshots and streams lie on disk in clear: who takes the disk reads them",
         "Seal files (security.seal_files, profile cn), or encrypt the disk", "readings", Role.SYSTEM_ADMINISTRATOR,
         _files_in_clear),
    Rule("keys-beside-data", "Keys lie on the disk of what they seal: who takes it opens everything",
         "Put the folder of keys on another medium, or use a cryptographic module", "patients", Role.SECURITY_ADMINISTRATOR,
         _keys_beside),
    Rule("log-unwitnessed", "Nobody elsewhere witnesses the access log: who owns the machine can write another past",
         "Run vitalgrid witness on another machine and name it in audit.witnesses", "AUDIT", Role.AUDIT_ADMINISTRATOR,
         _unwitnessed),
    Rule("backup-old", "The last backup is old, or there is none: what came since is lost with the machine",
         "Run vitalgrid backup create daily, to another machine, and the drill monthly", "patients",
         Role.SYSTEM_ADMINISTRATOR, _old_backup),
    Rule("retention-behind", "What is past its time is still there: more is kept of people than may be",
         "See upkeep.log why the rounds fail; vitalgrid retention --dry-run counts what is left", "patients",
         Role.SYSTEM_ADMINISTRATOR, _overdue),
    Rule("erasure-stuck", "An erasure that nothing holds up does not come to its end: a right of a person is not kept",
         "See upkeep.log at which step it stays and why (runbook)", "patients", Role.PRIVACY_OFFICER, _stuck),
    Rule("devices-plain", "Devices speak without TLS: who is on the way reads and changes what they measure",
         "Turn TLS on in them, or put them behind a gateway that speaks it; GET /security/inventory names them", "readings",
         Role.SYSTEM_ADMINISTRATOR, _of_devices("devices-plain", 4, lambda devices: devices.plain)),
    Rule("devices-without-credential", "Devices speak with their gateway's credential alone: the gateway can speak as each",
         "Give credentials of their own to those that can hold one; watch the gateways", "devices",
         Role.SYSTEM_ADMINISTRATOR,
         _of_devices("devices-without-credential", 3, lambda devices: devices.without_credential)),
    Rule("isolation-long", "Devices are cut off for long: a ward lacks them, and nobody says what became of it",
         "Find out what was wrong; release them or retire them", "devices", Role.SECURITY_ADMINISTRATOR, _long_isolated),
    Rule("devices-attacked", "Replays, conflicts and claims of identities at the doors: somebody tries to speak for devices",
         "See GET /security/events; isolate the devices, rotate their credentials", "readings", Role.SECURITY_ADMINISTRATOR,
         _attacked),
    Rule("account-dormant", "Nobody has signed in for long: a forgotten account is taken over unnoticed",
         "Disable the user, or end what it was given", "users", Role.SECURITY_ADMINISTRATOR, _dormant),
    Rule("power-undivided", "One person may everything, and clear the traces of it from the rest of the platform",
         "Give the three administrators' roles to three people, and end this one", "users", Role.SECURITY_ADMINISTRATOR,
         _undivided),
    Rule("one-factor", "A password alone opens an administrator's account", "Have a second factor set up", "users",
         Role.SECURITY_ADMINISTRATOR, _one_factor),
    Rule("token-without-end", "A service's token is old or unused, and has no end: who finds it is let in",
         "Replace it, or revoke it", "tokens", Role.SECURITY_ADMINISTRATOR, _old_token),
    Rule("bulk-export", "Readings leave the platform in bulk, beyond its permissions and its log",
         "Ask for what; narrow what was given", "readings", Role.PRIVACY_OFFICER, _exports),
    Rule("names-in-bulk", "Somebody sees many patients by name", "Ask why; have names asked for with a reason only",
         "patients", Role.PRIVACY_OFFICER,
         _by_access("names-in-bulk", 4, MANY_BY_NAME, lambda one: one.by_name), counts_accesses=True),
    Rule("token-unusual", "A program's token showed many more patients by name in a day than it usually does",
         "Ask who uses it for what; replace or revoke it, or narrow its place", "patients", Role.SECURITY_ADMINISTRATOR,
         _unusual_token, counts_accesses=True),
    Rule("many-wards", "Somebody reads records of many wards: more than one place of work",
         "Narrow the grant to the wards of work", "patients", Role.PRIVACY_OFFICER,
         _by_access("many-wards", 3, MANY_WARDS, lambda one: one.wards), counts_accesses=True),
    Rule("many-patients", "Somebody reads records of very many patients", "Ask why; narrow what was given", "patients",
         Role.PRIVACY_OFFICER, _by_access("many-patients", 4, MANY_PATIENTS, lambda one: one.patients), counts_accesses=True),
    Rule("at-night", "Somebody reads mostly at night: perhaps outside their shift, perhaps not they",
         "Ask whether it was they; end the session, change the password", "patients", Role.SECURITY_ADMINISTRATOR,
         _at_night, counts_accesses=True),
    Rule("often-refused", "Somebody is refused again and again: a search for what is open",
         "Ask why; end the session; lock the user", "patients", Role.SECURITY_ADMINISTRATOR,
         _by_access("often-refused", 3, MANY_REFUSED, lambda one: one.refused), counts_accesses=True),
])  # fmt: skip
