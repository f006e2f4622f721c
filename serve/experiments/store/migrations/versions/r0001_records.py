"""Versions of experiments, responses, feedback, units."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "experiment_versions",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("changed", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("began", sa.Double),
        sa.Column("arms", sa.Text, nullable=False),
        sa.Column("traffic", sa.Text, nullable=False),
    )
    op.create_table(
        "experiment_served",
        sa.Column("response", sa.String, primary_key=True),
        sa.Column("experiment", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("unit", sa.String, nullable=False),
        sa.Column("task", sa.String),
        sa.Column("moment", sa.Double, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("prompt", sa.Text),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("shadow", sa.Boolean, nullable=False),
        sa.Column("beside", sa.String),
        sa.Column("text", sa.Text),
    )
    op.create_index("experiment_served_in_order", "experiment_served", ["experiment", "moment"])
    op.create_index("experiment_served_by_age", "experiment_served", ["moment"])
    op.create_table(
        "experiment_feedback",
        sa.Column("response", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("moment", sa.Double, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
    )
    op.create_index("experiment_feedback_by_age", "experiment_feedback", ["moment"])
    op.create_table(
        "experiment_units",
        sa.Column("experiment", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("arm", sa.String, primary_key=True),
        sa.Column("unit", sa.String, primary_key=True),
        sa.Column("last", sa.Double, nullable=False),
    )
    op.create_index("experiment_units_by_age", "experiment_units", ["last"])
