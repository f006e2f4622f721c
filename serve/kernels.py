"""Three ways to add ``B (g * (A x))`` to a batch whose rows have different mixtures.

All are exact and differ in cost only. *Sliced*: one thin product an expert, over a run of tokens of
one mixture. *Stacked*: one product over all experts' ranks, unused ones weighted zero. *Grouped*: one
batched product in which every expert sees only its own tokens, padded to the most of any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = tuple[float, ...]
"""g of compress.compose, one number an expert."""
Hidden = Sequence[Sequence[Tensor]]
"""What members share: for each product of a kernel, each member's columns of it."""


@dataclass
class Bank:
    """All experts' factors of the matrices that read one input: q, k and v, or gate and up.

    A [R, d_in] holds every rank, by expert, then by member (matrix); B of each member [R_m, d_out],
    by expert, transposed and with the scale folded in. ``spans``: each expert's rows of A.
    ``ranks[m][k]``: expert k's rows of member m's B. ``local[m][k]``: the same ranks inside expert
    k's span of A. ``rank``: where all experts have one rank in all members, it, else None.
    """

    A: Tensor
    B: list[Tensor]
    spans: list[slice]
    ranks: list[list[slice]]
    local: list[list[slice]]
    columns: list[Tensor]
    owner: Tensor
    rank: int | None

    # Views that every pass would otherwise make anew: on small matrices that costs as much as the sums.

    @cached_property
    def down(self) -> list[Tensor]:
        """Each expert's A transposed, [d_in, ranks in all members]."""
        return [self.A[span].T for span in self.spans]

    @cached_property
    def up(self) -> list[list[Tensor]]:
        """``up[m][k]``: expert k's B [ranks, d_out] in member m."""
        return [[b[rows] for rows in own] for b, own in zip(self.B, self.ranks, strict=True)]

    @cached_property
    def sizes(self) -> list[list[int]]:
        """``sizes[k][m]``: how many ranks expert k has in member m."""
        return [[rows[k].stop - rows[k].start for rows in self.local] for k in range(len(self.spans))]

    def between(self, low: int, high: int) -> tuple[Tensor, list[Tensor]]:
        """A transposed [experts, d_in, members * rank] and each member's B [experts, rank, d_out] of
        experts ``low`` to ``high``, in a bank of one rank."""
        found = self._between.get((low, high))
        if found is None:
            experts = len(self.spans)
            a = self.A.view(experts, -1, self.A.shape[1])[low:high].transpose(1, 2)
            b = [one.view(experts, self.rank or 0, -1)[low:high] for one in self.B]
            found = self._between[low, high] = a, b
        return found

    @cached_property
    def _between(self) -> dict[tuple[int, int], tuple[Tensor, list[Tensor]]]:
        return {}

    @classmethod
    def of(cls, parts: Sequence[Sequence[tuple[Tensor, Tensor] | None]]) -> Bank:
        """From ``parts[m][k]``: expert k's (A [r, d_in], B [r, d_out]) in member m, or None."""
        experts = range(len(parts[0]))
        sizes = [[0 if part is None else part[0].shape[0] for part in member] for member in parts]
        spans, local, columns = [], [[] for _ in parts], [[] for _ in parts]  # type: ignore[var-annotated]
        start = 0
        for k in experts:
            inside = 0
            for m, member in enumerate(sizes):
                local[m].append(slice(inside, inside + member[k]))
                columns[m] += range(start + inside, start + inside + member[k])
                inside += member[k]
            spans.append(slice(start, start + inside))
            start += inside
        a = torch.cat([part[0] for k in experts for member in parts if (part := member[k]) is not None])
        b = [torch.cat([part[1] for part in member if part is not None]) for member in parts]
        ranks = []
        for row in sizes:
            ends = [sum(row[: k + 1]) for k in experts]
            ranks.append([slice(end - size, end) for end, size in zip(ends, row, strict=True)])
        owner = torch.tensor([k for k in experts for _ in range(spans[k].stop - spans[k].start)])
        every = {size for row in sizes for size in row}
        return cls(
            a,
            b,
            spans,
            ranks,
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
        return self.A[span.start + inner.start : span.start + inner.stop], self.up[m][k]


class Kernel(Protocol):
    """Adds the deltas of some tokens of a batch; a bank's members share what ``shrink`` gives."""

    def shrink(self, bank: Bank, x: Tensor) -> Hidden:
        """``A x`` of x [tokens, d_in], in the form that ``expand`` wants."""
        ...

    def expand(self, bank: Bank, m: int, hidden: Hidden, y: Tensor) -> None:
        """Add member m's deltas to y [tokens, d_out], in place."""
        ...


@dataclass(frozen=True)
class Sliced:
    """Tokens ``span`` of one mixture, whose few experts have a weight that is not zero."""

    span: slice
    experts: tuple[tuple[int, float], ...]

    def shrink(self, bank: Bank, x: Tensor) -> Hidden:
        own = _rows(x, self.span)
        if len(bank.B) == 1:
            return [(own @ bank.down[k],) for k, _ in self.experts]
        return [(own @ bank.down[k]).split(bank.sizes[k], 1) for k, _ in self.experts]

    def expand(self, bank: Bank, m: int, hidden: Hidden, y: Tensor) -> None:
        own = _rows(y, self.span)
        for (k, weight), members in zip(self.experts, hidden, strict=True):
            if bank.sizes[k][m]:
                own.addmm_(members[m], bank.up[m][k], alpha=weight)


@dataclass(frozen=True)
class Stacked:
    """Tokens ``span`` of any mixtures g [tokens or 1, experts]."""

    span: slice
    g: Tensor

    def shrink(self, bank: Bank, x: Tensor) -> Hidden:
        hidden = F.linear(_rows(x, self.span), bank.A)
        if bank.rank is None:
            hidden.mul_(self.g[:, bank.owner])
            return [tuple(hidden[:, columns] for columns in bank.columns) if len(bank.B) > 1 else (hidden,)]
        experts = hidden.view(len(hidden), self.g.shape[1], -1).mul_(self.g[:, :, None])
        if len(bank.B) == 1:
            return [(hidden,)]
        return [tuple(part.reshape(len(hidden), -1) for part in experts.split(bank.rank, 2))]

    def expand(self, bank: Bank, m: int, hidden: Hidden, y: Tensor) -> None:
        _rows(y, self.span).addmm_(hidden[0][m], bank.B[m])


@dataclass(frozen=True)
class Grouped:
    """Tokens ``span``, each of which uses a few of the experts ``low`` to ``high``.

    places [experts * most]: which token stands there (any, where none does), None where tokens stand
    in their places already, each expert having as many. weight [experts, most, 1], None where all are
    1. For use j, tokens from ``start`` of ``returns[j]`` on find their product in its places. Only for
    banks of one rank.
    """

    span: slice
    low: int
    high: int
    most: int
    places: Tensor | None
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
            most,
            None if places == list(range(len(rows))) else torch.tensor(places, device=like.device),
            weight,
            tuple(returns),
        )

    def shrink(self, bank: Bank, x: Tensor) -> Hidden:
        own = _rows(x, self.span)
        if self.places is not None:
            own = own.index_select(0, self.places)
        own = own.view(self.high - self.low, -1, x.shape[1])
        hidden = torch.bmm(own, bank.between(self.low, self.high)[0])
        if self.weight is not None:
            hidden.mul_(self.weight)
        return [hidden.split(bank.rank or 0, 2) if len(bank.B) > 1 else (hidden,)]

    def expand(self, bank: Bank, m: int, hidden: Hidden, y: Tensor) -> None:
        own, b = _rows(y, self.span), bank.between(self.low, self.high)[1][m]
        if self.places is None:
            own.view(len(b), -1, b.shape[2]).baddbmm_(hidden[0][m], b)
            return
        found = torch.bmm(hidden[0][m], b).flatten(0, 1)
        for start, places in self.returns:
            (own[start:] if start else own).add_(found.index_select(0, places))


def _rows(packed: Tensor, span: slice) -> Tensor:
    """``packed[span]``; the whole itself where the span is all of it."""
    return packed if span.start in (0, None) and span.stop in (None, len(packed)) else packed[span]
