"""The first schema: every table of `runtime.sql.tables` as of version 0.1.

Later migrations state their own changes; this one may use the metadata because it is the metadata's first form, and
a test compares what migrations make with what the code expects.
"""

from __future__ import annotations

from alembic import op

from runtime.sql.tables import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    metadata.drop_all(op.get_bind())
