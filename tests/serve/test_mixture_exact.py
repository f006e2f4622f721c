"""Composition against dense weights composed in float64 from the checkpoints themselves."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.compose import factor_weights, load_composed
from serve.kernels import Bank, Grouped, Sliced, Stacked
from serve.mixture import MixtureModel
from tests import tiny
from tests.bundles import full_zoo
from tests.serve.packed import Packed, distance, last_logits

MIXTURES = [
    {},
    {"t0": 1.0},
    {"t2": 1.0},
    {"t0": 0.5, "t1": 0.3, "t2": 0.2},
    {"t1": 0.4},
    {"t0": 0.9, "t2": 0.8},
    {"t0": -0.5, "t1": 1.25},
]
CASES = [(kind, family) for family in tiny.FAMILIES for kind in ("full", "adapter")]
KERNELS = ("auto", "sliced", "stacked", "grouped")
# float32 rounding of weights, sums and two layers, relative to the spread of the logits.
TOLERANCE = 1e-4


@pytest.mark.parametrize("mode", KERNELS)
@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_request_of_a_mixed_step_equals_its_own_dense_model(zoo, kind, family, mode):
    """Whole prompts, second halves of prompts, and single tokens, all in one pass."""
    z = zoo(kind, family)
    packed = Packed(z, mode)
    prompts = [tiny.prompt(i, 12) for i in range(len(MIXTURES))]
    begun = [0, 6, 11, 11, 11, 11, 11]
    packed.run([packed.work(i, 0, prompts[i][:n], MIXTURES[i]) for i, n in enumerate(begun) if n])
    found = packed.run([packed.work(i, n, prompts[i][n:], MIXTURES[i]) for i, n in enumerate(begun)])
    references = [last_logits(z.reference(m), p) for m, p in zip(MIXTURES, prompts, strict=True)]
    for row, reference in zip(found, references, strict=True):
        assert distance(row, reference) < TOLERANCE
    # The test can fail: another mixture moves the logits by far more than the tolerance.
    wrong = last_logits(z.reference(MIXTURES[2]), prompts[1])
    assert distance(wrong, references[1]) > 100 * TOLERANCE
    if mode == "grouped":
        # The adapters have three ranks, for which a batched product would have to be padded.
        assert bool(packed.planner.kernels["grouped"]) == (kind == "full")


@pytest.mark.parametrize(("kind", "family"), CASES)
@pytest.mark.parametrize("mixture", MIXTURES, ids=str)
def test_composed_weights_equal_the_dense_model(zoo, kind, family, mixture):
    z = zoo(kind, family)
    served = MixtureModel.load(z.bundle, dtype=torch.float32)
    ids = tiny.prompt(5, 12)
    g = factor_weights(mixture, z.bundle.tasks, z.bundle.scalings)
    reference = last_logits(z.reference(mixture), ids)
    before = last_logits(served.model, ids)
    with served.composed(served.compose(g)):
        assert distance(last_logits(served.model, ids), reference) < TOLERANCE
    assert torch.equal(last_logits(served.model, ids), before), "the base's weights must come back"
    plain = load_composed(z.bundle, g)
    assert distance(last_logits(plain, ids), reference) < TOLERANCE


def test_matrices_that_read_one_input_share_one_product(zoo):
    mixture = MixtureModel.load(zoo("full", "llama").bundle, dtype=torch.float32)
    together = sorted(
        sorted(name.split(".")[-2] for name, (_, (b, _)) in mixture._places.items() if b is bank)
        for bank in mixture.banks
    )
    assert together == sorted(
        2 * [["k_proj", "q_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
        + [["lm_head"]]
    )


def test_the_base_is_untouched_when_nothing_is_mixed(zoo):
    z = zoo("adapter", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    ids = tiny.prompt(1, 9)
    assert torch.equal(last_logits(mixture.model, ids), last_logits(z.base, ids))


def test_the_context_ends_with_its_block_even_after_an_error(zoo):
    z = zoo("adapter", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    ids = tiny.prompt(1, 9)
    g = torch.ones(1, 3)
    kernels = [Stacked(slice(None), g)]
    with pytest.raises(RuntimeError), mixture.factored(g, kernels, g, kernels):
        raise RuntimeError("in the middle of a step")
    assert torch.equal(last_logits(mixture.model, ids), last_logits(z.base, ids))


def test_a_pass_keeps_none_of_its_activations(zoo):
    packed = Packed(zoo("full", "llama"), "stacked")
    packed.run([packed.work(0, 0, tiny.prompt(1, 9), {"t1": 1.0})])
    assert all(group._input is None and not group._hidden for group in packed.mixture.groups)


def test_sliding_windows_are_exact_beyond_the_window(tmp_path):
    z = full_zoo(tmp_path, "mistral", changes={"sliding_window": 10})
    packed = Packed(z)
    ids = tiny.prompt(3, 40)
    packed.run([packed.work(2, 0, ids[:15], {"t1": 1.0})])
    packed.run([packed.work(2, 15, ids[15:39], {"t1": 1.0})])
    (found,) = packed.run([packed.work(2, 39, ids[39:], {"t1": 1.0})])
    assert distance(found, last_logits(z.reference({"t1": 1.0}), ids)) < TOLERANCE
    whole = full_zoo(tmp_path / "whole", "mistral", changes={"sliding_window": None})
    seen = last_logits(whole.reference({"t1": 1.0}), ids)
    assert distance(found, seen) > 100 * TOLERANCE, "the window must matter here"


def test_soft_caps_and_alternating_windows_are_exact(tmp_path):
    z = full_zoo(tmp_path, "gemma2", changes={"sliding_window": 10})
    packed = Packed(z)
    ids = tiny.prompt(3, 40)
    packed.run([packed.work(2, 0, ids[:39], {"t1": 1.0})])
    (found,) = packed.run([packed.work(2, 39, ids[39:], {"t1": 1.0})])
    assert distance(found, last_logits(z.reference({"t1": 1.0}), ids)) < TOLERANCE


def test_tokens_that_stand_in_their_places_need_no_gathering():
    torch.manual_seed(0)
    parts = [[(torch.randn(3, 5), torch.randn(3, 4)) for _ in range(4)] for _ in range(2)]
    bank = Bank.of(parts)
    rows = [tuple(float(k == i // 2 + 1) for k in range(4)) for i in range(6)]
    kernel = Grouped.of(slice(1, 7), rows, torch.ones(1))
    assert kernel.places is None and (kernel.low, kernel.high, kernel.most) == (1, 4, 2)
    x, y = torch.randn(8, 5), torch.zeros(8, 4)
    kernel.expand(bank, 1, kernel.shrink(bank, x), y)
    for i in range(6):
        a, b = parts[1][i // 2 + 1]
        torch.testing.assert_close(y[1 + i], x[1 + i] @ a.T @ b)
    assert not y[0].any() and not y[7].any()


@st.composite
def banks(draw):
    """A bank of random ranks and sizes, rows of random mixtures, and the dense deltas."""
    seed = draw(st.integers(0, 10**6))
    chooser = random.Random(seed)
    torch.manual_seed(seed)
    experts, members = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    uniform = draw(st.booleans())
    d_in, rank = chooser.randint(1, 9), chooser.randint(1, 4)
    parts = []
    for _ in range(members):
        d_out = chooser.randint(1, 9)
        ranks = [rank if uniform else chooser.randint(0, 4) for _ in range(experts)]
        ranks[0] = max(1, ranks[0])
        parts.append([(torch.randn(r, d_in), torch.randn(r, d_out)) if r else None for r in ranks])
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        used = chooser.sample(range(experts), chooser.randint(1, experts))
        row = [0.0] * experts
        for k in used:
            row[k] = chooser.choice([1.0, 0.5, -0.25])
        rows.append(tuple(row))
    return parts, rows


@settings(deadline=None, max_examples=150)
@given(banks(), st.integers(0, 3))
def test_kernels_add_what_dense_deltas_would(made, before):
    parts, rows = made
    rows.sort(key=lambda row: sum(w != 0 for w in row))
    bank = Bank.of(parts)
    x = torch.randn(before + len(rows) + 1, bank.A.shape[1])
    span = slice(before, before + len(rows))
    g = torch.tensor(rows)
    ways = {
        "sliced": [
            Sliced(slice(before + i, before + i + 1), tuple((k, w) for k, w in enumerate(row) if w))
            for i, row in enumerate(rows)
        ],
        "stacked": [Stacked(span, g)],
    }
    if bank.rank is not None:
        ways["grouped"] = [Grouped.of(span, rows, g)]
    for m, member in enumerate(parts):
        expected = torch.zeros(len(x), bank.B[m].shape[1], dtype=torch.float64)
        for i, row in enumerate(rows):
            for k, part in enumerate(member):
                if part is not None:
                    expected[before + i] += (
                        row[k] * (x[before + i].double() @ part[0].T.double()) @ part[1].double()
                    )
        for name, kernels in ways.items():
            y = torch.zeros(len(x), bank.B[m].shape[1])
            for kernel in kernels:
                kernel.expand(bank, m, kernel.shrink(bank, x), y)
            torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4, msg=name)
