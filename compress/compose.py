"""What a mixture means: weights of the experts' factors, or dense weights.

With experts as deltas of the shared base, ``W(w) = W_s + sum_t w_t D_t``. With experts as deltas of
the pretrained base and a linear merge ``W_s = W_0 + sum_t lambda_t D_t``, the same model is
``W(w) = W_0 + sum_t g_t D_t`` with ``g_t = w_t + lambda_t (1 - sum_s w_s)``: exact for every
mixture, without truncating anything. There the pretrained base can be mixed in too, as the part called
``base``: with weight b it takes what the shared base would have, and
``g_t = w_t + lambda_t (1 - b - sum_s w_s)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compress.bundle import Bundle
from compress.errors import InputError
from compress.loading import load_model
from compress.lowrank import LowRank
from compress.parameters import Parameter

Mixture = Mapping[str, float]
"""Task -> weight. The empty mixture is the null slot: the shared base."""
# The pretrained base as a part of a mixture; no task has that name.
BASE = "base"


# Far beyond any use, and far below where sums of weighted deltas overflow.
LARGEST_WEIGHT = 100.0


def check_mixture(mixture: Mixture, tasks: Sequence[str], pretrained: bool) -> None:
    """Raises InputError for unknown tasks and for weights that are no numbers or absurdly large.

    pretrained: whether the pretrained base is there to be mixed in.
    """
    for task, weight in mixture.items():
        if task == BASE and not pretrained:
            raise InputError(
                "mixture: this bundle's base is the merge of its fine-tunes, and the pretrained one is not "
                "in it; build with exclusive.reference: pretrained to have it"
            )
        if task not in tasks and task != BASE:
            raise InputError(f"mixture: unknown task {task!r}; known: {', '.join(tasks)}")
        if isinstance(weight, bool) or not math.isfinite(weight) or abs(weight) > LARGEST_WEIGHT:
            raise InputError(
                f"mixture: weight of {task!r} must be a number between -{LARGEST_WEIGHT:g} and "
                f"{LARGEST_WEIGHT:g}, not {weight!r}"
            )


def factor_weights(
    mixture: Mixture, tasks: Sequence[str], scalings: Mapping[str, float] | None
) -> list[float]:
    """g_t for every task, in the order of ``tasks``.

    ``scalings`` are lambda_t where experts are deltas of the pretrained base, None where they are
    deltas of the shared base. Raises InputError for a mixture that cannot be used.
    """
    check_mixture(mixture, tasks, scalings is not None)
    weights = [float(mixture.get(task, 0.0)) for task in tasks]
    if scalings is None:
        return weights
    rest = 1.0 - math.fsum([*weights, float(mixture.get(BASE, 0.0))])
    return [w + scalings[task] * rest for w, task in zip(weights, tasks, strict=True)]


def compose_weight(
    weight: Tensor, parameter: Parameter, deltas: Iterable[tuple[float, LowRank | Tensor | None]]
) -> Tensor:
    """``weight + sum g D`` as a new tensor in ``weight``'s dtype; sums in float32 or wider.

    A delta is factors (for matrices), a tensor shaped like the weight, or None.
    """
    precision = torch.promote_types(weight.dtype, torch.float32)
    total = weight.to(precision, copy=True)
    for g, delta in deltas:
        if g == 0.0 or delta is None:
            continue
        if isinstance(delta, LowRank):
            a, b = delta.A.to(total), delta.B.to(total)
            parameter.to_map(total).addmm_(b, a, alpha=g * delta.scale)
        else:
            total.add_(delta.to(total), alpha=g)
    return total.to(weight.dtype)


@torch.no_grad()
def load_composed(
    bundle: Bundle,
    weights: Sequence[float],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A plain model with dense weights ``W_base + sum_t g_t D_t``; ``weights`` from factor_weights."""
    model = load_model(bundle.base, dtype)
    table = bundle.table()
    experts = [
        (g, bundle.expert(task, table)) for g, task in zip(weights, bundle.carried, strict=True) if g != 0.0
    ]
    for name, tensor in model.named_parameters():
        parameter = table[name]
        deltas = (
            (g, expert.low_rank(name) if parameter.is_matrix else expert.vector(name))
            for g, expert in experts
        )
        tensor.copy_(compose_weight(tensor, parameter, deltas))
    made: PreTrainedModel = model.to(device)
    return made
