"""Bundles that gain and lose experts, and the same mixtures composed independently."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compress.bundle import Bundle, edit, read_manifest, seal
from compress.compose import factor_weights, load_composed
from compress.grow import add_expert, remerged, remove_expert
from tests import tiny
from tests.bundles import build_bundle, silent, write_recipe


@dataclass
class Ground:
    """A base and fine-tunes, ``tuned``: task -> plain model; "f…" are full ones, "a…" adapters."""

    folder: Path
    base: Any
    tuned: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, family: str, count: int = 3) -> Ground:
        ground = cls(folder, tiny.save_base(folder / "base", family))
        for i in range(count):
            ground.tuned[f"f{i}"] = tiny.save_finetune(folder / f"f{i}", ground.base, 10 + i)
            adapted = tiny.save_adapter(
                folder / f"a{i}", ground.base, 20 + i, r=2 + i, target_modules="all-linear"
            )
            ground.tuned[f"a{i}"] = adapted.merge_and_unload()
        return ground

    def build(
        self,
        name: str,
        tasks: Iterable[str],
        reference: str = "pretrained",
        scaling: Any = 0.3,
        dtype: str = "float32",
    ) -> Bundle:
        """A bundle without truncation."""
        recipe = write_recipe(
            self.folder / f"{name}.yaml",
            base=str(self.folder / "base"),
            experts=[{"task": task, "checkpoint": str(self.folder / task)} for task in tasks],
            shared={"scaling": scaling},
            exclusive={"rank": 999, "reference": reference, "dtype": "float32"},
            output={"dtype": dtype},
        )
        return build_bundle(recipe, self.folder / name)

    def expected(self, scalings: Mapping[str, float], mixture: Mapping[str, float]) -> dict[str, Any]:
        """``W_s + sum w_t (W_t - W_s)`` with ``W_s = W_0 + sum lambda_t (W_t - W_0)``, in float64."""
        tuned = {task: dict(copy.deepcopy(m).double().named_parameters()) for task, m in self.tuned.items()}
        found = {}
        with torch.no_grad():
            for name, weight in copy.deepcopy(self.base).double().named_parameters():
                shared = weight + sum(s * (tuned[task][name] - weight) for task, s in scalings.items())
                found[name] = shared + sum(w * (tuned[task][name] - shared) for task, w in mixture.items())
        return found


def weights(bundle: Bundle, mixture: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """Dense weights of one mixture."""
    g = factor_weights(mixture, bundle.carried, bundle.scalings)
    return {name: tensor.detach() for name, tensor in load_composed(bundle, g).named_parameters()}


def equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def distance(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any weight, relative to the spread of its parameter."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[n].double() - theirs[n]).abs().max() / theirs[n].std()) for n in ours)


def add(path: Path, task: str, checkpoint: object, *, remerge: bool = False) -> Bundle:
    """The bundle at ``path`` with one expert more."""
    with edit(path) as folder:
        manifest, _ = add_expert(folder, read_manifest(folder), task, str(checkpoint), silent)
        seal(folder, remerged(folder, manifest) if remerge else manifest)
    return Bundle.open(path)


def remove(path: Path, *tasks: str) -> Bundle:
    """The bundle at ``path`` without these experts."""
    for task in tasks:
        with edit(path) as folder:
            seal(folder, remove_expert(folder, read_manifest(folder), task))
    return Bundle.open(path)


def hashes(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, by the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def mixtures(tasks: Sequence[str]) -> list[dict[str, float]]:
    """The shared base, each expert alone, and blends that sum to less, to just, and to more than one."""
    first, second = tasks[:2]
    blends = [{first: 0.5}, {first: 0.25, second: 0.75}, {first: 1.0, second: 0.5}]
    return [{}, *({task: 1.0} for task in tasks), *blends]
