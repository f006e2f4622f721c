"""Three ways to add ``B (g * (A x))`` to a batch whose rows have different mixtures.

All are exact and differ in cost only. *Sliced*: one thin product an expert, over a run of tokens of
one mixture. *Stacked*: one product over all experts' ranks, unused ones weighted zero. *Grouped*: one
batched product in which every expert sees only its own tokens, padded to the most of any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Weights = tuple[float, ...]
"""g of compress.compose, one number an expert."""


@dataclass
class Bank:
    """All experts' factors of the matrices that read one input: q, k and v, or gate and up.

    A [R, d_in] holds every rank, by expert, then by member (matrix); B of each member [R_m, d_out],
    by expert, transposed and with the scale folded in. ``spans``: each expert's rows of A.
    ``members[m][k]``: expert k's rows of member m's B. ``local[m][k]``: the same ranks inside expert
    k's span of A. ``rank``: where all experts have one rank in all members, it, else None.
    """

    A: Tensor
    B: list[Tensor]
    spans: list[slice]
    members: list[list[slice]]
    local: list[list[slice]]
    columns: list[Tensor]
    owner: Tensor
    rank: int | None

    @classmethod
    def of(cls, parts: Sequence[Sequence[tuple[Tensor, Tensor] | None]]) -> Bank:
        """From ``parts[m][k]``: expert k's (A [r, d_in], B [r, d_out]) in member m, or None."""
        experts = range(len(parts[0]))
        ranks = [[0 if part is None else part[0].shape[0] for part in member] for member in parts]
        spans, local, columns = [], [[] for _ in parts], [[] for _ in parts]  # type: ignore[var-annotated]
        start = 0
        for k in experts:
            inside = 0
            for m, member in enumerate(ranks):
                local[m].append(slice(inside, inside + member[k]))
                columns[m] += range(start + inside, start + inside + member[k])
                inside += member[k]
            spans.append(slice(start, start + inside))
            start += inside
        a = torch.cat([part[0] for k in experts for member in parts if (part := member[k]) is not None])
        b = [torch.cat([part[1] for part in member if part is not None]) for member in parts]
        members = []
        for row in ranks:
            ends = [sum(row[: k + 1]) for k in experts]
            members.append([slice(end - rank, end) for end, rank in zip(ends, row, strict=True)])
        owner = torch.tensor([k for k in experts for _ in range(spans[k].stop - spans[k].start)])
        every = {rank for row in ranks for rank in row}
        return cls(
            a,
            b,
            spans,
            members,
            local,
            [torch.tensor(c, device=a.device) for c in columns],
            owner.to(a.device),
            every.pop() if len(every) == 1 else None,
        )

    def factors(self, m: int, k: int) -> tuple[Tensor, Tensor] | None:
        """Expert k's (A [r, d_in], B [r, d_out]) in member m as views; None without ranks."""
        inner, span = self.local[m][k], self.spans[k]
        if inner.stop == inner.start:
            return None
        return self.A[span.start + inner.start : span.start + inner.stop], self.B[m][self.members[m][k]]


class Kernel(Protocol):
    """Adds the deltas of some tokens of a batch; a bank's members share what ``shrink`` gives."""

    def shrink(self, bank: Bank, x: Tensor) -> list[Tensor]:
        """``A x`` of x [tokens, d_in], in the form that ``expand`` wants."""
        ...

    def expand(self, bank: Bank, m: int, hidden: list[Tensor], y: Tensor) -> None:
        """Add member m's deltas to y [tokens, d_out], in place."""
        ...


@dataclass(frozen=True)
class Sliced:
    """Tokens ``span`` of one mixture, whose few experts have a weight that is not zero."""

    span: slice
    experts: tuple[tuple[int, float], ...]

    def shrink(self, bank: Bank, x: Tensor) -> list[Tensor]:
        own = x[self.span]
        return [own @ bank.A[bank.spans[k]].T for k, _ in self.experts]

    def expand(self, bank: Bank, m: int, hidden: list[Tensor], y: Tensor) -> None:
        own = y[self.span]
        for (k, weight), h in zip(self.experts, hidden, strict=True):
            ranks = bank.members[m][k]
            if ranks.stop > ranks.start:
                own.addmm_(h[:, bank.local[m][k]], bank.B[m][ranks], alpha=weight)


