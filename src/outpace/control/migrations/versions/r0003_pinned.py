"""A count of replicas is a person's or the autoscaler's."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A count that differs from the file's was a person's; the others follow the load from now on."""
    with op.batch_alter_table("deployments") as table:
        table.alter_column(
            "desired",
            new_column_name="pinned",
            existing_type=sa.Integer(),
            existing_nullable=False,
            nullable=True,
        )
    rows = sa.table("deployments", sa.column("name"), sa.column("spec"), sa.column("pinned"))
    connection = op.get_bind()
    for row in connection.execute(sa.select(rows)).all():
        if json.loads(row.spec)["replicas"]["min"] == row.pinned:
            connection.execute(rows.update().where(rows.c.name == row.name).values(pinned=None))
