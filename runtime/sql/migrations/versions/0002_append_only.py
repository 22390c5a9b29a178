"""The write log says what was done in detail and cannot be changed; answers to alarms carry a note; tokens their last use.

Notified alarm events cannot be changed either; they may be deleted, by a retention rule to come.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_REFUSED = (("write_log", "update"), ("write_log", "delete"), ("alarm_events", "update"))


def upgrade() -> None:
    op.add_column("write_log", sa.Column("detail", sa.JSON(), nullable=True))
    op.add_column("alarms", sa.Column("note", sa.Text(), nullable=True))
    op.add_column("tokens", sa.Column("last_used_us", sa.BigInteger(), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        for table, verb in _REFUSED:
            op.execute(
                f"CREATE TRIGGER {table}_refuses_{verb} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} refuses {verb}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% refuses %', TG_TABLE_NAME, lower(TG_OP); END $$"
    )
    for table, verb in (*_REFUSED, ("write_log", "truncate")):
        op.execute(
            f"CREATE TRIGGER {table}_refuses_{verb} BEFORE {verb} ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, verb in _REFUSED if is_sqlite else (*_REFUSED, ("write_log", "truncate")):
        op.execute(f"DROP TRIGGER {table}_refuses_{verb}" + ("" if is_sqlite else f" ON {table}"))
    if not is_sqlite:
        op.execute("DROP FUNCTION refuse_change()")
    op.drop_column("tokens", "last_used_us")
    op.drop_column("alarms", "note")
    op.drop_column("write_log", "detail")
