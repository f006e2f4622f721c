"""Mixtures of a bundle as LoRA adapters beside its base/, for PEFT or for vLLM."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from compress.bundle import Bundle, expert_folder
from compress.checkpoints import Checkpoint
from compress.compose import Mixture, check_mixture, factor_weights
from compress.errors import InputError
from compress.experts import write_expert
from compress.export.cards import adapter_card, folder_card, mixture_name
from compress.export.factors import Held, hold, padded
from compress.export.vllm import largest_rank, servable
from compress.parameters import Parameter
from compress.progress import Progress
from compress.staging import publish

Form = Literal["peft", "vllm"]
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
# Of the smallest rank that PEFT knows, for a mixture that is base/ itself.
SMALLEST = 1


@dataclass(frozen=True)
class Exported:
    """One adapter. ``left_out``: parameters it lacks; ``share``: their share of the energy of the change."""

    name: str
    mixture: Mixture
    rank: int
    left_out: tuple[str, ...] = ()
    share: float = 0.0


def export_adapters(
    bundle: Bundle,
    mixtures: Sequence[Mixture],
    folder: Path,
    form: Form,
    *,
    lossy: bool = False,
    dtype: torch.dtype | None = None,
    progress: Progress,
) -> list[Exported]:
    """Write ``base/`` and ``adapters/<name>`` for every mixture into the empty ``folder``, with cards.

    ``base/`` plus an adapter is the composed mixture, where nothing is left out. ``peft``: ranks and scales
    as they are, an unchanged adapter byte for byte. ``vllm``: one rank for all modules, scale 1, linear
    layers alone. dtype: of the factors; None: as they are stored.

    Raises InputError for a mixture that cannot be used or is there twice, and, unless ``lossy``, for one
    whose adapter would leave something out.
    """
    names = [mixture_name(mixture) for mixture in mixtures]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: this mixture is asked for twice")
    for mixture in mixtures:
        check_mixture(mixture, bundle.tasks, bundle.scalings is not None)
    base = Checkpoint.open(bundle.base)
    able = servable(bundle) if form == "vllm" else _adaptable(base.table)
    made: list[Exported] = []
    for done, (name, mixture) in enumerate(zip(names, mixtures, strict=True), start=1):
        place = folder / "adapters" / name
        weights = factor_weights(mixture, bundle.carried, bundle.scalings)
        source = _carried(bundle, weights) if form == "peft" and dtype is None else None
        if source is not None:
            one = _copy(bundle, source, name, mixture, place)
        else:
            one = _write(bundle, base.table, able, weights, name, mixture, place, form, lossy, dtype)
        (place / "README.md").write_text(adapter_card(bundle, one, base.sha256()))
        made.append(one)
        progress("adapters", done, len(mixtures))
    shutil.copytree(bundle.base, folder / "base")
    (folder / "README.md").write_text(folder_card(bundle, made, form))
    return made


def _adaptable(table: dict[str, Parameter]) -> set[str]:
    # PEFT would apply the factors of a tied embedding to the look-up and not to the head.
    return {name for name, parameter in table.items() if parameter.is_matrix and not parameter.tied_head}


def _carried(bundle: Bundle, weights: list[float]) -> str | None:
    """The one expert that a mixture is, whole, where its adapter is the whole expert."""
    used = [task for task, g in zip(bundle.carried, weights, strict=True) if g != 0.0]
    if len(used) != 1 or 1.0 not in weights:
        return None
    present = {path.name for path in (bundle.path / expert_folder(used[0])).iterdir()}
    return used[0] if present <= {WEIGHTS, SETTINGS, "README.md"} else None


def _copy(bundle: Bundle, source: str, name: str, mixture: Mixture, place: Path) -> Exported:
    place.mkdir(parents=True)
    for file in (WEIGHTS, SETTINGS):
        shutil.copyfile(bundle.path / expert_folder(source) / file, place / file)
    return Exported(name, mixture, max(bundle.manifest.experts[source].max_rank, SMALLEST))


def _write(
    bundle: Bundle,
    table: dict[str, Parameter],
    able: set[str],
    weights: list[float],
    name: str,
    mixture: Mixture,
    place: Path,
    form: Form,
    lossy: bool,
    dtype: torch.dtype | None,
) -> Exported:
    experts = [
        (g, bundle.expert(task, table)) for g, task in zip(weights, bundle.carried, strict=True) if g != 0.0
    ]
    held = hold(experts, table, able, dtype=dtype, unit_scale=form == "vllm")
    if held.left_out and not lossy:
        raise InputError(_refusal(name, held, form))
    factors = padded(held.factors) if form == "vllm" else held.factors
    rank = max((f.rank for f in factors.values()), default=SMALLEST)
    if form == "vllm":
        largest_rank(name, rank)
    write_expert(place, table, factors, {}, {"task": name})
    publish(place / WEIGHTS)
    return Exported(name, mixture, rank, tuple(held.left_out), held.share)


def _refusal(name: str, held: Held, form: Form) -> str:
    count = len(held.left_out)
    what = "an adapter that vLLM takes" if form == "vllm" else "a LoRA adapter"
    beyond = "output head, embeddings" if form == "vllm" else "tied embeddings"
    return (
        f"{name}: {count} of {count + len(held.factors)} changed parameters (such as {held.left_out[0]}) "
        f"with {100 * held.share:.3g} % of the energy of the change do not fit into {what}, which holds no "
        f"norms, biases, {beyond} or dense deltas; --lossy leaves them out, --as merged keeps everything"
    )
