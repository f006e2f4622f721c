"""Fisher-weighted averaging against derivatives computed independently."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import open_finetune
from compress.fishers import Fisher
from compress.gatherfisher import gather_fisher
from compress.merging.fisher import FisherParameters, fisher
from compress.merging.method import Group
from tests import tiny
from tests.bundles import silent
from tests.compress.test_merge_methods import parameter

PROMPTS = [tiny.prompt(seed, 9) for seed in range(3)]


def test_it_is_the_mean_square_of_each_prompts_derivative(tmp_path):
    base = tiny.save_base(tmp_path / "base", "qwen2")
    tuned = tiny.save_finetune(tmp_path / "t", base, 1)
    opened = Checkpoint.open(tmp_path / "base")
    gather_fisher(
        open_finetune(tmp_path / "t", opened), opened, PROMPTS, tmp_path / "f", stage="", progress=silent
    )
    found = Fisher(tmp_path / "f", Checkpoint.open(tmp_path / "t", opened).sha256())
    # The labels are drawn with the generator that the docstring promises; the derivative is taken in float64.
    generator = torch.Generator().manual_seed(0)
    model = copy.deepcopy(tuned).double()
    want = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for prompt in PROMPTS:
        with torch.no_grad():
            drawn = torch.multinomial(
                tuned(input_ids=torch.tensor([prompt])).logits[0].softmax(-1), 1, generator=generator
            )[:, 0]
        chosen = model(input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1)
        grads = torch.autograd.grad(chosen[range(len(prompt)), drawn].sum(), list(model.parameters()))
        for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
            want[name] += grad**2 / len(PROMPTS)
    for name, square in want.items():
        torch.testing.assert_close(
            found.read(name).double(), square, rtol=1e-3, atol=1e-4 * float(square.max())
        )


class Known:
    def __init__(self, weights):
        self.weights = weights

    def read(self, name):
        return self.weights.clone()


def group(seed=0, tasks=3):
    generator = torch.Generator().manual_seed(seed)
    vectors = {f"t{i}": torch.randn(5, 4, generator=generator) for i in range(tasks)}
    return Group(parameter("x.weight", (5, 4)), torch.randn(5, 4, generator=generator), vectors)


def test_the_formula():
    given = group()
    weights = [torch.rand(5, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    merged = fisher(given, FisherParameters(prompts="x"), {f"t{i}": Known(w) for i, w in enumerate(weights)})
    tuned = [(given.base + v).double().numpy() for v in given.vectors.values()]
    f = [w.double().numpy() for w in weights]
    expected = sum(a * b for a, b in zip(f, tuned, strict=True)) / sum(f)
    np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_what_no_prompt_moves_is_averaged():
    given = group()
    mean = given.base + torch.stack(list(given.vectors.values())).mean(0)
    nothing = {task: Known(torch.zeros(5, 4)) for task in given.vectors}
    torch.testing.assert_close(fisher(given, FisherParameters(prompts="x"), nothing), mean)
    some = torch.zeros(5, 4)
    some[0, 0] = 1.0
    merged = fisher(given, FisherParameters(prompts="x"), nothing | {"t1": Known(some)})
    torch.testing.assert_close(merged[1:], mean[1:])
    torch.testing.assert_close(merged[0, 0], (given.base + given.vectors["t1"])[0, 0], rtol=1e-4, atol=1e-4)


def test_fisher_of_another_model(tmp_path):
    base = tiny.save_base(tmp_path / "base")
    tiny.save_finetune(tmp_path / "t", base, 1)
    opened = Checkpoint.open(tmp_path / "base")
    tuned = open_finetune(tmp_path / "t", opened)
    gather_fisher(tuned, opened, PROMPTS, tmp_path / "f", stage="", progress=silent)
    with pytest.raises(InputError, match="of another model"):
        Fisher(tmp_path / "f", opened.sha256())
    with pytest.raises(InputError, match="no Fisher information"):
        Fisher(tmp_path / "base", opened.sha256())
    with pytest.raises(InputError, match="no prompts"):
        gather_fisher(tuned, opened, [], tmp_path / "g", stage="", progress=silent)
