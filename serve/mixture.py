"""Layers that add weighted experts: exact, with another mixture in every row of a batch.

The decoder stays the unmodified Hugging Face model; only the ``forward`` of modules that some
expert changes is extended. ``y = W x + B (g * (A x))`` stacks all experts' factors, and ``g`` [rows,
experts] repeats each expert's weight over its ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from compress.bundle import Bundle
from compress.compose import compose_weight
from compress.loading import load_model
from compress.lowrank import LowRank
from compress.parameters import Kind, Parameter

# Up to this many experts in a batch, their own thin products cost less than one over all ranks.
FEW_EXPERTS = 3


@dataclass
class Rows:
    """What the current forward pass adds: ``g`` [rows, experts], or None for the base's weights."""

    g: Tensor | None = None
    active: tuple[int, ...] = ()

    def set(self, g: Tensor | None) -> None:
        self.active = () if g is None else tuple(torch.nonzero(g.any(0)).flatten().tolist())
        self.g = g if self.active else None


@dataclass
class Stack:
    """All experts' factors of one matrix: A [R, d_in], B [R, d_out] (transposed, scale folded in).

    Expert k owns rows ``spans[k]``; ``owner`` [R] names the expert of every row.
    """

    A: Tensor
    B: Tensor
    spans: list[slice]
    owner: Tensor

    @classmethod
    def of(cls, parts: Sequence[LowRank | None], device: Any, dtype: torch.dtype) -> Stack | None:
        present = [part for part in parts if part is not None]
        if not present:
            return None
        spans, owners, start = [], [], 0
        for k, part in enumerate(parts):
            rank = part.rank if part is not None else 0
            spans.append(slice(start, start + rank))
            owners += [k] * rank
            start += rank
        a = torch.cat([part.A.to(torch.float32) for part in present])
        b = torch.cat([(part.B.to(torch.float32) * part.scale).T for part in present])
        owner = torch.tensor(owners, device=device)
        return cls(a.to(device, dtype), b.contiguous().to(device, dtype), spans, owner)

    def part(self, k: int) -> LowRank | None:
        """Expert k's factors as views."""
        span = self.spans[k]
        return LowRank(self.A[span], self.B[span].T) if span.stop > span.start else None

    def pieces(self, rows: Rows) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(A, B, g [rows, ranks]) products that together give this batch's deltas."""
        assert rows.g is not None
        if len(rows.active) > FEW_EXPERTS:
            yield self.A, self.B, rows.g.index_select(1, self.owner)
            return
        for k in rows.active:
            span = self.spans[k]
            if span.stop > span.start:
                yield self.A[span], self.B[span], rows.g[:, k : k + 1]


