"""The database goes away and comes back: nothing waits for it, and nothing that was kept is lost."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve.experiments.store import courier, database
from serve.experiments.store.errors import StoreAwayError, StoreFullError
from serve.experiments.store.settings import LEAST_SPOOL
from serve.experiments.store.store import Store
from tests.serve.experiments.store.samples import CHANGE, feedback, flush, say, served


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other quickly, and a locked file is soon given up."""
    monkeypatch.setattr(courier, "LAST", 0.3)
    monkeypatch.setattr(database, "PATIENCE", 0.05)


@pytest.fixture
def away(url: str, request: pytest.FixtureRequest, tmp_path: Path):
    """A context in which the database takes nothing: PostgreSQL has crashed, a SQLite file is locked."""

    @contextmanager
    def crashed() -> Iterator[None]:
        cluster = request.getfixturevalue("cluster")
        cluster.stop()
        try:
            yield
        finally:
            cluster.start()

    @contextmanager
    def locked() -> Iterator[None]:
        other = sqlite3.connect(tmp_path / "experiments.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()

    return locked if url.startswith("sqlite") else crashed


def failed(store: Store) -> None:
    """Wait until the courier has met the database's absence."""
    end = time.monotonic() + 30
    while store.courier.failed is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_records_wait_while_the_database_is_away_and_are_delivered_afterwards(store: Store, away) -> None:
    store.put(served(0))
    flush(store)
    with away():
        for number in range(1, 30):
            store.put(served(number))
        say(store, feedback(1), feedback(2))
        assert store.find("cmpl-29") == served(29)
        failed(store)
        assert store.spool.bytes > 0
        assert not store.flush(seconds=0.1)
    flush(store)
    assert list(store.served("weights")) == [served(number) for number in range(30)]
    assert list(store.outcomes("weights")) == [feedback(1), feedback(2)]


def test_a_process_that_begins_and_ends_meanwhile_loses_nothing(
    url: str, store: Store, away, tmp_path
) -> None:
    flush(store)
    with away():
        other = Store.open(url, tmp_path / "other")
        other.put(served(1))
        say(other, feedback(1))
        other.save_experiment(CHANGE)
        other.close(seconds=0)
        again = Store.open(url, tmp_path / "other")
        assert again.find("cmpl-1") == served(1)
    flush(again)
    assert list(again.served("weights")) == [served(1)]
    assert list(again.outcomes("weights")) == [feedback(1)]
    assert again.experiments() == [CHANGE]
    again.close(seconds=0)


def test_changes_made_meanwhile_are_known_at_once_and_kept(store: Store, away) -> None:
    store.save_experiment(CHANGE)
    stopped = replace(CHANGE, state="stopped", reason="a guardrail broke")
    with away():
        store.save_experiment(stopped)
        assert store.pending.changes() == [stopped]
    flush(store)
    assert store.experiments() == [stopped]


def test_a_server_that_starts_meanwhile_knows_the_experiments_as_they_last_stood(
    store: Store, url: str, away, opened: Callable[..., Store]
) -> None:
    other = replace(CHANGE, name="tone", version=3)
    for change in (CHANGE, other):
        store.save_experiment(change)
    stopped = replace(CHANGE, state="stopped", reason="a guardrail broke")
    with away():
        store.save_experiment(stopped)
        store.close(seconds=0)
        again = opened(url)
        assert again.experiments() == [other, stopped]


def test_a_server_that_never_saw_its_experiments_says_so(
    cluster, postgresql: str, opened: Callable[..., Store]
) -> None:
    cluster.stop()
    try:
        with pytest.raises(StoreAwayError):
            opened(postgresql).experiments()
    finally:
        cluster.start()


def test_beyond_the_bound_responses_are_dropped_and_feedback_is_refused(
    url: str, opened: Callable[..., Store], away
) -> None:
    store = opened(url, bound=LEAST_SPOOL)
    with away():
        say(store, feedback(0))
        for number in range(400):
            store.put(served(number))
        kept = 400 - store.writer.dropped["bound"]
        assert 0 < kept < 400
        assert store.find(f"cmpl-{kept - 1}") == served(kept - 1)
        for _ in range(3):
            with pytest.raises(
                StoreFullError, match=r"the spool of experiments is full, .*; try again later"
            ):
                say(store, feedback(1, metrics={"x" * 200: 1.0, "y" * 200: 1.0}))
        assert store.spool.bytes <= LEAST_SPOOL
    flush(store)
    say(store, feedback(1))
    flush(store)
    assert list(store.served("weights")) == [served(number) for number in range(kept)]
    assert list(store.outcomes("weights")) == [feedback(0), feedback(1)]


def test_reading_a_database_that_has_gone_says_so(
    opened: Callable[..., Store], cluster, postgresql: str
) -> None:
    store = opened(postgresql)
    cluster.stop()
    try:
        for ask in (
            lambda: store.history("weights"),
            lambda: store.find("cmpl-1"),
            lambda: list(store.served("weights")),
        ):
            with pytest.raises(StoreAwayError, match="experiments does not answer; try again later") as told:
                ask()
            assert "the database postgresql://twin@/postgres does not answer: " in told.value.why
    finally:
        cluster.start()


def test_a_server_starts_while_the_database_is_away_and_makes_its_schema_later(
    cluster, postgresql: str, opened: Callable[..., Store]
) -> None:
    cluster.stop()
    try:
        store = opened(postgresql)
        store.put(served(1))
        failed(store)
    finally:
        cluster.start()
    flush(store)
    assert list(store.served("weights")) == [served(1)]
