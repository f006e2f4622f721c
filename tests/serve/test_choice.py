"""Mixtures on the grid, and the router asked once a prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.compose import factor_weights, load_composed
from router import Route
from router.features import HiddenStateFeatures
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

    def __init__(self):
        self.asked = []

    def route(self, model, batch):
        self.asked.append([tuple(ids) for ids in batch])
        return [Route({"t0": 1.0}, len(ids) / 100, True, {"t0": 1 / 3}) for ids in batch]


def test_equal_prompts_are_scored_once(zoo):
    z = zoo("adapter", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    router = CountingRouter()
    planner = Planner(mixture, COSTS, 0)
    chooser = Chooser(mixture, planner, router, z.bundle.scalings, 1)  # type: ignore[arg-type]
    first = chooser.routes([[1, 2], [3], [1, 2]])
    again = chooser.routes([[3], [4, 5, 6]])
    assert router.asked == [[(1, 2), (3,)], [(4, 5, 6)]]
    assert [r.confidence for r in (*first, *again)] == [0.02, 0.01, 0.02, 0.01, 0.03]
    assert (chooser.hits, chooser.misses) == (2, 3)
    request = GenerationRequest([1], SamplingParams(1), Target("dynamic"))
    assert chooser.routing(request, first[0]).mixture == {"t0": 21 / 64}, "what is served is returned"


@pytest.mark.parametrize("mode", ["sliced", "stacked", "grouped"])
def test_padding_between_prompts_hides_no_token_from_the_experts(zoo, tmp_path, mode):
    """Without a composed shared base the router's batch is factored, padded as it is."""
    # Products of one expert each need experts of one rank.
    one_rank = {"rank": 8, "reference": "pretrained"}
    z = full_zoo(tmp_path, "llama", **one_rank) if mode == "grouped" else zoo("adapter", "llama")
    features = HiddenStateFeatures(layer=2)
    batch = [tiny.prompt(i, length) for i, length in enumerate((3, 9, 1))]
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    shared = tuple(factor_weights({}, z.bundle.tasks, z.bundle.scalings))
    assert any(shared)
    with Planner(mixture, COSTS, 0, mode).uniform(shared, sum(map(len, batch))):
        factored = features.extract(mixture.model, batch)
    composed = features.extract(load_composed(z.bundle, shared), batch)
    np.testing.assert_allclose(factored, composed, rtol=1e-3, atol=1e-4)
