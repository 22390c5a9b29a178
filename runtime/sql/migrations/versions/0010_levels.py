"""Records above their class are few, and looked for whenever readings are asked for."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_index("ix_patients_level", "patients", ["level"])
    op.create_index("ix_devices_level", "devices", ["level"])


def downgrade() -> None:
    op.drop_index("ix_devices_level", "devices")
    op.drop_index("ix_patients_level", "patients")
