"""Exports of tiny bundles, and what transformers, PEFT and vLLM's rules make of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.export import Exported, export_adapters
from tests import tiny
from tests.bundles import build_bundle, silent, write_recipe

MIXTURES: list[dict[str, float]] = [{}, {"t1": 1.0}, {"t0": 0.5, "t2": 0.25}]
# Parameters that are no matrices, by what their names have in common.
VECTORS = ("norm", "ln_", "bias")


def composed(bundle: Bundle, mixture: Mapping[str, float], dtype: torch.dtype = torch.float32) -> Any:
    """The mixture as the product composes it for serving."""
    return load_composed(bundle, factor_weights(mixture, bundle.carried, bundle.scalings), dtype=dtype)


def logits(model: Any) -> torch.Tensor:
    """Of one prompt."""
    with torch.no_grad():
        return model(torch.tensor([tiny.prompt(1, 20)])).logits


def assert_alike(model: Any, expected: Any, tolerance: float) -> None:
    """Logits agree, to ``tolerance`` of the largest."""
    ours, theirs = logits(model), logits(expected)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, float(theirs.abs().max())))


def export(
    bundle: Bundle, mixtures: Sequence[Mapping[str, float]], folder: Path, form: Any = "peft", **options: Any
) -> list[Exported]:
    """Adapters in a new folder."""
    folder.mkdir()
    return export_adapters(bundle, mixtures, folder, form, progress=silent, **options)


def adapted(folder: Path, name: str) -> Any:
    """An exported base with an adapter, as PEFT loads it."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    return PeftModel.from_pretrained(model, folder / "adapters" / name).eval()


def settings_of(folder: Path, name: str) -> dict[str, Any]:
    """adapter_config.json of an exported adapter."""
    return json.loads((folder / "adapters" / name / "adapter_config.json").read_text())


def as_vllm_reads(folder: Path, name: str) -> Any:
    """An exported base with an adapter by vLLM's rules: ``r`` and ``lora_alpha`` for every module, tensors
    of linear layers other than the output head."""
    settings = settings_of(folder, name)
    tensors = load_file(folder / "adapters" / name / "adapter_model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    scale = settings["lora_alpha"] / settings["r"]
    for key in tensors:
        module, leaf = key.removeprefix("base_model.model.").rsplit(".lora_", 1)
        assert leaf in ("A.weight", "B.weight")
        linear = model.get_submodule(module)
        assert isinstance(linear, torch.nn.Linear) and linear is not model.get_output_embeddings()
        if leaf == "A.weight":
            assert len(tensors[key]) == settings["r"]
            linear.weight.data += scale * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
    return model.eval()


def bundle_of(folder: Path, name: str = "bundle", **settings: Any) -> Bundle:
    """A bundle of ``base``, ``t0``, ``t1`` and ``t2`` in ``folder``; ``settings``: of its recipe."""
    recipe = write_recipe(
        folder / f"{name}.yaml",
        base=str(folder / "base"),
        experts=[{"task": f"t{i}", "checkpoint": str(folder / f"t{i}")} for i in range(3)],
        **settings,
    )
    return build_bundle(recipe, folder / name)


def full_bundle(folder: Path, family: str, skip: Iterable[str], **exclusive: Any) -> Bundle:
    """Full fine-tunes that leave the parameters named in ``skip`` as they are."""
    base = tiny.save_base(folder / "base", family)
    for i in range(3):
        tiny.save_finetune(folder / f"t{i}", base, 10 + i, skip=skip)
    return bundle_of(folder, exclusive={"rank": 99, **exclusive})
