"""Names, references and what people wrote about patients are sealed (`runtime.sql.sealed`).

A reference is found by `ref_index`, which takes over its column and its constraint. Rows of the write log stay in clear:
nothing may change them. What an export was asked for by (`q`) is no longer kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection

from runtime.sealing import hospital_owner, patient_owner
from runtime.sql import sealed
from runtime.sql.access import without_search
from runtime.sql.scrub import ask_to_scrub

revision = "0008"
down_revision = "0007"

_BATCH = 2_000
_REASONS = """
    SELECT a.id, a.device_handle, a.patient_key, a.start_us, a.recorded_us, a.reason AS text, p.hospital_id
    FROM associations a JOIN patients p ON p.patient_key = a.patient_key
    WHERE a.reason IS NOT NULL AND a.id > :last ORDER BY a.id LIMIT :batch
"""
_WINDOWS = """
    SELECT id, hospital_id, device_handle, ward_id, from_us, reason AS text FROM maintenance_windows
    WHERE reason IS NOT NULL AND id > :last ORDER BY id LIMIT :batch
"""
_NOTES = """
    SELECT alarm_id AS id, alarm_id, hospital_id, patient_key, note AS text FROM alarms
    WHERE note IS NOT NULL AND alarm_id > :last ORDER BY alarm_id LIMIT :batch
"""
_PATIENTS = """
    SELECT patient_key AS id, patient_key, hospital_id, {columns} FROM patients
    WHERE patient_key > :last ORDER BY patient_key LIMIT :batch
"""


def upgrade() -> None:
    connection = op.get_bind()
    op.execute("ALTER TABLE patients RENAME COLUMN ref TO ref_index")
    op.execute("ALTER TABLE patients RENAME COLUMN name TO clear_name")
    op.add_column("patients", sa.Column("ref", sa.Text(), nullable=True))
    op.add_column("patients", sa.Column("name", sa.Text(), nullable=True))
    count = _seal_patients(connection) + _redact_exports(connection)
    for table, key, query, shut in _texts():
        count += _each(connection, table, key, query, shut)
    op.drop_column("patients", "clear_name")
    if count:
        ask_to_scrub(connection)


def downgrade() -> None:
    """In clear again. Of what was erased nothing comes back."""
    connection = op.get_bind()
    op.execute("ALTER TABLE patients RENAME COLUMN name TO sealed_name")
    op.add_column("patients", sa.Column("name", sa.String(200), nullable=True))
    change = sa.text("UPDATE patients SET ref_index = :ref, name = :name WHERE patient_key = :id")
    for rows in _batches(connection, _PATIENTS.format(columns="sealed_name AS name, ref, ref_index"), ""):
        opened = sealed.open_patients(connection, rows)
        refs = [row["patient_key"] if row["erased"] else row["ref"] for row in opened]
        values = [{"id": row["id"], "name": row["name"], "ref": ref} for row, ref in zip(opened, refs, strict=True)]
        connection.execute(change, values)
    op.drop_column("patients", "sealed_name")
    op.drop_column("patients", "ref")
    op.execute("ALTER TABLE patients RENAME COLUMN ref_index TO ref")
    for table, key, query, _ in _texts():
        column, place = _OPENED[table]
        back = _change(table, key, column)
        for rows in _batches(connection, query, "" if key == "alarm_id" else 0):
            opened = sealed.open_texts(connection, rows, "text", [place(row) for row in rows])
            connection.execute(back, [{"id_": row["id"], "text_": row["text"]} for row in opened])


def _seal_patients(connection: Connection) -> int:
    change = sa.text("UPDATE patients SET ref_index = :ref_index, ref = :ref, name = :name WHERE patient_key = :id")
    count = 0
    for rows in _batches(connection, _PATIENTS.format(columns="clear_name AS name, ref_index AS ref"), ""):
        connection.execute(change, sealed.shut_patients(connection, rows, are_new=True))
        count += len(rows)
    return count


def _each(
    connection: Connection, table: str, key: str, query: str, shut: Callable[[Connection, Sequence[Any]], list[str]]
) -> int:
    column, _ = _OPENED[table]
    change = _change(table, key, column)
    count = 0
    for rows in _batches(connection, query, "" if key == "alarm_id" else 0):
        texts = shut(connection, rows)
        connection.execute(change, [{"id_": row["id"], "text_": text} for row, text in zip(rows, texts, strict=True)])
        count += len(rows)
    return count


def _change(table: str, key: str, column: str) -> sa.Update:
    columns = sa.table(table, sa.column(key), sa.column(column))
    return sa.update(columns).where(columns.c[key] == sa.bindparam("id_")).values({column: sa.bindparam("text_")})


def _texts() -> tuple[tuple[str, str, str, Callable[[Connection, Sequence[Any]], list[str]]], ...]:
    return (
        ("associations", "id", _REASONS, _shut_spans),
        ("maintenance_windows", "id", _WINDOWS, _shut_windows),
        ("alarms", "alarm_id", _NOTES, _shut_notes),
    )


_OPENED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "associations": ("reason", sealed.place_of_span),
    "maintenance_windows": ("reason", sealed.place_of_window),
    "alarms": ("note", sealed.place_of_note),
}


def _shut_spans(connection: Connection, rows: Sequence[Any]) -> list[str]:
    owners = [patient_owner(row["hospital_id"], row["patient_key"]) for row in rows]
    texts = [(owner, sealed.place_of_span(row), row["text"]) for owner, row in zip(owners, rows, strict=True)]
    return sealed.sealer_of(connection).seal_many(texts, are_new=True)


def _shut_windows(connection: Connection, rows: Sequence[Any]) -> list[str]:
    texts = [(hospital_owner(row["hospital_id"], "maintenance"), sealed.place_of_window(row), row["text"]) for row in rows]
    return sealed.sealer_of(connection).seal_many(texts, are_new=True)


def _shut_notes(connection: Connection, rows: Sequence[Any]) -> list[str]:
    texts = [(sealed.owner_of_alarm(row), sealed.place_of_note(row), row["text"]) for row in rows]
    return sealed.sealer_of(connection).seal_many(texts, are_new=True)


def _redact_exports(connection: Connection) -> int:
    table = sa.table("exports", sa.column("id"), sa.column("query", sa.JSON()))
    found = [(row.id, row.query) for row in connection.execute(sa.select(table.c.id, table.c.query)) if "url" in row.query]
    changed = [(number, query | {"url": without_search(query["url"])}) for number, query in found]
    changed = [(number, query) for (number, query), (_, before) in zip(changed, found, strict=True) if query != before]
    for number, query in changed:
        connection.execute(sa.update(table).where(table.c.id == number).values(query=query))
    return len(changed)


def _batches(connection: Connection, query: str, last: Any) -> Iterator[list[dict[str, Any]]]:
    while rows := [dict(row) for row in connection.execute(sa.text(query), {"last": last, "batch": _BATCH}).mappings()]:
        yield rows
        last = rows[-1]["id"]