@dataclass(frozen=True)
class Stacked:
    """Tokens ``span`` of any mixtures g [tokens or 1, experts]."""

    span: slice
    g: Tensor

    def shrink(self, bank: Bank, x: Tensor) -> list[Tensor]:
        hidden = x[self.span] @ bank.A.T
        if bank.rank is not None:
            hidden.view(len(hidden), self.g.shape[1], -1).mul_(self.g[:, :, None])
        else:
            hidden.mul_(self.g[:, bank.owner])
        return [hidden]

    def expand(self, bank: Bank, m: int, hidden: list[Tensor], y: Tensor) -> None:
        (h,) = hidden
        if len(bank.B) > 1:
            if bank.rank is not None:
                h = h.view(len(h), -1, len(bank.B), bank.rank)[:, :, m].reshape(len(h), -1)
            else:
                h = h[:, bank.columns[m]]
        y[self.span].addmm_(h, bank.B[m])


@dataclass(frozen=True)
class Grouped:
    """Tokens ``span``, each of which uses a few of the experts ``low`` to ``high``.

    places [experts * most]: which token stands there (any, where none does); weight [experts, most, 1],
    None where all are 1. For use j, tokens from ``start`` of ``returns[j]`` on find their product in
    its places. Only for banks of one rank.
    """

    span: slice
    low: int
    high: int
    places: Tensor
    weight: Tensor | None
    returns: tuple[tuple[int, Tensor], ...]

    @classmethod
    def of(cls, span: slice, rows: Sequence[Weights], like: Tensor) -> Grouped:
        """For tokens that use more experts the later they stand; ``like`` gives device and dtype."""
        used = [[k for k, w in enumerate(row) if w] for row in rows]
        if sorted(map(len, used)) != list(map(len, used)):
            raise ValueError("tokens that use fewer experts come first")
        present = sorted({k for row in used for k in row})
        low, high = present[0], present[-1] + 1
        tokens: list[list[tuple[int, float]]] = [[] for _ in range(high - low)]
        slots: list[list[tuple[int, int]]] = [[] for _ in rows]
        for token, row in enumerate(used):
            for k in row:
                slots[token].append((k - low, len(tokens[k - low])))
                tokens[k - low].append((token, rows[token][k]))
        most = max(map(len, tokens))
        weight = None
        if any(w != 1.0 for own in tokens for _, w in own):
            weights = [[w for _, w in own] + [0.0] * (most - len(own)) for own in tokens]
            weight = torch.tensor(weights, device=like.device, dtype=like.dtype)[..., None]
        places = [token for own in tokens for token in [t for t, _ in own] + [0] * (most - len(own))]
        returns = []
        for j in range(len(used[-1])):
            start = next(token for token, row in enumerate(used) if len(row) > j)
            at = [slots[token][j][0] * most + slots[token][j][1] for token in range(start, len(rows))]
            returns.append((start, torch.tensor(at, device=like.device)))
        return cls(
            span,
            low,
            high,
            torch.tensor(places, device=like.device),
            weight,
            tuple(returns),
        )

    def shrink(self, bank: Bank, x: Tensor) -> list[Tensor]:
        experts = self.high - self.low
        own = x[self.span].index_select(0, self.places).view(experts, -1, x.shape[1])
        a = bank.A.view(len(bank.spans), -1, bank.A.shape[1])[self.low : self.high]
        hidden = torch.bmm(own, a.transpose(1, 2))
        return [hidden if self.weight is None else hidden.mul_(self.weight)]

    def expand(self, bank: Bank, m: int, hidden: list[Tensor], y: Tensor) -> None:
        assert bank.rank is not None
        b = bank.B[m].view(len(bank.spans), bank.rank, -1)[self.low : self.high]
        inner = hidden[0][:, :, m * bank.rank : (m + 1) * bank.rank]
        found = torch.bmm(inner, b).flatten(0, 1)
        own = y[self.span]
        for start, places in self.returns:
            own[start:].add_(found.index_select(0, places))
