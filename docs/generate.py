"""Writes the pages that are made from code and from runs: `python docs/generate.py settings metrics prometheus …`.

Pages made from code are pure, so a guard test compares them with what is committed. The conformance
page is made from build/conformance.json, which `make test` writes, the performance page from build/bench, which
`make bench` writes.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from api.services import Backend
from api.telemetry import Telemetry
from api.vitals import watch_platform
from domain.ages import AgeBand
from domain.labels import LABELS
from domain.metrics import METRICS, Metric
from domain.permissions import Action, Level, Located, Purpose, View
from domain.personal_information import INVENTORY
from domain.principals import Caller, Factor, Grant, Kind, Place, Principal, Role
from domain.retention import RULES
from runtime.authorisation import POLICIES, CedarAuthoriser
from runtime.clock import ManualClock
from runtime.policy_requests import USUAL_PURPOSE
from runtime.settings import Settings
from scenarios.report.plots import verdict_bars

DOCS: Final = Path(__file__).resolve().parent
RESULT: Final = DOCS.parent / "build" / "conformance.json"
BENCH: Final = DOCS.parent / "build" / "bench"
PROFILE: Final = "embedded"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; pipes in cells are escaped."""
    lines = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# settings


def settings_page() -> str:
    """docs/settings.md: each setting with its key, default and meaning."""
    parts = [
        "# Settings\n",
        "<!-- made by `make docs` from runtime/setting_sections.py; do not edit -->\n",
        "Read from `vitalgrid.toml` in the working directory, then from the environment, which wins: "
        "`doors.mqtt_port` is `VITALGRID_DOORS__MQTT_PORT`. An unknown key or a bad value stops the start with all "
        "problems named at once.\n",
    ]
    for title, keys in _sections(Settings):
        rows = [(f"`{key}`", _default(field), field.description) for key, field in keys]
        parts += [f"## {title}\n", table(("key", "default", "meaning"), rows)]
    return "\n".join(parts)


