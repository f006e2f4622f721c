"""The tables, as this version knows them; migrations/ makes them so."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()

# One row a version; of spec.Experiment the JSON, so that its next fields need no migration.
VERSIONS = Table(
    "experiment_versions",
    METADATA,
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("state", String, nullable=False),
    Column("definition", Text, nullable=False),
    Column("changed", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("began", Double),
    Column("arms", Text, nullable=False),
    Column("traffic", Text, nullable=False),
)

# A response has one row in every experiment that it takes part in.
SERVED = Table(
    "experiment_served",
    METADATA,
    Column("response", String, primary_key=True),
    Column("experiment", String, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("arm", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("task", String),
    Column("moment", Double, nullable=False),
    # JSON and not JSONB, which would turn 1e16 into an integer.
    Column("metrics", JSON, nullable=False),
    Column("prompt", Text),
    Column("generation", Integer, nullable=False),
    Column("shadow", Boolean, nullable=False),
    Column("beside", String),
    Column("text", Text),
    Index("experiment_served_in_order", "experiment", "moment"),
    Index("experiment_served_by_age", "moment"),
)

# Not bound to its response by a foreign key: the two may arrive from different servers, in any order.
FEEDBACK = Table(
    "experiment_feedback",
    METADATA,
    Column("response", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("moment", Double, nullable=False),
    Column("metrics", JSON, nullable=False),
    Index("experiment_feedback_by_age", "moment"),
)

# Who has been shown which arm, so that units are counted without reading every response.
UNITS = Table(
    "experiment_units",
    METADATA,
    Column("experiment", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("arm", String, primary_key=True),
    Column("unit", String, primary_key=True),
    Column("last", Double, nullable=False),
    Index("experiment_units_by_age", "last"),
)
