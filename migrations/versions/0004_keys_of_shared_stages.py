"""Which shared stage a run waited for, so that two of one name are told apart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("stage", sa.Column("key", sa.String(length=16), nullable=True))


def downgrade() -> None:
    """Back."""
    op.drop_column("stage", "key")
