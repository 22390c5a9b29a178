"""A hospital may be dedicated: it has a shard of its own, and that shard a host of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("hospitals", sa.Column("placement", sa.String(16), nullable=False, server_default="shared"))


def downgrade() -> None:
    op.drop_column("hospitals", "placement")
