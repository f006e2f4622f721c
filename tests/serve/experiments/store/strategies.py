"""All records that can be stored."""

from __future__ import annotations

from hypothesis import strategies as st

from serve.experiments.records import Change, Feedback, Routed, Served

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
IDS = st.text(CHARACTERS, max_size=20)
TEXTS = st.text(CHARACTERS)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
METRICS = st.dictionaries(IDS, NUMBERS, max_size=4)
COUNTS = st.integers(0, 2**31 - 1)
SERVED = st.builds(
    Served,
    response=IDS,
    experiment=IDS,
    version=COUNTS,
    arm=IDS,
    unit=IDS,
    task=st.none() | IDS,
    moment=NUMBERS,
    metrics=METRICS,
    prompt=st.none() | TEXTS,
    generation=COUNTS,
    shadow=st.booleans(),
    beside=st.none() | IDS,
    text=st.none() | TEXTS,
)
FEEDBACK = st.builds(Feedback, response=IDS, key=IDS, moment=NUMBERS, metrics=METRICS)
CHANGES = st.builds(
    Change,
    name=IDS,
    version=COUNTS,
    state=st.sampled_from(["scheduled", "running", "stopped"]),
    definition=TEXTS,
    changed=NUMBERS,
    reason=TEXTS,
    began=st.none() | NUMBERS,
    arms=TEXTS,
    traffic=TEXTS,
)
ROUTED = st.builds(Routed, response=IDS, experiment=IDS, task=IDS)
RECORDS = SERVED | ROUTED | FEEDBACK | CHANGES
