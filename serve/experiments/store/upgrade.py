"""The schema of a database, brought up to this version's."""

from __future__ import annotations

import logging

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from compress.errors import InputError

# The database may be shared with other programs that use Alembic.
VERSION_TABLE = "experiment_schema"
# Any constant that all our servers share; these are the letters "twin".
LOCK = 0x7477696E
log = logging.getLogger(__name__)


def upgrade(connection: Connection, name: str) -> None:
    """Run the migrations that are missing, in the connection's transaction.

    Servers that start at once wait for each other: on SQLite by the transaction, which must have begun with
    IMMEDIATE, on PostgreSQL by an advisory lock that ends with it. name: the database, for people.

    Raises InputError for a schema of a later version.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
    config = Config()
    config.set_main_option("script_location", "serve.experiments.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = ScriptDirectory.from_config(config)
    revisions = {script.revision for script in known.walk_revisions()}
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    present = context.get_current_revision()
    if present == known.get_current_head():
        return
    if present is not None and present not in revisions:
        raise InputError(
            f"the database {name} has the schema {present!r}, of a later version of twinserve than this one; "
            "update twinserve, or name another database for experiments"
        )
    command.upgrade(config, "head")
    log.info("the database %s has now the schema %s", name, known.get_current_head())
