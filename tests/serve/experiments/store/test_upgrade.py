"""The schema that migrations make is the one that the code uses, whoever opens the database when."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations

from compress.errors import InputError
from serve.experiments.store.database import Database
from serve.experiments.store.store import Store
from serve.experiments.store.tables import METADATA
from serve.experiments.store.upgrade import VERSION_TABLE
from tests.serve.experiments.store.samples import flush, served


def test_migrations_make_the_tables_that_the_code_knows(store: Store) -> None:
    with store.database.reading() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), METADATA) == []


def test_a_database_that_is_opened_again_keeps_what_it_has(url: str, opened: Callable[..., Store]) -> None:
    first = opened(url)
    first.put(served(1))
    flush(first)
    assert list(opened(url).served("weights")) == [served(1)]


def test_a_schema_of_a_later_version_is_refused_in_a_sentence(url: str, opened: Callable[..., Store]) -> None:
    store = opened(url)
    with store.database.writing() as connection:
        connection.execute(sqlalchemy.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(
        InputError, match=r"has the schema '9999', of a later version of twinserve .*; update"
    ):
        opened(url)


def test_databases_opened_at_once_are_made_once(url: str) -> None:
    databases = [Database(url) for _ in range(6)]
    barrier, failures = threading.Barrier(len(databases)), []

    def connect(database: Database) -> None:
        barrier.wait()
        try:
            with database.reading() as connection:
                connection.execute(METADATA.tables["experiment_served"].select())
        except Exception as error:
            failures.append(error)
        database.close()

    threads = [threading.Thread(target=connect, args=[database]) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_migration_that_fails_leaves_nothing_behind(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    database = Database(url)
    with monkeypatch.context() as patch:
        patch.setattr(Operations, "create_index", broken)
        with pytest.raises(RuntimeError, match="broken"), database.reading():
            pass
    with database.reading() as connection:
        names = sqlalchemy.inspect(connection).get_table_names()
    assert sorted(names) == sorted([*METADATA.tables, VERSION_TABLE])
    database.close()
