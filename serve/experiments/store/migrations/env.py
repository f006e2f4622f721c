"""Run by Alembic for every upgrade: the connection is given, there is no ini file and no offline mode."""

from __future__ import annotations

from alembic import context

from serve.experiments.store.tables import METADATA
from serve.experiments.store.upgrade import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    # The caller's transaction is the only one: a step that fails leaves nothing behind.
    transactional_ddl=True,
)
context.run_migrations()
