"""Receipts say how a request was served."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; older receipts have none."""
    op.add_column("receipts", sa.Column("serving", sa.Text(), nullable=True))