def _sections(model: type[BaseModel]) -> list[tuple[str, list[tuple[str, FieldInfo]]]]:
    plain: list[tuple[str, FieldInfo]] = []
    nested: list[tuple[str, list[tuple[str, FieldInfo]]]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            nested.append((name, [(f"{name}.{key}", inner) for key, inner in kind.model_fields.items()]))
        else:
            plain.append((name, field))
    return [("platform", plain), *nested]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "none" if value is None or isinstance(value, SecretStr) else f"`{value}`"


# metrics


def metrics_page() -> str:
    """docs/metrics.md: the metric table."""
    parts = [
        "# Metrics\n",
        "<!-- made by `make docs` from domain/metrics.py; do not edit -->\n",
        "One table for the whole platform. Ids are on disk and on the wire and never change. MDC is ISO/IEEE "
        "11073-10101, units are UCUM. Plausible ranges mark a reading, they never drop one.\n",
    ]
    for group in dict.fromkeys(metric.group for metric in METRICS):
        rows = [_metric_row(metric) for metric in METRICS if metric.group == group]
        head = ("id", "code", "English", "中文", "unit", "step", "plausible", "MDC", "LOINC")
        parts += [f"## {group}\n", table(head, rows)]
    return "\n".join(parts)


def _metric_row(metric: Metric) -> tuple[object, ...]:
    if metric.codes:
        plausible = ", ".join(f"{number} {name}" for number, name in metric.codes)
    else:
        plausible = "; ".join([_range(*metric.plausible), *(
            f"{AgeBand(band).name.lower()} {_range(low, high)}" for band, low, high in metric.plausible_by_age
        )])  # fmt: skip
    return (metric.id, f"`{metric.code}`", metric.name_en, metric.name_zh, f"`{metric.unit}`", f"{metric.precision:g}",
            plausible, metric.mdc or "", metric.loinc or "")  # fmt: skip


def _range(low: float, high: float) -> str:
    return f"{low:g} to {high:g}"


# prometheus


def prometheus_page() -> str:
    """docs/prometheus.md: every number that `GET /metrics` shows."""
    telemetry = Telemetry()
    watch_platform(cast(Backend, SimpleNamespace(telemetry=telemetry, hosts=None, storage=None, doors=None)))
    rows = [
        (f"`{figure.name}`", figure.kind, ", ".join(f"`{label}`" for label in figure.labels), figure.text)
        for figure in sorted(telemetry.figures, key=lambda figure: figure.name)
    ]
    return "\n".join([
        "# Numbers for Prometheus\n",
        "<!-- made by `make docs` from api/telemetry.py, api/vitals.py and api/doors.py; do not edit -->\n",
        "`GET /metrics` (also under `/api/v1`), with a token. A total begins anew when the process that counts it does. What "
        "a process has not told lately has no sample. When to be alarmed: [runbook](runbook.md).\n",
        table(("name", "kind", "labels", "meaning"), rows),
    ])  # fmt: skip


# retention


def retention_page() -> str:
    """docs/retention.md: what is kept, how sensitive it is, how long, and what becomes of it."""
    held = {level: ", ".join(f"`{kind}`" for kind, of in LABELS.items() if of is level) for level in Level}
    levels = [(f"{level:d}", level.name.lower(), held[level]) for level in Level]
    rules = [
        (f"`{kind}`", f"{LABELS[kind]:d}" if kind in LABELS else "", rule.how_long, rule.least_days or "",
         rule.end.value, rule.why)
        for kind, rule in RULES.items()
    ]  # fmt: skip
    judge = CedarAuthoriser.of_package(ManualClock())
    persons = [
        (f"`{kind}`", f"{LABELS[kind]:d}" if kind in LABELS else "", one.whose, one.what, one.purpose, one.basis,
         RULES[kind].how_long, RULES[kind].end.value, _readers(judge, kind, one.read))
        for kind, one in INVENTORY.items()
    ]  # fmt: skip
    return "\n".join([
        "# What is kept, and how long\n",
        "<!-- made by `make docs` from domain/labels.py and domain/retention.py; do not edit -->\n",
        "## Levels\n",
        "The five levels of GB/T 39725-2020. Controls follow them: who may see what stands in [permissions](permissions.md). "
        "`patients.level` and `devices.level` raise one record. While a patient's processing is restricted their records have "
        "no level, and what has none is denied to everybody.\n",
        table(("level", "name", "records"), levels),
        "## Retention\n",
        "A rule for each kind of record. `GET /retention` says the same with what there is now, and `vitalgrid retention "
        "--dry-run` what would go. In days; the law's minimum may be undercut in profile `dev` alone.\n",
        table(("kind", "level", "kept", "the law's minimum", "then", "why"), rules),
        "## Personal information\n",
        "The inventory that GB/T 35273 asks for: each kind of record in which somebody can be told. *Read by*: the roles whom "
        "policies let see such a record for their usual purpose, at the places of their grants; everybody manages their own "
        "account. The bases are paragraphs of the Personal Information Protection Law; whether they hold for a hospital's use "
        "is the operator's to answer for. It leaves the platform by exports, recordings "
        "among them, and by a webhook for alarms, if one is set.\n",
        table(("kind", "level", "whose", "what", "purpose", "legal basis", "kept", "then", "read by"), persons),
    ])  # fmt: skip


def _readers(judge: CedarAuthoriser, kind: str, action: Action | None) -> str:
    """The roles that reach such a record with its level, for their usual purpose; for a treated patient at least."""
    if action is None:
        return "nobody, over the API"
    level, names = LABELS.get(kind, Level.RESTRICTED), []
    for role in Role:
        reach = judge.reach(_caller(role), action)
        names += [f"`{role}`"] if max((0, *reach.levels.values(), *reach.patients.values())) >= level else []
    return ", ".join(names) or "nobody"


# permissions

_EVERYWHERE: Final = Place("sz")
_GROUPS: Final[Mapping[str, frozenset[str]]] = {  # by what an action's name begins with
    "Patients, and what is measured": frozenset(
        {"patient", "observation", "preset", "association", "reading", "alarm", "statistics"}
    ),
    "Places and devices": frozenset({"place", "hospital", "fleet", "device", "maintenance"}),
    "The platform": frozenset({"reject", "scenario", "host", "operation"}),
    "Users and records of access": frozenset({"user", "grant", "token", "log", "audit"}),
}


def permissions_page() -> str:
    """docs/permissions.md: what each role may do, found out by asking the policies."""
    judge = CedarAuthoriser.of_package(ManualClock())
    parts = [
        "# Who may do what\n",
        "<!-- made by `make docs` from runtime/policies; do not edit -->\n",
        "A grant is a role at a place and holds for what lies in it, and for nothing else. Each cell is the highest level of "
        "sensitivity up to which a role may do something (GB/T 39725-2020: 1 public, 2 shared, 3 without persons, 4 of a "
        "person, 5 strict), with two factors. Without the second factor nobody gets to level 5, but for alarms, a station's "
        "vital signs, and what is reported of a patient. *Treated*: patients in whose care team the caller "
        "is; *own*: the caller's own records alone. Every caller may manage the own account (`self`) "
        "and read the catalogue (`catalogue.read`).\n",
        table(("role", "usual purpose", "sees patients, readings, alarms or accesses for", "patients appear"),
              (_role_row(judge, role) for role in Role)),
    ]  # fmt: skip
    for title, resources in _GROUPS.items():
        actions = [action for action in Action if action.partition(".")[0] in resources]
        rows = [(f"`{role}`", *(_may(judge, role, action) for action in actions)) for role in Role]
        head = ("role", *(f"`{action}`" for action in actions))
        parts += [f"## {title}\n", table(head, (row for row in rows if any(row[1:])))]
    parts.append("## In words\n\nEach decision names the policies it follows from.\n")
    for path in sorted(POLICIES.glob("*.cedar")):
        said = re.findall(r'^@id\("(.+)"\)$', path.read_text(), re.MULTILINE)
        parts.append("\n".join((f"`{path.name}`\n", *(f"- {policy}" for policy in said), "")))
    return "\n".join(parts)


def _caller(role: Role) -> Caller:
    factors = frozenset({Factor.PASSWORD, Factor.TOTP})
    treats = frozenset({"treated"})
    return Caller(Principal(Kind.USER, "u-1", "u"), (Grant(role, _EVERYWHERE),), None, None, factors, "own", treats)


def _may(judge: CedarAuthoriser, role: Role, action: Action) -> str:
    """`4`, or `4, treated 5`; `own 5` where only the caller's own records are reached."""
    reach = judge.reach(_caller(role), action)
    others = reach.levels.get(_EVERYWHERE, 0)
    kinds = ((key, reach.patients.get((_EVERYWHERE, key), 0)) for key in ("treated", "own"))
    return ", ".join([*([f"{others:d}"] if others else []), *(f"{kind} {level:d}" for kind, level in kinds if level > others)])


def _role_row(judge: CedarAuthoriser, role: Role) -> tuple[str, str, str, str]:
    """By what tells most of a person."""
    telling = (Action.PATIENT_READ, Action.READING_READ, Action.ALARM_READ, Action.AUDIT_READ)
    reaches = {purpose: [judge.reach(_caller(role), action, purpose) for action in telling] for purpose in Purpose}
    purposes = [purpose for purpose, reached in reaches.items() if any(not reach.is_nothing for reach in reached)]
    records = [Located(_EVERYWHERE, Level.IDENTIFYING, key) for key in ("treated", "own")]
    decisions = [judge.decide(_caller(role), action, record) for action in telling for record in records]
    views = {decision.view for decision in decisions if decision.is_allowed}
    shown = "by name" if View.CLEAR in views else "masked" if views else "not at all"
    said = "any purpose" if len(purposes) == len(Purpose) else ", ".join(purposes) or "none"
    return f"`{role}`", USUAL_PURPOSE[role], said, shown


# conformance


def conformance_page(outcomes: Mapping[str, Mapping[str, str]], profile: str = PROFILE) -> str:
    """docs/conformance.md from a run's outcomes (clause -> test -> passed, failed, skipped)."""
    catalogue = tomllib.loads((DOCS / "clauses.toml").read_text())
    cannot = {fact["clause"]: fact["reason"] for fact in catalogue["cannot"] if fact["profile"] == profile}
    states = {clause["id"]: state_of(clause, outcomes.get(clause["id"], {}), cannot) for clause in catalogue["clause"]}
    words = [state for state, _ in states.values()]
    parts = [
        "# Conformance to T/GDIOT 009-2024\n",
        "<!-- made by `make conformance` from the tests that ran; do not edit -->\n",
        f"Profile: `{profile}`. *Partly*: the tests named here pass, and not everything the clause asks for is built "
        "or shown yet. *Not met*: a test fails, or the profile cannot give it. The clauses are in English in "
        "[clauses.toml](clauses.toml); the Chinese text of the standard is the authority.\n",
        table(("met", "partly", "not met", "no test yet", "all"), [
            (*(words.count(word) for word in ("met", "partly", "not met", "no test yet")), len(words))
        ]),
    ]  # fmt: skip
    for chapter in dict.fromkeys(clause["chapter"] for clause in catalogue["clause"]):
        rows = []
        for clause in catalogue["clause"]:
            if clause["chapter"] == chapter:
                state, reason = states[clause["id"]]
                shown = f"**{state}**" + (f": {reason}" if reason else "")
                rows.append((clause["id"], clause["duty"], clause["asks"], _tests(outcomes.get(clause["id"], {})), shown))
        parts += [f"## {chapter}\n", table(("clause", "duty", "asks for", "tests", "state"), rows)]
    return "\n".join(parts)


def state_of(clause: Mapping[str, Any], tests: Mapping[str, str], cannot: Mapping[str, str]) -> tuple[str, str]:
    """(state, reason) of one clause. What the profile cannot give is not met, however many tests pass."""
    failed = sum(outcome == "failed" for outcome in tests.values())
    if failed:
        return "not met", f"{failed} of {len(tests)} tests fail"
    if clause["id"] in cannot:
        return "not met", cannot[clause["id"]]
    if not any(outcome == "passed" for outcome in tests.values()):
        return "no test yet", f"{len(tests)} skipped" if tests else ""
    return ("met", "") if clause.get("complete") else ("partly", clause.get("missing", ""))


def _tests(tests: Mapping[str, str]) -> str:
    by_file: dict[str, list[str]] = {}
    for nodeid in sorted(tests):
        path, _, name = nodeid.partition("::")
        names = by_file.setdefault(path, [])
        base = name.partition("[")[0]
        if base not in names:
            names.append(base)
    return "<br>".join(f"`{path}`: {', '.join(names)}" for path, names in by_file.items())


def _conformance_from_run() -> str:
    if not RESULT.exists():
        sys.exit(f"{RESULT.relative_to(DOCS.parent)} is not there: run `make test` first")
    return conformance_page(json.loads(RESULT.read_text()))


# security


_STATES: Final = {"done": "done", "part": "**partly**", "site": "operator"}
_SECURITY_CHAPTERS: Final = {
    "8.1.4": "GB/T 22239-2019, 8.1.4: secure computing environment",
    "8.1.3": "GB/T 22239-2019, 8.1.3: secure boundary",
    "8.1.5": "GB/T 22239-2019, 8.1.5: security management centre",
    "": "T/GDIOT 009-2024",
}


def security_page() -> str:
    """docs/security.md: each control with what is done, where, and the tests that show it; and what is not claimed."""
    found = tomllib.loads((DOCS / "security_controls.toml").read_text())
    asks = {clause["id"]: clause["asks"] for clause in tomllib.loads((DOCS / "clauses.toml").read_text())["clause"]}
    parts = [
        "# Security\n",
        "<!-- made by `make docs` from docs/security_controls.toml; do not edit -->\n",
        "Control by control: what the platform does, where, and the tests that show it. *Operator*: the platform gives what "
        "is said, the rest is the duty of whoever runs it. Names of controls are short; the standards' Chinese texts are the "
        "authority. Whether a clause is met says [conformance.md](conformance.md); who may do what "
        "[permissions.md](permissions.md).\n",
        "## What is not claimed\n",
        "\n".join(f"- {fact['says']}" for fact in found["not_claimed"]) + "\n",
    ]
    for prefix, title in _SECURITY_CHAPTERS.items():
        rows = [_control_row(one, asks) for one in found["control"] if _chapter(one["id"]) == prefix]
        parts += [f"## {title}\n", table(("control", "asks for", "what is done", "where", "tests", "state"), rows)]
    return "\n".join(parts)


def _chapter(control: str) -> str:
    return next((prefix for prefix in _SECURITY_CHAPTERS if prefix and control.startswith(f"{prefix}.")), "")


def _control_row(control: Mapping[str, Any], asks: Mapping[str, str]) -> tuple[str, ...]:
    state = _STATES[control["state"]] + (f": {control['open']}" if "open" in control else "")
    where = "<br>".join(f"`{path}`" for path in control["where"])
    return (
        control["id"],
        control.get("name") or asks[control["id"]],
        control["done"],
        where,
        _tests(dict.fromkeys(control["tests"], "")),
        state,
    )


# performance


def performance_page(results: Iterable[Mapping[str, Any]]) -> str:
    """docs/performance.md: the figures of each benchmark, with what they had to be, the machine and the command."""
    parts = [
        "# Performance\n",
        "<!-- made by `make bench` from build/bench; do not edit -->\n",
        "Figures of one machine that does nothing else, the load generator included. Compare them with each other, not "
        "with those of another day. What matters under load, end to end, is measured by [scenarios](scenarios.md).\n",
    ]
    results = list(results)
    parts.append("![Each figure and what it has to be](performance.svg)\n")
    for result in results:
        machine = result["machine"]
        parts.append(f"## {result['subject'].replace('-', ' ').capitalize()}\n\n{result['about']}\n")
        rows = [
            (figure["name"], _figure(figure["value"]), figure["unit"], figure["bound"], figure["aim"])
            for figure in result["figures"]
        ]
        parts.append(table(("figure", "measured", "unit", "bound", "aim"), rows))
        parts.append(
            f"`python {result['script']}` on {machine['cores']} cores, Python {machine['python']}, {machine['system']}.\n"
        )
    return "\n".join(parts)


def performance_plot(results: Iterable[Mapping[str, Any]]) -> str:
    """docs/performance.svg: a bar for each figure that has a bound, scaled to it."""
    bars = verdict_bars([bar for result in results for figure in result["figures"] for bar in _bar(result["subject"], figure)])
    return bars.replace(">", f' xmlns="http://www.w3.org/2000/svg"><style>{_PLOT_STYLE}</style>', 1)


def _bar(subject: str, figure: Mapping[str, Any]) -> list[tuple[str, float, float, str, str, bool]]:
    sign, _, wanted = figure["bound"].partition(" ")
    if sign not in ("≤", "≥"):
        return []
    value, bound, is_most = figure["value"], float(wanted.replace(",", "")), sign == "≤"
    verdict = "pass" if (value <= bound if is_most else value >= bound) else "fail"
    name = f"{subject.replace('-', ' ')}: {figure['name']}, {figure['unit']}".rstrip(", ")
    return [(name, value, bound, _figure(value), verdict, is_most)]


_PLOT_STYLE: Final = (
    "text{font:12px sans-serif;fill:#24292f}.tick{fill:#656d76}.bar.pass{fill:#2da44e}.bar.fail{fill:#cf222e}"
    ".bound{stroke:#656d76;stroke-dasharray:3 3}"
)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def _performance_from_run() -> str:
    results = [json.loads(path.read_text()) for path in sorted(BENCH.glob("*.json"))]
    quick = [result["subject"] for result in results if result["quick"]]
    if quick or not results:
        sys.exit(f"figures of {', '.join(quick) or 'nothing'} are of a smoke run or not there: run `make bench` first")
    (DOCS / "performance.svg").write_text(performance_plot(results))
    return performance_page(results)


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings": settings_page,
    "metrics": metrics_page,
    "permissions": permissions_page,
    "retention": retention_page,
    "prometheus": prometheus_page,
    "security": security_page,
    "conformance": _conformance_from_run,
    "performance": _performance_from_run,
}


def main(names: list[str]) -> None:
    unknown = set(names) - set(PAGES)
    if unknown or not names:
        sys.exit(f"which page? expected some of {', '.join(PAGES)}")
    for name in names:
        (DOCS / f"{name}.md").write_text(PAGES[name]())
        print(f"wrote docs/{name}.md")


if __name__ == "__main__":
    main(sys.argv[1:])
