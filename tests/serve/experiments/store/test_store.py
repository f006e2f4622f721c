"""What is put in comes out, once, whatever comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.errors import InputError
from serve.experiments.records import Routed
from serve.experiments.store import reading
from serve.experiments.store.delivery import deliver
from serve.experiments.store.errors import VersionTakenError
from serve.experiments.store.store import Store
from serve.experiments.store.tables import FEEDBACK, METADATA, SERVED
from tests.serve.experiments.store import strategies
from tests.serve.experiments.store.samples import CHANGE, feedback, flush, say, served


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(strategies.SERVED, max_size=5, unique_by=lambda record: (record.response, record.experiment)),
    st.lists(strategies.FEEDBACK, max_size=5, unique_by=lambda record: (record.response, record.key)),
    st.lists(strategies.CHANGES, max_size=5, unique_by=lambda record: (record.name, record.version)),
)
def test_every_record_comes_back_from_the_database_and_a_second_delivery_changes_nothing(
    store: Store, responses, said, changes
) -> None:
    with store.database.writing() as connection:
        for table in METADATA.sorted_tables:
            connection.execute(table.delete())
        for _ in range(2):
            deliver(connection, [*responses, *said, *changes])
            for record in responses:
                assert record in list(reading.served(connection, record.experiment, record.version))
            assert len(connection.execute(SERVED.select()).all()) == len(responses)
            kept = {(row.response, row.key): row for row in connection.execute(FEEDBACK.select())}
            assert len(kept) == len(said)
            for record in said:
                assert dict(kept[record.response, record.key]._mapping) == vars(record)
            held = {(change.name, change.version): change for change in reading.history(connection, None)}
            assert held == {(change.name, change.version): change for change in changes}


def test_responses_are_found_from_the_moment_that_they_were_put(store: Store) -> None:
    for number in range(50):
        store.put(served(number))
        assert store.find(f"cmpl-{number}") == served(number)
    flush(store)
    assert store.pending.find("cmpl-7") is None
    assert store.find("cmpl-7") == served(7)
    assert store.find("cmpl-50") is None


def test_a_task_that_is_told_later_is_the_responses_own_and_never_replaces_one(store: Store) -> None:
    records = [served(number, task=task) for number, task in enumerate([None, "base", None, None], 1)]
    for record in records:
        store.put(record)
    name = records[0].experiment
    store.put(Routed("cmpl-1", name, "sums"))
    flush(store)
    for response, experiment in (("cmpl-2", name), ("cmpl-3", "another"), ("gone", name), ("cmpl-4", name)):
        store.put(Routed(response, experiment, "lists"))
    flush(store)
    found = {record.response: record.task for record in store.served(name)}
    assert found == {"cmpl-1": "sums", "cmpl-2": "base", "cmpl-3": None, "cmpl-4": "lists"}


def test_responses_come_out_by_experiment_and_version_the_oldest_first(store: Store) -> None:
    records = [
        served(2, version=2),
        served(1),
        served(3, experiment="other"),
        served(4, shadow=True, beside="cmpl-1", text="é\n", prompt="why?", task=None, generation=3),
    ]
    for record in records:
        store.put(record)
    flush(store)
    assert list(store.served("weights")) == [records[1], records[0], records[3]]
    assert list(store.served("weights", version=2)) == [records[0]]
    assert list(store.served("none")) == []


def test_more_rows_than_a_page_stream_out_while_others_are_written(store: Store) -> None:
    count = 2 * reading.PAGE + 1
    for number in range(count):
        store.put(served(number))
    flush(store)
    stream = store.served("weights")
    first = next(stream)
    store.put(served(count))
    flush(store)
    assert [first, *stream] == [served(number) for number in range(count)]


def test_feedback_replaces_what_was_said_under_its_key_unless_that_is_later(store: Store) -> None:
    store.put(served(1))
    say(store, feedback(1), feedback(1, key="other", metrics={"stars": 3.0}))
    say(store, feedback(1, metrics={"like": 0.0}))
    say(store, replace(feedback(1), moment=1.0, metrics={"like": 0.5}))
    flush(store)
    assert list(store.outcomes("weights")) == [
        feedback(1, metrics={"like": 0.0}),
        feedback(1, key="other", metrics={"stars": 3.0}),
    ]


def test_feedback_counts_in_every_experiment_of_its_response_and_in_no_other(store: Store) -> None:
    for record in (served(1), served(1, experiment="tone"), served(2, experiment="else")):
        store.put(record)
    say(store, feedback(1), feedback(3))
    flush(store)
    assert [list(store.outcomes(name)) for name in ("weights", "tone", "else")] == [
        [feedback(1)],
        [feedback(1)],
        [],
    ]


def test_units_are_counted_once_an_arm_and_version_and_shadowed_answers_are_not(store: Store) -> None:
    for record in (
        served(1),
        served(2),
        served(3, unit="u1"),
        served(4, unit="u1", arm="static"),
        served(5, unit="u2", version=2),
        served(6, unit="u3", shadow=True),
    ):
        store.put(record)
    flush(store)
    store.put(served(1))
    flush(store)
    assert store.units("weights", 1) == {"dynamic": 2, "static": 1}
    assert store.units("weights", 2) == {"dynamic": 1}


def test_experiments_are_known_by_their_last_version_and_their_history(store: Store) -> None:
    second = replace(CHANGE, version=2, definition='{"a": 1}', changed=CHANGE.changed + 1)
    other = replace(CHANGE, name="tone", state="scheduled", began=None)
    for change in (CHANGE, second, other):
        store.save_experiment(change)
    assert store.experiments() == [other, second]
    assert store.history("weights") == [CHANGE, second]


def test_the_same_version_again_changes_its_state_and_never_back(store: Store) -> None:
    stopped = replace(CHANGE, state="stopped", changed=CHANGE.changed - 1, reason="worse")
    store.save_experiment(CHANGE)
    store.save_experiment(stopped)
    store.save_experiment(CHANGE)
    assert store.experiments() == [stopped]


def test_a_version_that_another_server_made_is_not_overwritten(store: Store) -> None:
    store.save_experiment(CHANGE)
    with pytest.raises(
        VersionTakenError, match="version 1 of experiment 'weights' is another server's change"
    ):
        store.save_experiment(replace(CHANGE, definition='{"b": 1}'))
    assert store.experiments() == [CHANGE]


def test_changes_may_be_put_as_records_and_a_conflict_is_set_aside(store: Store) -> None:
    say(store, CHANGE, replace(CHANGE, definition="[]"), replace(CHANGE, version=2))
    flush(store)
    assert store.history("weights") == [CHANGE, replace(CHANGE, version=2)]
    assert store.courier.refused == 1
    assert store.spool.aside.read_bytes().count(b"\n") == 1


def test_what_a_database_can_never_take_is_set_aside_and_the_rest_is_delivered(
    opened: Callable[..., Store], postgresql: str
) -> None:
    store = opened(postgresql)
    store.put(served(1))
    store.put(served(2, version=2**40))
    store.put(served(3))
    flush(store)
    assert [record.response for record in store.served("weights")] == ["cmpl-1", "cmpl-3"]
    assert b"cmpl-2" in store.spool.aside.read_bytes()
    assert (store.courier.delivered, store.courier.refused) == (2, 1)


def test_numbers_that_are_not_finite_are_refused_or_their_response_is_dropped(store: Store) -> None:
    with pytest.raises(InputError, match="no finite number"):
        say(store, feedback(1, metrics={"like": float("nan")}))
    store.put(served(1, metrics={"latency": float("inf")}))
    flush(store)
    assert store.find("cmpl-1") is None
    assert store.writer.dropped == {"bound": 0, "disk": 0, "invalid": 1}


def test_durable_records_survive_the_caller_that_is_cancelled(store: Store) -> None:
    async def put_and_leave() -> None:
        waiting = asyncio.create_task(store.put_durably(feedback(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await store.put_durably(feedback(2))

    store.put(served(1))
    asyncio.run(put_and_leave())
    flush(store)
    assert list(store.outcomes("weights")) == [feedback(1)]


def test_prompts_have_a_fingerprint_that_the_database_alone_does_not_give_away(
    url: str, opened: Callable[..., Store], tmp_path: Path
) -> None:
    store = opened(url)
    mark = store.fingerprint("a prompt\ud800")
    assert len(mark) == 64
    assert mark == opened(url).fingerprint("a prompt\ud800")
    assert mark != store.fingerprint("a prompt")
    assert (tmp_path / "spool" / "prompts.key").stat().st_mode & 0o777 == 0o600
    elsewhere = Store.open(url, tmp_path / "another")
    assert elsewhere.fingerprint("a prompt") != store.fingerprint("a prompt")
    elsewhere.close(seconds=0)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nothing", "cannot be read; write sqlite:"),
        ("mysql://host/name", "in sqlite or postgresql, not in 'mysql'"),
        ("sqlite://", "a database that lasts"),
        ("sqlite:////proc/none/experiments.db", "cannot be made for experiments"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_in_a_sentence(url: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        Store.open(url, tmp_path / "spool")


def test_a_file_that_cannot_be_opened_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unable to open database file; experiments need a file"):
        Store.open(f"sqlite:///{tmp_path}", tmp_path / "spool")


def test_a_file_that_is_no_database_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "experiments.db").write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match=r"experiments.db cannot hold experiments: file is not a database"):
        Store.open(f"sqlite:///{tmp_path / 'experiments.db'}", tmp_path / "spool")
