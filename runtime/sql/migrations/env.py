"""Alembic's entry: runs migrations on the engine that `runtime.sql.engine.migrate` hands over."""

from __future__ import annotations

from alembic import context

from runtime.sql.tables import metadata


def run() -> None:
    engine = context.config.attributes["engine"]
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
        if connection.in_transaction():
            connection.commit()


run()
