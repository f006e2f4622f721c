"""Records for tests, and stores asked from outside an event loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from serve.experiments.records import Change, Feedback, Served
from serve.experiments.store.store import Store

# Far ahead, so that nothing is too old to be kept.
MOMENT = 4e9
SERVED = Served(
    response="cmpl-0",
    experiment="weights",
    version=1,
    arm="dynamic",
    unit="u0",
    task="movies",
    moment=MOMENT,
    metrics={"latency": 0.25},
)
FEEDBACK = Feedback(response="cmpl-0", key="like", moment=MOMENT + 1, metrics={"like": 1.0})
CHANGE = Change(
    name="weights",
    version=1,
    state="running",
    definition="{}",
    changed=MOMENT,
    reason="begun",
    began=MOMENT,
    arms="[]",
    traffic="[]",
)


def served(number: int, **fields: Any) -> Served:
    """The response of that number."""
    return replace(SERVED, response=f"cmpl-{number}", moment=MOMENT + number, **fields)


def feedback(number: int, **fields: Any) -> Feedback:
    """What was said of the response of that number."""
    return replace(FEEDBACK, response=f"cmpl-{number}", moment=MOMENT + 1000 + number, **fields)


def say(store: Store, *records: Feedback | Change) -> None:
    """Put records durably, one after the other."""

    async def put() -> None:
        for record in records:
            await store.put_durably(record)

    asyncio.run(put())


def flush(store: Store) -> None:
    """Wait until the database has everything."""
    assert store.flush(seconds=30)
