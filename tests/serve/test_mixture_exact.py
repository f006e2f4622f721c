"""Composition against dense weights composed in float64 from the checkpoints themselves."""

from __future__ import annotations

import pytest
import torch

from compress.compose import factor_weights, load_composed
from serve.mixture import MixtureModel
from tests import tiny

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
# float32 rounding of weights, sums and two layers, relative to the spread of the logits.
TOLERANCE = 1e-4


def logits(model: object, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double()  # type: ignore[operator]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.std())


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_row_of_a_mixed_batch_equals_its_own_dense_model(zoo, kind, family):
    z = zoo(kind, family)
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    prompts = [tiny.prompt(i, 12) for i in range(len(MIXTURES))]
    g = torch.tensor([factor_weights(m, z.bundle.tasks, z.bundle.scalings) for m in MIXTURES])
    with mixture.factored(g), torch.no_grad():
        mixed = mixture.model(input_ids=torch.tensor(prompts)).logits.double()
    references = [logits(z.reference(m), p) for m, p in zip(MIXTURES, prompts, strict=True)]
    for row, reference in zip(mixed, references, strict=True):
        assert distance(row, reference) < TOLERANCE
    # The test can fail: another mixture moves the logits by far more than the tolerance.
    wrong = logits(z.reference(MIXTURES[2]), prompts[1])
    assert distance(wrong, references[1]) > 100 * TOLERANCE


@pytest.mark.parametrize(("kind", "family"), CASES)
@pytest.mark.parametrize("mixture", MIXTURES, ids=str)
def test_composed_weights_equal_the_dense_model(zoo, kind, family, mixture):
    z = zoo(kind, family)
    served = MixtureModel.load(z.bundle, dtype=torch.float32)
    ids = tiny.prompt(5, 12)
    g = factor_weights(mixture, z.bundle.tasks, z.bundle.scalings)
    reference = logits(z.reference(mixture), ids)
    before = logits(served.model, ids)
    with served.composed(served.compose(g)):
        assert distance(logits(served.model, ids), reference) < TOLERANCE
    assert torch.equal(logits(served.model, ids), before), "the base's weights must come back"
    plain = load_composed(z.bundle, g)
    assert distance(logits(plain, ids), reference) < TOLERANCE


def test_the_base_is_untouched_when_nothing_is_mixed(zoo):
    z = zoo("adapter", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    ids = tiny.prompt(1, 9)
    assert torch.equal(logits(mixture.model, ids), logits(z.base, ids))


def test_the_context_ends_with_its_block_even_after_an_error(zoo):
    z = zoo("adapter", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    ids = tiny.prompt(1, 9)
    with pytest.raises(RuntimeError), mixture.factored(torch.ones(1, 3)):
        raise RuntimeError("in the middle of a step")
    assert torch.equal(logits(mixture.model, ids), logits(z.base, ids))


@pytest.mark.parametrize("count", [1, 5])
def test_few_and_many_active_experts_agree(zoo, count):
    """One product per expert for a few, one stacked product for many: the same numbers."""
    import serve.mixture

    z = zoo("full", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    g = torch.rand(4, 3, generator=torch.Generator().manual_seed(count))
    ids = torch.tensor([tiny.prompt(i, 7) for i in range(4)])
    outputs = []
    for limit in (0, 9):
        serve.mixture.FEW_EXPERTS, kept = limit, serve.mixture.FEW_EXPERTS
        try:
            with mixture.factored(g), torch.no_grad():
                outputs.append(mixture.model(input_ids=ids).logits)
        finally:
            serve.mixture.FEW_EXPERTS = kept
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
