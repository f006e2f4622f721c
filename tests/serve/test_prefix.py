"""The prefix cache against a plain dictionary of everything that was ever put in."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.prefix import PrefixCache

BLOCK = 2
# One layer, one head: 16 bytes a position.
COST = 2 * 4 * 2


def reader(root, tokens, seen=None):
    """Keys that say which root and which tokens before and at a position made them."""

    def read(start, stop):
        if seen is not None:
            seen.append((start, stop))
        rows = [[hash((root, tuple(tokens[: i + 1]))) % 10**6, i] for i in range(start, stop)]
        keys = torch.tensor(rows, dtype=torch.float32)[None]
        return [(keys, -keys)]

    return read


def check(cache, root, tokens):
    blocks = cache.match(root, tokens)
    for index, block in enumerate(blocks):
        expected = reader(root, tokens)(index * BLOCK, (index + 1) * BLOCK)
        assert torch.equal(block.layers[0][0], expected[0][0])
        assert torch.equal(block.layers[0][1], expected[0][1])
    assert len(blocks) * BLOCK < len(tokens), "the last token is always computed"
    return len(blocks) * BLOCK


prompts = st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=9))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.booleans(), prompts), max_size=40), st.integers(0, 8))
def test_what_is_found_was_computed_by_the_same_weights_from_the_same_tokens(history, blocks):
    cache = PrefixCache(blocks * BLOCK * COST, BLOCK)
    for put, (root, tokens) in history:
        if put:
            cache.insert(root, tokens, reader(root, tokens))
        else:
            check(cache, root, tokens)
        assert cache.nbytes <= cache.budget
        assert cache.nbytes == sum(block.nbytes for block in cache._blocks.values())


def test_only_unknown_blocks_are_read():
    cache = PrefixCache(100 * COST, BLOCK)
    seen = []
    cache.insert("a", [1, 2, 3, 4, 5], reader("a", [1, 2, 3, 4, 5], seen))
    cache.insert("a", [1, 2, 3, 4, 6, 7], reader("a", [1, 2, 3, 4, 6, 7], seen))
    assert seen == [(0, 2), (2, 4), (4, 6)]
    assert check(cache, "a", [1, 2, 3, 4, 6, 7, 8]) == 6
    assert check(cache, "b", [1, 2, 3, 4]) == 0
    assert check(cache, "a", [3, 4, 5]) == 0, "the same tokens elsewhere are another prefix"
    assert (cache.hits, cache.misses) == (6, 1 + 4 + 3)


def test_ends_leave_before_beginnings_and_old_chains_before_new():
    cache = PrefixCache(4 * BLOCK * COST, BLOCK)
    cache.insert("a", [1, 2, 3, 4], reader("a", [1, 2, 3, 4]))
    cache.insert("b", [5, 6, 7, 8], reader("b", [5, 6, 7, 8]))
    check(cache, "a", [1, 2, 3, 4, 0])
    cache.insert("c", [9, 9], reader("c", [9, 9]))
    assert check(cache, "a", [1, 2, 3, 4, 0]) == 4
    assert check(cache, "b", [5, 6, 7, 8, 0]) == 2, "its end went, its beginning is still of use"
    assert check(cache, "c", [9, 9, 0]) == 2


def test_a_prompt_longer_than_the_budget_keeps_its_beginning():
    cache = PrefixCache(2 * BLOCK * COST, BLOCK)
    tokens = list(range(20))
    cache.insert("a", tokens, reader("a", tokens))
    assert check(cache, "a", tokens) == 4


def test_without_memory_nothing_is_read():
    cache = PrefixCache(0, BLOCK)
    seen = []
    cache.insert("a", [1, 2, 3], reader("a", [1, 2, 3], seen))
    assert seen == [] and check(cache, "a", [1, 2, 3]) == 0