def _per_row(g: Tensor, like: Tensor) -> Tensor:
    """``g`` [rows, n] broadcast over the inner dimensions of ``like`` [rows, ..., width]; also for
    inputs that were flattened to [rows * tokens, width]."""
    if like.dim() == 2:
        return g.repeat_interleave(like.shape[0] // g.shape[0], 0)
    return g.view(g.shape[0], *[1] * (like.dim() - 2), g.shape[1])


@dataclass
class MixedLinear:
    """A linear layer, Conv1D or output head with experts: ``weight`` factors and ``bias`` [K, d_out]."""

    rows: Rows
    plain: Callable[[Tensor], Tensor]
    weight: Stack | None = None
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        y = self.plain(x)
        g = self.rows.g
        if g is None:
            return y
        if self.weight is not None:
            flat = y.view(-1, y.shape[-1])
            for a, b, scale in self.weight.pieces(self.rows):
                hidden = F.linear(x, a) * _per_row(scale, x)
                flat.addmm_(hidden.view(-1, hidden.shape[-1]), b)
        if self.bias is not None:
            y += _per_row(g @ self.bias, y)
        return y


@dataclass
class MixedEmbedding:
    """An embedding with experts: its input is one-hot, so ``A x`` is a look-up of A's columns."""

    rows: Rows
    plain: Callable[[Tensor], Tensor]
    weight: Stack
    columns: Tensor = field(init=False)
    scale: float | Tensor = 1.0

    def __post_init__(self) -> None:
        self.columns = self.weight.A.T.contiguous()

    def __call__(self, ids: Tensor) -> Tensor:
        y = self.plain(ids)
        g = self.rows.g
        if g is None:
            return y
        hidden = self.columns[ids] * g.index_select(1, self.weight.owner)[:, None]
        return y + (hidden @ self.weight.B) * self.scale


@dataclass
class MixedNorm:
    """A norm with experts: its one-dimensional parameters [width] become rows [rows, 1.., width]."""

    rows: Rows
    module: nn.Module
    plain: Callable[[Tensor], Tensor]
    deltas: dict[str, Tensor]  # leaf name -> [K, width]

    def __call__(self, x: Tensor) -> Tensor:
        g = self.rows.g
        if g is None:
            return self.plain(x)
        own: dict[str, Any] = self.module._parameters
        kept = {leaf: own[leaf] for leaf in self.deltas}
        mixed = {leaf: _per_row(kept[leaf] + g @ delta, x) for leaf, delta in self.deltas.items()}
        if type(self.module) is nn.LayerNorm:
            # Its kernel takes parameters of one shape only.
            weight, bias = mixed.get("weight", own["weight"]), mixed.get("bias", own["bias"])
            y = F.layer_norm(x, self.module.normalized_shape, None, None, self.module.eps)
            return y * weight if bias is None else y * weight + bias
        try:
            own.update(mixed)
            return self.plain(x)
        finally:
            own.update(kept)


class MixtureModel:
    """A decoder with the experts of a bundle attached. Not thread-safe: one forward at a time."""

    def __init__(self, model: PreTrainedModel, tasks: Sequence[str] = ()) -> None:
        self.model: Any = model.eval()
        self.tasks = list(tasks)
        self.rows = Rows()
        self._parts: dict[str, tuple[Parameter, Stack | Tensor]] = {}

    @classmethod
    def load(cls, bundle: Bundle, *, device: str = "cpu", dtype: torch.dtype) -> MixtureModel:
        """Load base/ and attach every expert, in ``dtype`` on ``device``."""
        model = load_model(bundle.base, dtype)
        mixture = cls(model.to(device), bundle.tasks)
        table = bundle.table()
        experts = [bundle.expert(task, table) for task in bundle.tasks]
        vectors: dict[str, dict[str, Tensor]] = {}
        for parameter in table.values():
            if parameter.is_matrix:
                parts = [expert.low_rank(parameter.name) for expert in experts]
                if stack := Stack.of(parts, device, dtype):
                    mixture._parts[parameter.name] = (parameter, stack)
                    mixture._attach_matrix(parameter, stack)
                continue
            deltas = [expert.vector(parameter.name) for expert in experts]
            if any(delta is not None for delta in deltas):
                zero = torch.zeros(parameter.shape)
                rows = torch.stack([zero if delta is None else delta for delta in deltas])
                rows = rows.to(device, dtype)
                mixture._parts[parameter.name] = (parameter, rows)
                vectors.setdefault(parameter.module, {})[parameter.name.rpartition(".")[2]] = rows
        for module, deltas_by_leaf in vectors.items():
            mixture._attach_vectors(module, deltas_by_leaf)
        return mixture

    @property
    def parameter_bytes(self) -> int:
        """Bytes of a full set of the weights that experts change: the price of one composed copy."""
        return sum(self.model.get_parameter(name).nbytes for name in self._parts)

    def tokens_to_repay(self) -> float:
        """After how many tokens a composed copy has repaid its making: building costs
        ``R d_in d_out`` products a matrix, each token then saves ``R (d_in + d_out)``."""
        build = saved = 1.0
        for _, part in self._parts.values():
            if isinstance(part, Stack):
                rank, d_in, d_out = part.A.shape[0], part.A.shape[1], part.B.shape[1]
                build += rank * d_in * d_out
                saved += rank * (d_in + d_out)
        return build / saved

    @contextmanager
    def factored(self, g: Tensor) -> Iterator[None]:
        """Forward passes inside use mixture ``g`` [rows, experts] (from compose.factor_weights)."""
        self.rows.set(g)
        try:
            yield
        finally:
            self.rows.set(None)

    def compose(self, g: Sequence[float]) -> dict[str, Tensor]:
        """Dense weights of one mixture for every parameter that experts change."""
        composed: dict[str, Tensor] = {}
        for name, (parameter, part) in self._parts.items():
            deltas = [
                (weight, part.part(k) if isinstance(part, Stack) else part[k]) for k, weight in enumerate(g)
            ]
            composed[name] = compose_weight(self.model.get_parameter(name).data, parameter, deltas)
        return composed

    @contextmanager
    def composed(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Forward passes inside use these weights (from ``compose``) in every row."""
        places = [place for name in weights for place in self._places(name)]
        kept = [module._parameters[leaf] for _, module, leaf in places]
        try:
            for name, module, leaf in places:
                module._parameters[leaf] = weights[name]  # type: ignore[assignment]
            yield
        finally:
            for (_, module, leaf), parameter in zip(places, kept, strict=True):
                module._parameters[leaf] = parameter

    def _places(self, name: str) -> list[tuple[str, nn.Module, str]]:
        parameter, _ = self._parts[name]
        leaf = name.rpartition(".")[2]
        places = [(name, self.model.get_submodule(parameter.module), leaf)]
        if parameter.tied_head:
            places.append((name, self.model.get_submodule(parameter.tied_head), "weight"))
        return places

    def _attach_matrix(self, parameter: Parameter, stack: Stack) -> None:
        module = self.model.get_submodule(parameter.module)
        if parameter.kind is Kind.EMBEDDING:
            scale = getattr(module, "embed_scale", 1.0)
            module.forward = MixedEmbedding(self.rows, module.forward, stack, scale=scale)
            if parameter.tied_head:
                # The head's map is the embedding's transposed: [width -> vocabulary].
                head = self.model.get_submodule(parameter.tied_head)
                turned = Stack(stack.B, stack.A, stack.spans, stack.owner)
                head.forward = MixedLinear(self.rows, head.forward, turned)
        else:
            module.forward = MixedLinear(self.rows, module.forward, stack)

    def _attach_vectors(self, name: str, deltas: dict[str, Tensor]) -> None:
        module = self.model.get_submodule(name)
        if isinstance(module.forward, MixedLinear):
            module.forward.bias = deltas["bias"]
        elif set(deltas) == {"bias"} and self._is_linear(name):
            module.forward = MixedLinear(self.rows, module.forward, bias=deltas["bias"])
        else:
            module.forward = MixedNorm(self.rows, module, module.forward, deltas)

    def _is_linear(self, name: str) -> bool:
        weight = self.model.get_submodule(name)._parameters.get("weight")
        return weight is not None and weight.dim() == 2
