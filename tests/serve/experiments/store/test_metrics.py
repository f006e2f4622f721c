"""The store's counters as Prometheus sees them, and its settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from pydantic import ValidationError

from serve.experiments.store.database import Database
from serve.experiments.store.settings import ExperimentStore
from serve.experiments.store.store import Store
from tests.serve.experiments.store.samples import flush, served


def scrape(store: Store) -> dict[str, float]:
    lines = re.findall(r"^(\S+) (\S+)$", generate_latest(store.metrics).decode(), re.MULTILINE)
    return {name.removeprefix("twinserve_experiment_"): float(value) for name, value in lines}


def test_counters_follow_what_happens(opened: Callable[..., Store], tmp_path: Path) -> None:
    store = opened(f"sqlite:///{tmp_path / 'experiments.db'}", bound=100_000)
    store.put(served(1))
    store.put(served(2, metrics={"latency": float("nan")}))
    store.put(served(3, prompt="x" * 200_000))
    flush(store)
    assert scrape(store) == {
        "records_queued": 0,
        "spool_bytes": 0,
        "spool_bound_bytes": 100_000,
        'records_dropped_total{reason="bound"}': 1,
        'records_dropped_total{reason="disk"}': 0,
        'records_dropped_total{reason="invalid"}': 1,
        "records_delivered_total": 1,
        "records_refused_total": 0,
        "records_deleted_total": 0,
    }


def test_the_age_of_the_last_error_is_told_once_there_was_one(store: Store) -> None:
    store.courier.failed = 0.0
    assert scrape(store)["database_error_age_seconds"] > 0


def test_settings_name_a_file_in_the_state_folder_unless_there_is_a_url() -> None:
    assert ExperimentStore(state="there").location == "sqlite:///there/experiments.db"
    assert ExperimentStore(state="there").folder == Path("there/spool")
    with_password = ExperimentStore(url="postgresql://me:secret@host/name")
    assert with_password.location == "postgresql://me:secret@host/name"
    assert "secret" not in str(with_password)
    assert Database(with_password.location + "?password=secret").name == "postgresql://me:***@host/name"


@pytest.mark.parametrize(
    "wrong", [{"spool": "1KiB"}, {"retention": 0}, {"retention": float("nan")}, {"uri": ""}]
)
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        ExperimentStore(**wrong)
