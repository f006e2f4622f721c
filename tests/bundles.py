"""Bundles of tiny models, and the same mixtures composed independently in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from compress.build import build
from compress.bundle import Bundle, create
from compress.recipe import read_recipe
from compress.workspace import workspace
from tests import tiny


def silent(*_: Any) -> None:
    """A progress callback for tests."""


def write_recipe(path: Path, **content: Any) -> Path:
    """A YAML recipe file."""
    path.write_text(yaml.safe_dump(content))
    return path


def build_bundle(recipe: Path, out: Path) -> Bundle:
    """Build without a router."""
    with workspace(out, "") as work, create(out) as folder:
        build(read_recipe(recipe), folder, work, relative_to=recipe.parent, progress=silent)
    return Bundle.open(out)


@dataclass
class Zoo:
    """A base, its fine-tunes and their bundle. ``tuned``: task -> plain model with merged weights."""

    bundle: Bundle
    base: Any
    tuned: dict[str, Any]
    scaling: float

    def reference(self, mixture: Mapping[str, float]) -> Any:
        """``W_s + sum w_t (W_t - W_s)`` with ``W_s = W_0 + lambda sum (W_t - W_0)``, float64, from the
        checkpoints themselves: nothing of the product is used. The part called base is ``W_0``."""
        model = copy.deepcopy(self.base).double()
        tuned = {task: dict(m.double().named_parameters()) for task, m in copy.deepcopy(self.tuned).items()}
        with torch.no_grad():
            for name, weight in model.named_parameters():
                shared = weight + self.scaling * sum(p[name] - weight for p in tuned.values())
                parts = {"base": weight} | {task: own[name] for task, own in tuned.items()}
                mixed = shared + sum(w * (parts[task] - shared) for task, w in mixture.items())
                weight.copy_(mixed)
        return model.eval()


def full_zoo(
    folder: Path,
    family: str,
    tasks: int = 3,
    scaling: float = 0.3,
    changes: Mapping[str, Any] | None = None,
    **exclusive: Any,
) -> Zoo:
    """Full fine-tunes, by default compressed without truncation; ``changes`` to the configuration."""
    base = tiny.save_base(folder / "base", family, **(changes or {}))
    tuned = {f"t{i}": tiny.save_finetune(folder / f"t{i}", base, seed=10 + i) for i in range(tasks)}
    return _zoo(folder, base, tuned, scaling, exclusive or {"rank": 999})


def adapter_zoo(folder: Path, family: str, scaling: float = 0.3, seed: int = 20) -> Zoo:
    """LoRA adapters of different ranks on every linear layer."""
    base = tiny.save_base(folder / "base", family)
    tuned = {}
    for i in range(3):
        adapted = tiny.save_adapter(
            folder / f"t{i}", base, seed + i, r=2 + 2 * i, lora_alpha=4, target_modules="all-linear"
        )
        tuned[f"t{i}"] = adapted.merge_and_unload()
    return _zoo(folder, base, tuned, scaling, {"rank": 1})


def _zoo(folder: Path, base: Any, tuned: dict[str, Any], scaling: float, exclusive: dict[str, Any]) -> Zoo:
    recipe = write_recipe(
        folder / "recipe.yaml",
        base=str(folder / "base"),
        experts=[{"task": task, "checkpoint": str(folder / task)} for task in tuned],
        shared={"method": "task_arithmetic", "scaling": scaling},
        exclusive=exclusive,
    )
    return Zoo(build_bundle(recipe, folder / "bundle"), base, tuned, scaling)
