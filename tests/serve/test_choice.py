"""Mixtures on the grid, and the router asked once a prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router import Route
from serve.choice import GRID, Chooser, snap
from serve.mixture import MixtureModel
from serve.planner import Planner
from serve.request import GenerationRequest, SamplingParams, Target
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
    mixture = MixtureModel.load(z.bundle, dtype=__import__("torch").float32)
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
