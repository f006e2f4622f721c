"""When mixtures are composed, which copies are kept, which kernel runs, and when a batch is split."""

from __future__ import annotations

import pytest
import torch

from serve.costs import Costs, Rates, Shape, calibrate
from serve.kernels import Grouped, Sliced, Stacked
from serve.mixture import MixtureModel
from serve.planner import Item, Planner
from tests.serve.packed import COSTS


@pytest.fixture
def mixture(zoo):
    return MixtureModel.load(zoo("full", "llama").bundle, dtype=torch.float32)


A, B, ZERO, SOFT = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.25, 0.25)
FREE, DEAR = Rates(call=0, byte=0, flop=0), Rates(call=1, byte=0, flop=0)


def planner_of(mixture, copies=1, mode="auto", **costs):
    budget = copies * mixture.parameter_bytes
    return Planner(mixture, COSTS.model_copy(update=costs), budget, mode)


def run(planner, rows, tokens=1):
    """Kinds of the passes of one step of rows with so many tokens each."""
    items = [Item(row, tokens) for row in rows]
    parts = planner.plan(items)
    for part in parts:
        with planner.apply(part, items, [True] * len(items)):
            pass
    assert sorted(i for part in parts for i in part.members) == list(range(len(rows)))
    return [part.kind for part in parts]


def test_composed_once_that_has_repaid_itself(mixture):
    planner = planner_of(mixture, compose=1e-8)
    making = planner.costs.compose * planner.shape.dense[0]
    each = planner._factored([Item(A, 1)]).seconds
    assert making > 3 * each
    kinds = [run(planner, [A])[0] for _ in range(int(making / each) + 3)]
    assert kinds.index("composed") == kinds.count("factored") == pytest.approx(making / each, abs=1)
    assert planner.composed_bytes == mixture.parameter_bytes
    assert planner.passes == {"factored": kinds.count("factored"), "composed": kinds.count("composed")}
    assert planner.lookups["hit"] == kinds.count("composed") - 1


def test_different_mixtures_are_factored_and_nothing_is_plain(mixture):
    planner = planner_of(mixture, mode="composed")
    assert run(planner, [A, B], 100) == ["factored"]
    assert run(planner, [ZERO, ZERO], 100) == ["plain"]


def test_rivals_for_the_last_copy_take_turns_not_every_step(mixture, monkeypatch):
    planner = planner_of(mixture)
    made = []
    compose = mixture.compose
    monkeypatch.setattr(mixture, "compose", lambda g: made.append(g) or compose(g))
    for _ in range(400):
        for row in (A, B):
            run(planner, [row])
    each = planner._factored([Item(A, 1)]).seconds
    most = 800 * each / (COSTS.compose * planner.shape.dense[0])
    assert {A, B} == set(made) and len(made) <= most + 1
    assert planner.composed_bytes == mixture.parameter_bytes


def test_the_least_recently_used_copy_leaves_first(mixture):
    planner = planner_of(mixture, copies=2, mode="composed")
    for row in (A, B, A, SOFT):
        run(planner, [row])
    assert set(planner._kept) == {A, SOFT}


def test_a_pinned_copy_is_made_at_once_and_stays(mixture):
    planner = planner_of(mixture, copies=1)
    planner.pin(A)
    assert run(planner, [A]) == ["composed"]
    assert run(planner, [B], 10**6) == ["factored"], "there is no room for another"
    assert planner.composed_bytes == mixture.parameter_bytes
    assert run(planner, [A]) == ["composed"]


@pytest.mark.parametrize("mode", ["factored", "sliced", "stacked", "grouped"])
def test_factored_modes_never_compose(mixture, mode):
    planner = planner_of(mixture, copies=3, mode=mode)
    planner.pin(A)
    assert run(planner, [A], 10**6) == ["factored"]
    assert planner.composed_bytes == 0


def test_no_memory_means_factors_and_no_failure(mixture, monkeypatch):
    def full(g):
        raise RuntimeError("out of memory")

    planner = planner_of(mixture, mode="composed")
    monkeypatch.setattr(mixture, "compose", full)
    assert run(planner, [A]) == run(planner, [A]) == ["factored"]


def test_the_cheapest_kernel_is_taken(mixture):
    rows = [Item(A, 1), Item(B, 1), Item(A, 1)]

    def kernel(**costs):
        return {type(k) for k in planner_of(mixture, **costs)._factored(rows).kernels}

    assert kernel(sliced=FREE, stacked=DEAR, grouped=DEAR) == {Sliced}
    assert kernel(sliced=DEAR, stacked=FREE, grouped=DEAR) == {Stacked}
    assert kernel(sliced=DEAR, stacked=DEAR, grouped=FREE) == {Grouped}


def test_rows_of_few_and_of_many_experts_may_share_a_product(mixture, monkeypatch):
    monkeypatch.setattr("serve.planner.FEW_EXPERTS", 1)
    many = tuple(0.1 for _ in range(3))
    rows = [Item(A, 1), Item(many, 1)]

    def count(**rates):
        return len(planner_of(mixture, **rates)._factored(rows).kernels)

    assert count(stacked=Rates(call=1e-3, byte=0, flop=0), sliced=DEAR, grouped=DEAR) == 1
    assert count(stacked=Rates(call=0, byte=0, flop=1e-6), sliced=FREE, grouped=DEAR) == 2


def test_experts_that_no_row_uses_are_left_out(mixture):
    planner = planner_of(mixture, mode="sliced")
    (part,) = planner.plan([Item(B, 1), Item(B, 1), Item(ZERO, 1)])
    (kernel,) = part.kernels
    assert kernel.experts == ((1, 1.0),), "one expert, one product for both of its rows"
    assert kernel.span == slice(1, 3), "the row without experts stands before it"


def test_static_rows_get_a_pass_of_their_own_when_that_is_cheaper(mixture):
    def kinds(base):
        planner = planner_of(mixture, base=base)
        planner.pin(SOFT)
        return run(planner, [SOFT, A, SOFT, B])

    assert kinds({1: 1e-9, 64: 1e-9}) == ["composed", "factored"]
    assert kinds({1: 1.0, 64: 1.0}) == ["factored"], "a second pass costs more than it saves"


def test_calibration_measures_this_machine(zoo):
    mixture = MixtureModel.load(zoo("adapter", "llama").bundle, dtype=torch.float32)
    costs = calibrate(mixture)
    shape = Shape(mixture)
    assert costs.sliced.seconds(shape.sliced(4, [0])) > 0
    assert costs.stacked.seconds(shape.stacked(4)) > 0
    assert costs.compose > 0 and set(costs.base) == {1, 4, 16, 64}
    assert Costs.model_validate_json(costs.model_dump_json()) == costs
    assert MixtureModel.load(zoo("adapter", "llama").bundle, dtype=torch.float32).body.g is None


def test_a_model_without_experts_needs_no_kernels(zoo):
    plain = MixtureModel(zoo("adapter", "llama").base)
    assert run(Planner(plain, calibrate(plain), 0), [(), ()]) == ["plain"]


def test_seconds_of_a_plain_pass_are_read_between_and_beyond_what_was_measured():
    costs = COSTS.model_copy(update={"base": {1: 1.0, 4: 2.0, 16: 8.0}})
    assert [costs.plain(t) for t in (0, 1, 4, 10, 16, 28)] == [1.0, 1.0, 2.0, 5.0, 8.0, 14.0]
    assert costs.model_copy(update={"base": {4: 2.0}}).plain(100) == 2.0
