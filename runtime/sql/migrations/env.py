"""Alembic's entry: runs migrations in the transaction that `runtime.sql.engine.migrate` hands over."""

from __future__ import annotations

from alembic import context

from runtime.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
