"""Fine-tunes of one base, whatever their form: opened, and seen as task vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from compress.adapters import Adapter, is_adapter, recorded_base_hash
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.lowrank import LowRank
from compress.parameters import Kind
from compress.peftmerge import merged_by_peft, needs_peft

Finetune: TypeAlias = Checkpoint | Adapter


def open_finetune(folder: Path, base: Checkpoint, sha256: str | None = None) -> Finetune:
    """The fine-tune in ``folder``: a PEFT adapter, an expert of a bundle, or a full checkpoint. Adapters that
    are no sum of two factors are merged by PEFT and are full checkpoints from there on.

    sha256: hash of the base that fine-tunes started from, where ``base`` is that one rounded; None: its
    own. Raises InputError when the fine-tune is broken, does not fit ``base``, or says in its model card
    that it belongs to other weights.
    """
    if not is_adapter(folder):
        return Checkpoint.open(folder, base)
    recorded = recorded_base_hash(folder)
    expected = sha256 or base.sha256()
    if recorded is not None and recorded != expected:
        raise InputError(
            f"{folder}: its model card says it was trained on base weights {recorded[:16]}…, but "
            f"{base.folder} has {expected[:16]}…; use the base that the adapter was trained on"
        )
    if needs_peft(folder):
        return Checkpoint.open(merged_by_peft(folder, base), base)
    return Adapter(folder, base.table)


def task_vector(finetune: Finetune, name: str, base: Checkpoint, rows: slice | None = None) -> Tensor | None:
    """``W_t - W_0`` of one parameter, or of some of its rows, dense, float32, in its own layout; None where
    it is zero."""
    dense = finetune.dense(name, base, rows)
    factors = finetune.low_rank(name)
    if factors is None:
        return dense
    parameter = base.table[name]
    if rows is not None:
        # A row of the parameter is an output of the map, or an input where the layout is transposed.
        linear = parameter.kind is Kind.LINEAR
        a, b = (factors.A, factors.B[rows]) if linear else (factors.A[:, rows], factors.B)
        factors = LowRank(a, b, factors.scale)
    low_rank = parameter.to_map(factors.dense())
    return low_rank if dense is None else dense + low_rank


def finetuned_weight(finetune: Finetune, name: str, base: Checkpoint) -> Tensor:
    """``W_t`` of one parameter, float32, in its own layout."""
    if isinstance(finetune, Checkpoint):
        return finetune.weight(name)
    vector = task_vector(finetune, name, base)
    weight = base.weight(name)
    return weight if vector is None else weight + vector


def apply(finetune: Finetune, model: Any, base: Checkpoint) -> Any:
    """``model``, which has the weights of ``base``, moved by the fine-tune's task vectors, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            delta = task_vector(finetune, name, base)
            if delta is not None:
                # Summed before rounding to the model's dtype, as a composed mixture is.
                parameter.copy_(parameter.float() + delta.to(parameter.device))
    return model
