"""The described symmetries: nothing is left out, the model computes the same, and a copy is found again."""

from __future__ import annotations

import pytest
import torch

from compress.alignment.architectures import ARCHITECTURES, PARTS, architecture, sizes
from compress.alignment.matching import match
from compress.alignment.pair import Pair
from compress.alignment.permutations import apply, inverse
from compress.errors import InputError
from tests.permuted import CASES, batches, config, empty, model, sequences, symmetry_of, weights


def test_every_architecture_has_a_case():
    assert {family for family, _ in CASES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_is_covered_axis_by_axis(case):
    with torch.device("meta"):
        made = empty(config(case))
    family, spaces = architecture(made.config), sizes(made.config).spaces()
    touched = set()
    for name, tensor in made.state_dict().items():
        axes = family.axes(name)
        assert len(axes) == tensor.dim(), name
        for space, size in zip(axes, tensor.shape, strict=True):
            assert space is None or spaces[space] == size, (name, space)
        touched |= {*axes} - {None}
    assert touched == set(spaces)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("bert.pooler.dense.weight", (None, "residual")),
        ("bert.encoder.layer.11.output.LayerNorm.gamma", ("residual",)),
        ("cls.seq_relationship.weight", (None, None)),
    ],
)
def test_parameters_of_older_bert_checkpoints_are_covered(name, axes):
    assert ARCHITECTURES["bert"].axes(name) == axes


def test_an_unknown_parameter_is_refused_by_name():
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.router\.weight"):
        ARCHITECTURES["llama"].axes("model.layers.0.mlp.router.weight")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_reordered_model_computes_the_same(case, seed):
    # Norms and rotations of some families round to float32 even here; a wrong axis would move logits by 0.1.
    made = model(case).double()
    family = architecture(made.config)
    permuted = apply(symmetry_of(made, seed), weights(made), family)
    assert not torch.equal(next(iter(permuted.values())), next(made.parameters()))
    for batch in batches(family.masked, sequences(4, 80)):
        given = {"input_ids": batch.ids[:, :60], "attention_mask": batch.real[:, :60].long()}
        expected = made(**given).logits
        logits = torch.func.functional_call(made, permuted, (), given).logits
        assert expected.std() > 0.1
        assert (logits - expected).abs().max() < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_reordered_copy_is_found_again_exactly(case):
    reference, copy = model(case), model(case)
    family, units = architecture(reference.config), sizes(reference.config)
    hidden = symmetry_of(reference, 5)
    copy.load_state_dict(apply(hidden, copy.state_dict(), family))
    pair = Pair(family, units, reference, copy)
    found = match(pair, batches(family.masked), PARTS, lambda *_: None)
    assert found.keys() == hidden.keys()
    for space, order in inverse(hidden).items():
        assert torch.equal(found[space], order), space
    back = apply(found, weights(copy), family)
    for name, tensor in weights(reference).items():
        assert (back[name] - tensor).abs().max() == 0.0, name


def test_only_the_parts_asked_for_are_matched():
    made = model("llama")
    pair = Pair(architecture(made.config), sizes(made.config), made, model("llama", 1))
    found = match(pair, batches(False), ("ffn",), lambda *_: None)
    assert sorted(found) == ["layers.0.ffn", "layers.1.ffn"]


def test_statistics_in_several_runs_are_those_of_one(monkeypatch):
    made = model("bert")
    pair = Pair(architecture(made.config), sizes(made.config), made, model("bert", 1))
    steps = []
    once = match(pair, batches(True), PARTS, lambda *step: steps.append(step))
    monkeypatch.setattr("compress.alignment.matching.STATISTICS_BYTES", 1)
    many = match(pair, batches(True), PARTS, lambda *step: steps.append(step))
    assert len(steps) == 6 * len(batches(True))
    assert all(torch.equal(once[space], many[space]) for space in once)
