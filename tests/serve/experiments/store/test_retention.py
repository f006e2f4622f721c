"""What is too old goes, in batches; what an experiment was stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from serve.experiments.store import retention
from serve.experiments.store.retention import DAY, purge
from serve.experiments.store.store import Store
from serve.experiments.store.tables import FEEDBACK, SERVED, UNITS
from tests.serve.experiments.store.samples import CHANGE, flush, say, served
from tests.serve.experiments.store.samples import FEEDBACK as SAID


def fill(store: Store, now: float) -> None:
    """Ten responses, a day apart, the newest a moment old, each with feedback; two units."""
    for age in range(10):
        moment = now - age * DAY - 60
        store.put(replace(served(age, unit=f"u{age // 5}"), moment=moment))
        say(store, replace(SAID, response=f"cmpl-{age}", moment=moment + 1))
    store.save_experiment(replace(CHANGE, changed=now - 100 * DAY))
    flush(store)


def counts(store: Store) -> list[int]:
    with store.database.reading() as connection:
        return [len(connection.execute(table.select()).all()) for table in (SERVED, FEEDBACK, UNITS)]


def test_what_is_older_is_deleted_in_batches_and_the_rest_stays(
    opened: Callable[..., Store], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST", 2)
    store, now = opened(url, retention=None), time.time()
    fill(store, now)
    assert list(purge(store.database, now - 5 * DAY)) == [2, 2, 1, 2, 2, 1, 1]
    assert counts(store) == [5, 5, 1]
    assert {record.response for record in store.served("weights")} == {f"cmpl-{age}" for age in range(5)}
    assert store.units("weights", 1) == {"dynamic": 1}
    assert len(store.experiments()) == 1
    assert list(purge(store.database, now - 5 * DAY)) == []


def test_a_store_deletes_by_its_setting_when_it_is_opened(opened: Callable[..., Store], url: str) -> None:
    fill(opened(url, retention=None), time.time())
    store = opened(url, retention=3.0)
    end = time.monotonic() + 30
    while store.courier.purged < 7 + 7 + 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert counts(store) == [3, 3, 1]
