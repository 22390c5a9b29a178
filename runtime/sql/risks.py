"""The register of risks to data: findings are brought in, people say what is done about them. Clause 6.1.

A finding is one row for ever. One that is not found any more closes by itself, and opens again when it comes back; so does
one whose acceptance has ended. What people write is sealed; of each change a row of history stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert, select, update

from domain.errors import Conflict, InvalidInput
from domain.labels import LABELS
from domain.risks import RULES, Found, RiskState
from runtime.sealing import WRITES, Place
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Page, Row, change, check_text, log_write, one, page
from runtime.sql.risk_tables import risk_events, risks
from runtime.sql.sealed import open_texts, shut_text

MAX_TEXT_CHARS: Final = 1000
BACKUP: Final = "backup.made"  # of the write log
_MOST_POINTS: Final = 5
_FOUND, _AGAIN, _GONE, _CHANGED, _ENDED, _ENTERED = "found", "found-again", "gone", "changed", "acceptance-ended", "entered"
_STILL_OPEN: Final = (RiskState.OPEN, RiskState.MEASURE_IN_FORCE, RiskState.ACCEPTED)


@dataclass(frozen=True, slots=True)
class NewRisk:
    """A risk that somebody enters."""

    title: str
    measure: str
    kind: str
    owner: str
    likelihood: int
    severity: int


def bring_in(engine: Engine, author: Author, found: Iterable[Found], judged: Collection[str]) -> int:
    """Bring the register up to what the rules that could judge have found; how many rows changed their state or figures."""
    findings = {one.key: one for one in found}
    with writing(engine) as connection:
        present = connection.execute(select(risks).where(risks.c.rule.is_not(None))).mappings()
        rows: dict[str, Row] = {row["finding"]: dict(row) for row in present}
        changes = sum(_bring_in(connection, author, one, rows.get(key)) for key, one in findings.items())
        gone = [
            row for key, row in rows.items()
            if key not in findings and row["rule"] in judged and row["state"] != RiskState.CLOSED
        ]  # fmt: skip
        for row in gone:
            _move(connection, author, row, _GONE, {"state": RiskState.CLOSED, "accepted_until_us": None})
        changes += len(gone) + _end_acceptances(connection, author)
        if changes:
            log_write(connection, author, "risk.evaluate", "risks", {"found": len(findings), "changed": changes})
        return changes


def _bring_in(connection: Connection, author: Author, one: Found, row: Row | None) -> int:
    figures = {"likelihood": one.likelihood, "severity": one.severity, "evidence": dict(one.evidence)}
    if row is None:
        rule = RULES[one.rule]
        values = {
            "finding": one.key, "rule": one.rule, "subject": one.subject, "kind": rule.kind, "owner": rule.owner,
            "state": RiskState.OPEN, "found_us": author.now_us, "seen_us": author.now_us, **figures,
        }  # fmt: skip
        key = connection.execute(insert(risks).values(values)).inserted_primary_key
        assert key is not None
        _note(connection, author, {"id": key[0], **values}, _FOUND)
        return 1
    if row["state"] == RiskState.CLOSED:
        _move(connection, author, row, _AGAIN, {"state": RiskState.OPEN, "seen_us": author.now_us, **figures})
        return 1
    if (row["likelihood"], row["severity"]) != (one.likelihood, one.severity):
        _move(connection, author, row, _CHANGED, {"seen_us": author.now_us, **figures})
        return 1
    if row["evidence"] != figures["evidence"]:  # no event: ages and counts go on
        connection.execute(update(risks).where(risks.c.id == row["id"]).values(seen_us=author.now_us, **figures))
    return 0


def _end_acceptances(connection: Connection, author: Author) -> int:
    ended = (risks.c.state == RiskState.ACCEPTED, risks.c.accepted_until_us <= author.now_us)
    rows = connection.execute(select(risks).where(*ended)).mappings().all()
    for row in rows:
        _move(connection, author, dict(row), _ENDED, {"state": RiskState.OPEN, "accepted_until_us": None})
    return len(rows)


def enter(engine: Engine, author: Author, new: NewRisk) -> Row:
    """A risk that no rule finds. Raises InvalidInput."""
    check_text(new.title, "the title", MAX_TEXT_CHARS)
    _check({"likelihood": new.likelihood, "severity": new.severity, "measure": new.measure, "owner": new.owner})
    if new.kind not in LABELS:
        raise InvalidInput(f"kind {new.kind!r} is no class of records: expected one of {', '.join(sorted(LABELS))}")
    with writing(engine) as connection:
        values = {
            "kind": new.kind, "owner": new.owner, "likelihood": new.likelihood, "severity": new.severity, "evidence": {},
            "state": RiskState.OPEN, "found_us": author.now_us, "seen_us": author.now_us, "subject": "",
        }  # fmt: skip
        key = connection.execute(insert(risks).values(values)).inserted_primary_key
        assert key is not None
        texts = {name: _shut(connection, int(key[0]), name, getattr(new, name)) for name in ("title", "measure")}
        connection.execute(update(risks).where(risks.c.id == key[0]).values(texts))
        _note(connection, author, {"id": key[0], **values}, _ENTERED)
        log_write(connection, author, "risk.create", f"risk {key[0]}")
        return _shown(connection, [one(connection, select(risks).where(risks.c.id == key[0]), "the risk")])[0]


def judge(engine: Engine, author: Author, risk_id: int, values: Mapping[str, Any], *, version: int | None) -> Row:
    """Say what becomes of a risk: `state`, `owner`, `measure`, `accepted_until_us`; of one entered by hand its figures too.

    Accepting takes a reason and an end; a closed one is opened first. Raises NotFound, InvalidInput, Conflict for figures
    that a rule gives and for what is closed, StaleVersion.
    """
    _check(values)
    what = f"risk {risk_id}"
    with writing(engine) as connection:
        row = one(connection, select(risks).where(risks.c.id == risk_id), what)
        if row["rule"] is not None and {"likelihood", "severity"} & set(values):
            raise Conflict(f"{what} was found by rule {row['rule']}, which gives its likelihood and severity")
        state = values.get("state", row["state"])
        if row["state"] == RiskState.CLOSED and state not in (RiskState.CLOSED, RiskState.OPEN):
            raise Conflict(f"{what} is closed: there is nothing that could be {state}. Set it to {RiskState.OPEN} first")
        until_us = values.get("accepted_until_us", row["accepted_until_us"]) if state == RiskState.ACCEPTED else None
        if state == RiskState.ACCEPTED and (author.reason is None or until_us is None or until_us <= author.now_us):
            raise InvalidInput("a risk is accepted with a reason (X-Reason) and until a time to come (accepted_until)")
        new = {**values, "state": state, "accepted_until_us": until_us}
        if "measure" in new:
            new["measure"] = _shut(connection, risk_id, "measure", new["measure"])
        changed = change(connection, risks, {"id": risk_id}, new, version=version, what=what)
        _note(connection, author, changed, _CHANGED, author.reason)
        log_write(connection, author, "risk.update", what, {"state": str(state)})
        return _shown(connection, [changed])[0]


def list_risks(engine: Engine, *, state: str | None, limit: int, after: tuple[Any, ...] | None = None) -> Page:
    """The register, the newest findings first; those that are not closed, or those in `state`."""
    wanted = risks.c.state == state if state else risks.c.state.in_(_STILL_OPEN)
    with reading(engine) as connection:
        found = page(connection, select(risks).where(wanted), [risks.c.id], limit=limit, after=after, descending=True)
        return Page(_shown(connection, found.rows), found.after)


def get_risk(engine: Engine, risk_id: int) -> tuple[Row, list[Row]]:
    """A risk with its history, the oldest event first. Raises NotFound."""
    with reading(engine) as connection:
        row = one(connection, select(risks).where(risks.c.id == risk_id), f"risk {risk_id}")
        query = select(risk_events).where(risk_events.c.risk_id == risk_id).order_by(risk_events.c.id)
        events = [dict(event) for event in connection.execute(query).mappings()]
        places = [_place(risk_id, f"note-{event['at_us']}") for event in events]
        return _shown(connection, [row])[0], open_texts(connection, events, "note", places)


def _check(values: Mapping[str, Any]) -> None:
    for name in ("likelihood", "severity"):
        if name in values and not 1 <= values[name] <= _MOST_POINTS:
            raise InvalidInput(f"{name} {values[name]} is out of range: expected 1 to {_MOST_POINTS}")
    for name, longest in (("measure", MAX_TEXT_CHARS), ("owner", 64)):
        check_text(values.get(name), f"the {name}", longest)


def _move(connection: Connection, author: Author, row: Row, event: str, values: Mapping[str, Any]) -> None:
    version = {"version": row["version"] + 1}
    connection.execute(update(risks).where(risks.c.id == row["id"]).values({**values, **version}))
    _note(connection, author, {**row, **values}, event)


def _note(connection: Connection, author: Author, row: Mapping[str, Any], event: str, note: str | None = None) -> None:
    kept = {name: row[name] for name in ("state", "likelihood", "severity")}
    sealed = _shut(connection, row["id"], f"note-{author.now_us}", note)
    connection.execute(insert(risk_events).values(
        risk_id=row["id"], at_us=author.now_us, who=author.who, event=event, note=sealed, **kept
    ))  # fmt: skip


def _place(risk_id: int, name: str) -> Place:
    return Place("risks", name, str(risk_id))


def _shut(connection: Connection, risk_id: int, name: str, text: str | None) -> str | None:
    return shut_text(connection, WRITES, _place(risk_id, name), text)


def _shown(connection: Connection, rows: list[Row]) -> list[Row]:
    """Rows with what their rules say, and what people wrote."""
    for column in ("title", "measure"):
        rows = open_texts(connection, rows, column, [_place(row["id"], column) for row in rows])
    return [
        row if row["rule"] not in RULES
        else {**row, "title": RULES[row["rule"]].title, "measure": row["measure"] or RULES[row["rule"]].measure}
        for row in rows
    ]  # fmt: skip
