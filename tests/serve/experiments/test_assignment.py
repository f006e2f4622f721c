"""Units get arms evenly, independently and for good: only those move that have to."""

from __future__ import annotations

import hashlib
import hmac
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from serve.experiments.assignment import (
    BUCKETS,
    FREE,
    Allocation,
    allocate,
    arm_bucket,
    buckets,
    claim,
    layer_bucket,
    pseudonym,
)

# p-values of fixed ids and salts: the same in every run.
LEAST = 1e-3


def shares(names: str = "abcde") -> st.SearchStrategy[dict[str, float]]:
    """Shares that sum to 1, some of them 0."""
    numbers = st.lists(st.integers(0, 1000), min_size=len(names), max_size=len(names)).filter(any)
    return numbers.map(lambda all: {name: n / sum(all) for name, n in zip(names, all, strict=True)})


def test_a_million_ids_fill_all_buckets_alike():
    found = np.bincount([arm_bucket("salt", f"user-{i}") for i in range(1_000_000)], minlength=BUCKETS)
    assert len(found) == BUCKETS
    assert chisquare(found).pvalue > LEAST


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(lambda unit: layer_bucket("a", unit), lambda unit: layer_bucket("b", unit), id="layers"),
        pytest.param(
            lambda unit: arm_bucket("a", unit), lambda unit: arm_bucket("b", unit), id="experiments"
        ),
        pytest.param(lambda unit: layer_bucket("a", unit), lambda unit: arm_bucket("a", unit), id="both"),
        pytest.param(lambda unit: arm_bucket("a", unit), lambda unit: arm_bucket("a1", unit), id="prefix"),
    ],
)
def test_what_one_hash_decides_says_nothing_of_another(one, other):
    table = np.zeros((10, 10))
    for i in range(100_000):
        unit = str(i)
        table[one(unit) * 10 // BUCKETS, other(unit) * 10 // BUCKETS] += 1
    assert chi2_contingency(table).pvalue > LEAST


def test_the_hash_is_the_one_that_is_documented():
    """Whoever assigns beside this endpoint must come to the same arms, in any language."""
    digest = hmac.new(b"salt", b"arm\0ann", hashlib.sha256).digest()
    assert arm_bucket("salt", "ann") == int.from_bytes(digest[:8], "big") % 10_000
    assert pseudonym("salt", "ann") == hmac.new(b"salt", b"unit\0ann", hashlib.sha256).hexdigest()[:32]


def test_a_pseudonym_depends_on_the_salt_and_not_on_what_python_calls_text():
    assert pseudonym("s", "ann") != pseudonym("t", "ann") != pseudonym("t", "bob")
    assert len(pseudonym("s", "\ud800\x00 é")) == 32


@given(shares())
def test_shares_become_whole_buckets(wanted):
    sizes = buckets(wanted)
    assert sum(sizes.values()) == BUCKETS
    assert all(abs(sizes[name] - share * BUCKETS) < 1 for name, share in wanted.items())


def test_shares_that_binary_numbers_miss_lose_nothing():
    assert buckets({"a": 0.1, "b": 0.2, "c": 0.7}) == {"a": 1000, "b": 2000, "c": 7000}
    assert buckets({"a": 0.3, "b": 0.3, "c": 0.4}) == {"a": 3000, "b": 3000, "c": 4000}


@given(shares(), st.lists(shares(), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_change_of_shares_moves_the_fewest_units(first, later):
    before = allocate(buckets(first))
    for wanted in later:
        sizes = buckets(wanted)
        after = allocate(sizes, before)
        assert {name: after.sizes.get(name, 0) for name in sizes} == sizes
        pairs = list(zip(before.labels, after.labels, strict=True))
        moved = sum(old != new for old, new in pairs)
        # What some arms must give up has to move, and nothing else does.
        assert moved == sum(max(0, count - sizes[name]) for name, count in before.sizes.items())
        before = after


@given(shares("ab"), shares("bcd"))
@settings(max_examples=30, deadline=None)
def test_arms_that_go_give_up_everything(first, second):
    after = allocate(buckets(second), allocate(buckets(first)))
    assert set(after.sizes) == {name for name, count in buckets(second).items() if count}


@given(shares(), shares())
@settings(max_examples=30, deadline=None)
def test_an_allocation_survives_json(first, second):
    allocation = allocate(buckets(second), allocate(buckets(first)))
    runs = json.loads(json.dumps(allocation.runs))
    assert Allocation(tuple((label, count) for label, count in runs)) == allocation


@pytest.mark.parametrize("runs", [(("a", 9_999),), (("a", 10_001),), (("a", 10_000), ("b", 0)), ()])
def test_an_allocation_has_all_buckets(runs):
    with pytest.raises(ValueError, match="10000"):
        Allocation(runs)


def test_a_claim_takes_what_is_free_and_keeps_what_it_had():
    none = [False] * BUCKETS
    first = claim("x", 3000, none)
    assert first is not None and first.sizes == {"x": 3000, FREE: 7000}
    taken = [label == "x" for label in first.labels]
    second = claim("y", 7000, taken)
    assert second is not None and not any(
        mine == "y" and theirs for mine, theirs in zip(second.labels, taken, strict=True)
    )
    assert claim("y", 7001, taken) is None
    # Once x has gone its buckets are free, and y keeps its own all the same.
    alone = claim("y", 8000, none, second)
    assert all(new == "y" for old, new in zip(second.labels, alone.labels, strict=True) if old == "y")
    for count in (1000, 5000):
        again = claim("x", count, none, first)
        both = sum(old == new == "x" for old, new in zip(first.labels, again.labels, strict=True))
        assert both == min(count, 3000)
