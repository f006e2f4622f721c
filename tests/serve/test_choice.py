"""Mixtures on the grid, and the router asked once a prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.compose import factor_weights, load_composed
from router import Query, Route, RouterSettings
from router.features.embedding import EmbeddingFeatures
from router.features.hidden import HiddenStateFeatures
from router.policy import Policy
from router.query import Turn
from serve import choice
from serve.choice import GRID, Chooser, snap
from serve.mixture import MixtureModel
from serve.planner import Planner
from serve.request import GenerationRequest, SamplingParams, Target
from tests import tiny
from tests.bundles import full_zoo
from tests.serve.packed import COSTS

weights = st.dictionaries(st.sampled_from("abcde"), st.floats(-3, 3, allow_nan=False), max_size=5)


@given(weights)
def test_snapped_mixtures_are_near_and_keep_their_sum(mixture):
    snapped = snap(mixture)
    assert all(abs(snapped.get(t, 0.0) - w) < 1 / GRID + 1e-12 for t, w in mixture.items())
    assert abs(sum(snapped.values()) - round(sum(mixture.values()) * GRID) / GRID) < 1e-9
    assert all(w and w * GRID == int(w * GRID) for w in snapped.values())
    assert snap(snapped) == snapped


def test_thirds_still_sum_to_one():
    third = 1 / 3
    assert sum(snap({"a": third, "b": third, "c": third}).values()) == 1.0


class CountingRouter:
    """Routes by length; remembers what it was asked."""

    settings = RouterSettings(fallback="base")

    needs_model = True

    def __init__(self):
        self.asked = []

    def reads(self, query):
        return sum(len(turn.ids) for turn in query.turns)

    def route(self, model, queries):
        self.asked.append(queries)
        return [Route({"t0": 1.0}, self.reads(query) / 100, True, {"t0": 1 / 3}) for query in queries]


def query(*turns, text="any"):
    """A query of turns of these token ids."""
    return Query(tuple(Turn(text, tuple(ids)) for ids in turns))


@pytest.fixture
def chooser(zoo):
    z = zoo("adapter", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    return Chooser(mixture, Planner(mixture, COSTS, 0), CountingRouter(), z.bundle.scalings, 1)


def test_equal_prompts_are_scored_once(chooser):
    two, one, three = query([1, 2]), query([3]), query([4, 5, 6])
    first = chooser.routes([two, one, query([1, 2])])
    again = chooser.routes([query([3]), three])
    assert chooser.router.asked == [[two, one], [three]]
    assert [r.confidence for r in (*first, *again)] == [0.02, 0.01, 0.02, 0.01, 0.03]
    assert (chooser.hits, chooser.misses) == (2, 3)
    request = GenerationRequest([1], SamplingParams(1), Target("dynamic"))
    assert chooser.routing(request, first[0]).mixture == {"t0": 21 / 64}, "what is served is returned"


def test_a_policy_of_the_requests_own_replaces_the_routers(chooser):
    (route,) = chooser.routes([query([1, 2])])

    def mixture(**target):
        return chooser.routing(GenerationRequest([1], SamplingParams(1), Target("dynamic", **target)), route)

    found = mixture(policy=Policy(threshold=0.5, total=0.5), arm="half")
    assert (found.mixture, found.source, found.arm) == ({"t0": 0.5}, "router", "half")
    assert found.confidence == route.confidence, "what the router thought stays what it was"
    assert mixture().mixture == {"t0": 21 / 64} and mixture().arm == "dynamic"
    assert chooser.misses == 1, "an arm's policy costs no second look at the prompt"
    # What it says nothing of is as the router's own has it.
    unsure = replace(route, probabilities={"t0": 0.4, "t1": 0.6})
    request = GenerationRequest([1], SamplingParams(1), Target("dynamic", policy=Policy(threshold=0.9)))
    assert chooser.routing(request, unsure).mixture == {"base": 1.0}


def test_other_turns_or_another_text_of_the_same_tokens_are_scored_anew(chooser):
    """Features may be of the text, and a turn counts for less than the next."""
    alike = [query([1, 2]), query([1], [2]), query([2], [1]), query([1, 2], text="other")]
    chooser.routes(alike)
    assert chooser.router.asked == [alike]


def test_a_score_at_hand_costs_no_tokens(chooser):
    asked = query([1, 2], [3])
    assert chooser.tokens(asked) == 3
    chooser.routes([asked])
    assert chooser.tokens(query([1, 2], [3])) == 0
    assert chooser.tokens(query([1, 2, 3])) == 3


def test_the_scores_used_last_are_kept(chooser, monkeypatch):
    monkeypatch.setattr(choice, "MOST_REMEMBERED", 2)
    for ids in ([1], [2], [1], [3]):
        chooser.routes([query(ids)])
    assert [chooser.tokens(query(ids)) for ids in ([1], [2], [3])] == [0, 1, 0]


@pytest.mark.parametrize(
    "features", [HiddenStateFeatures(layer=2), EmbeddingFeatures()], ids=["hidden", "embedding"]
)
@pytest.mark.parametrize("mode", ["sliced", "stacked", "grouped"])
def test_padding_between_prompts_hides_no_token_from_the_experts(tmp_path, mode, features):
    """Without a composed shared base the router's batch is factored, padded as it is."""
    # Products of one expert each need experts of one rank; these have embeddings of their own, too.
    z = full_zoo(tmp_path, "llama", rank=8, reference="pretrained")
    turns = [Turn("any", tuple(tiny.prompt(i, length))) for i, length in enumerate((3, 9, 1))]
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    shared = tuple(factor_weights({}, z.bundle.tasks, z.bundle.scalings))
    assert any(shared)
    with Planner(mixture, COSTS, 0, mode).uniform(shared, sum(len(turn.ids) for turn in turns)):
        factored = features.extract(mixture.model, turns)
    composed = features.extract(load_composed(z.bundle, shared), turns)
    np.testing.assert_allclose(factored, composed, rtol=1e-3, atol=1e-4)
    assert np.abs(features.extract(mixture.model, turns) - composed).max() > 0.1, "experts matter"
