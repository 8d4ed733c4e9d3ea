"""Candidate lists drawn elsewhere."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "lists",
        sa.Column("corpus", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("market", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.Column("relevant", sa.Integer(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("(CURRENT_TIMESTAMP)"), nullable=False
        ),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["corpus"], ["corpus.digest"], name=op.f("fk_lists_corpus_corpus"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("corpus", "digest", name=op.f("pk_lists")),
        sa.UniqueConstraint("corpus", "name", name=op.f("uq_lists_corpus_name")),
    )


def downgrade() -> None:
    """Back."""
    op.drop_table("lists")
