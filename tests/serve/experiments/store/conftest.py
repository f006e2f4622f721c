"""Each test of the store runs on SQLite, and on PostgreSQL where that is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from serve.experiments.store.store import Store
from tests.postgres import MISSING, Cluster

NUMBERS = count()


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster | None]:
    made = Cluster.temporary()
    if made is not None:
        made.start()
    yield made
    if made is not None:
        made.stop()
        made.remove()


@pytest.fixture
def cluster(running_cluster: Cluster | None) -> Cluster:
    """PostgreSQL, running; a test that stops it starts it again."""
    if running_cluster is None:
        pytest.skip(MISSING)
    return running_cluster


@pytest.fixture
def postgresql(cluster: Cluster) -> str:
    """The URL of a new schema in PostgreSQL: as empty as a database, and made far sooner."""
    name = f"test{next(NUMBERS)}"
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{cluster.url}&options=-csearch_path={name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'experiments.db'}"
    made: str = request.getfixturevalue("postgresql")
    return made


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """``opened(url, **options)``: a store that is closed when the test ends."""
    stores: list[Store] = []

    def make(url: str, **options: object) -> Store:
        stores.append(Store.open(url, tmp_path / "spool", **options))
        return stores[-1]

    yield make
    for store in stores:
        store.close(seconds=0)


@pytest.fixture
def store(url: str, opened: Callable[..., Store]) -> Store:
    """A store, of either kind."""
    return opened(url)
