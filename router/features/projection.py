"""Prompts to one number an expert, from the experts' own factors: no labelled prompt is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from compress.experts import Expert
from compress.lowrank import LowRank
from compress.parameters import Kind
from router.features import Progress
from router.features.prefix import decoder_layers, depth_of, masked_mean, run_layers
from router.query import Turn

# Leading directions of an expert in a matrix. One alone (Arrow) tells less, all of them dilute it:
# docs/routing.md measures it.
DIRECTIONS = 4
# Prompts of random tokens, and their length, that say how much of any text an expert's directions catch.
SAMPLES, LENGTH = 32, 48
TINY = 1e-12


@dataclass(frozen=True)
class ProjectionFeatures:
    """How much more of a prompt an expert's leading right singular vectors catch than of random tokens.

    An expert's delta ``B A`` reads an input along its right singular vectors, and training has turned
    those of the largest singular values towards what its task's inputs are like (Ostapenko et al. 2024,
    Arrow; Tang et al. 2024, SMILE; Crisostomi et al. 2025, MASS). For matrix m and expert k the share of a
    token's energy is ``sum_j (v_j x)^2 / |x|^2``; its logarithm, averaged over tokens before and centred
    and scaled over random prompts afterwards, is comparable among experts, whatever their norms. A
    feature is the mean over all matrices of the first ``layer`` layers that the expert changes.

    directions: module -> [K * DIRECTIONS, d_in] float32 (to half precision), by expert, zeros where it
    has fewer. centre, spread: [modules, K], in the order of ``directions``, by name; spread is infinite
    where an expert leaves a module alone.
    """

    layer: int
    directions: Mapping[str, np.ndarray]
    centre: np.ndarray
    spread: np.ndarray
    needs_model: ClassVar[bool] = True

    @classmethod
    def fit(cls, model: Any, experts: Sequence[Expert], layer: int | None, seed: int) -> ProjectionFeatures:
        """For the experts of ``model``'s bundle. Raises InputError for a layer that does not exist."""
        depth = depth_of(model, layer)
        directions = {}
        table = experts[0].table
        inside = set(_linear_modules(model, depth))
        for name, parameter in sorted(table.items()):
            if parameter.module in inside and parameter.kind in (Kind.LINEAR, Kind.CONV1D):
                if not parameter.is_matrix:
                    continue
                found = [_leading(expert.low_rank(name)) for expert in experts]
                if width := max((len(rows[0]) for rows in found if len(rows)), default=0):
                    padded = [
                        np.concatenate([rows.reshape(-1, width), np.zeros((DIRECTIONS - len(rows), width))])
                        for rows in found
                    ]
                    directions[parameter.module] = (
                        np.concatenate(padded).astype(np.float16).astype(np.float32)
                    )
        shape = (len(directions), len(experts))
        features = cls(depth, directions, np.zeros(shape), np.ones(shape))
        if not directions:
            return features
        generator = np.random.default_rng(seed)
        vocabulary = model.get_input_embeddings().num_embeddings
        random = generator.integers(0, vocabulary, (SAMPLES, LENGTH)).tolist()
        energies = features._energies(model, [Turn("", tuple(ids)) for ids in random])
        changed = np.stack(
            [rows.reshape(len(experts), DIRECTIONS, -1).any((1, 2)) for rows in directions.values()]
        )
        spread = np.where(changed, np.maximum(energies.std(0), 1e-6), np.inf)
        return cls(depth, directions, energies.mean(0).astype(np.float32), spread.astype(np.float32))

    def extract(self, model: Any, turns: Sequence[Turn], progress: Progress | None = None) -> np.ndarray:
        """Float32 ``[len(turns), experts]``, 0 = as much as of random tokens, in their deviations."""
        scores = (self._energies(model, turns, progress) - self.centre) / self.spread
        counted = np.maximum(np.isfinite(self.spread).sum(0), 1)
        return (scores.sum(1) / counted).astype(np.float32)

    def _energies(self, model: Any, turns: Sequence[Turn], progress: Progress | None = None) -> np.ndarray:
        """Logarithm of the mean share [turns, modules, K]."""
        device = next(model.parameters()).device
        tables = {name: torch.from_numpy(rows).to(device) for name, rows in self.directions.items()}
        experts = self.centre.shape[1]
        with _watched(model, list(tables)) as seen:

            def read(states: Tensor, mask: Tensor) -> Tensor:
                shares = []
                for name, rows in tables.items():
                    x = seen[name].float()
                    caught = (x @ rows.T).square().unflatten(2, (experts, DIRECTIONS)).sum(3)
                    shares.append(masked_mean(caught / x.square().sum(2, keepdim=True).clamp_min(TINY), mask))
                return torch.stack(shares, 1).clamp_min(TINY).log()

            rows = run_layers(model, self.layer, turns, read, progress)
        return np.stack(rows) if rows else np.zeros((0, *self.centre.shape))


def _leading(factors: LowRank | None) -> np.ndarray:
    """The leading right singular vectors [up to DIRECTIONS, d_in] of ``B A``, without forming it."""
    if factors is None:
        return np.zeros((0, 0))
    a, b = factors.A.float(), factors.B.float()
    _, values, rows = torch.linalg.svd(torch.linalg.qr(b)[1] @ a, full_matrices=False)
    kept = int((values[:DIRECTIONS] > 1e-6 * values[0].clamp_min(TINY)).sum())
    return rows[:kept].numpy()


def _linear_modules(model: nn.Module, depth: int) -> Iterator[str]:
    layers = {id(layer) for layer in decoder_layers(model)[:depth]}
    for name, module in model.named_modules():
        if id(module) in layers:
            yield from (f"{name}.{inner}" for inner, _ in module.named_modules() if inner)


@contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The inputs of these modules in the forward that ran last."""
    seen: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = inputs[0]

    handles = [model.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
