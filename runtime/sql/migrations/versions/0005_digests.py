"""Digests of tokens are no longer SHA-256 by name: a value says how it was made (`runtime.tokens.digests_of`).

Stored values stay as they are. Constraints keep their names: SQLite cannot rename one without rewriting the table.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE devices RENAME COLUMN token_sha256 TO token_digest")
    op.execute("ALTER TABLE tokens RENAME COLUMN sha256 TO digest")


def downgrade() -> None:
    """Tokens made meanwhile stop working: the former version does not know their digests."""
    op.execute("ALTER TABLE tokens RENAME COLUMN digest TO sha256")
    op.execute("ALTER TABLE devices RENAME COLUMN token_digest TO token_sha256")
