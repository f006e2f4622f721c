"""Layers that add weighted experts to what an unmodified decoder computes.

The decoder keeps its modules; only the ``forward`` of those that some expert changes is extended.
Activations are packed, ``[1, tokens, width]``, each token with the mixture of its request; a batch of
one mixture may have any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from serve.kernels import Bank, Hidden, Kernel


@dataclass
class Pass:
    """What the current forward pass adds.

    g [tokens, experts] (or one row for all tokens), None for the plain weights; kernels compute it
    for matrices.
    """

    g: Tensor | None = None
    kernels: Sequence[Kernel] = ()

    def set(self, g: Tensor | None, kernels: Sequence[Kernel] = ()) -> None:
        self.g, self.kernels = g, kernels


@dataclass
class Group:
    """Matrices that read the same input: the first of them computes ``A x`` for all."""

    current: Pass
    bank: Bank
    _input: Tensor | None = None
    _hidden: list[Hidden] = field(default_factory=list)

    def add(self, m: int, x: Tensor, y: Tensor) -> None:
        """Add member m's deltas for inputs x [..., d_in] to y [..., d_out], in place."""
        if x is not self._input:
            flat = x.reshape(-1, x.shape[-1])
            self._hidden = [kernel.shrink(self.bank, flat) for kernel in self.current.kernels]
            self._input = x
        out = y.view(-1, y.shape[-1])
        for kernel, hidden in zip(self.current.kernels, self._hidden, strict=True):
            kernel.expand(self.bank, m, hidden, out)

    def forget(self) -> None:
        """The pass is over: its input must neither be kept nor be mistaken for the next one's."""
        self._input, self._hidden = None, []


@dataclass
class MixedLinear:
    """A linear layer, Conv1D or output head with experts: low-rank weights and ``bias`` [K, d_out]."""

    current: Pass
    plain: Callable[[Tensor], Tensor]
    group: Group | None = None
    member: int = 0
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        y = self.plain(x)
        g = self.current.g
        if g is None:
            return y
        if self.group is not None:
            self.group.add(self.member, x, y)
        if self.bias is not None:
            y += g @ self.bias
        return y


@dataclass
class MixedEmbedding:
    """An embedding with experts: its input is one-hot, so ``A x`` is a look-up of A's columns."""

    current: Pass
    plain: Callable[[Tensor], Tensor]
    bank: Bank
    scale: float | Tensor = 1.0
    columns: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.columns = self.bank.A.T.contiguous()

    def __call__(self, ids: Tensor) -> Tensor:
        y = self.plain(ids)
        g = self.current.g
        if g is None:
            return y
        hidden = self.columns[ids] * g[:, self.bank.owner]
        return y + (hidden @ self.bank.B[0]) * self.scale


@dataclass
class MixedNorm:
    """A norm with experts: its one-dimensional parameters [width] become rows, one a token.

    axis: which dimension of its input counts tokens; a norm over heads may see them elsewhere.
    """

    current: Pass
    module: nn.Module
    plain: Callable[[Tensor], Tensor]
    deltas: dict[str, Tensor]  # leaf name -> [K, width]
    axis: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        g = self.current.g
        if g is None:
            return self.plain(x)
        own: dict[str, Any] = self.module._parameters
        kept = {leaf: own[leaf] for leaf in self.deltas}
        mixed = {leaf: self._rows(kept[leaf] + g @ delta, x) for leaf, delta in self.deltas.items()}
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

    def _rows(self, parameter: Tensor, x: Tensor) -> Tensor:
        """``parameter`` [tokens or 1, width] so that it broadcasts over x."""
        if len(parameter) == 1:
            return parameter[0]
        shape = [1] * x.dim()
        shape[self.axis], shape[-1] = parameter.shape
        return parameter.view(shape)
