"""Factored or composed: how the mixtures of one step are computed. Never changes an answer beyond
rounding."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from serve.costs import Costs, Shape
from serve.kernels import Grouped, Kernel, Sliced, Stacked, Weights
from serve.mixture import MixtureModel
from serve.scheduler import round_rows

log = logging.getLogger(__name__)

Mode = Literal["auto", "factored", "composed", "sliced", "stacked", "grouped"]
Copy = dict[str, Tensor]
# Soft mixtures are many; counting them must not grow without end.
MOST_COUNTED = 4096
# Plans that are remembered.
MOST_KNOWN = 64
# A token with more experts than this is no candidate for products of one expert each.
FEW_EXPERTS = 4


@dataclass(frozen=True)
class Item:
    """One segment of a step: its mixture and its number of tokens."""

    weights: Weights
    tokens: int


@dataclass(frozen=True)
class Part:
    """Segments that one forward pass computes, in this order (``members`` index the step's items;
    one that is there twice is computed twice).

    copy: dense weights of the one mixture they share; else kernels add the experts, which costs
    ``seconds`` beyond the plain pass.
    """

    members: tuple[int, ...]
    kind: Literal["plain", "composed", "factored"]
    copy: Copy | None = None
    kernels: tuple[Kernel, ...] = ()
    seconds: float = 0.0


@dataclass
class Planner:
    """Chooses what is cheapest by ``costs``, and keeps composed weights.

    A batch of one mixture uses its composed copy if there is one, and gets one once using factors
    has cost as much more than the copy would have as making it costs: then, whatever comes, no more
    than twice the best possible was spent (the rent-or-buy argument). In a mixed batch, rows that
    have a copy may run in a pass of their own. Copies stay under ``budget`` bytes, the least recently
    used one goes first; a pinned one stays.

    static: steps that only decode run the same operations on the same shapes whatever their mixtures,
    and whatever their number up to ``round_rows`` of it, as capturing them in a graph demands: their
    last row is repeated, and experts are added in one stacked product.
    """

    mixture: MixtureModel
    costs: Costs
    budget: int
    mode: Mode = "auto"
    static: bool = False
    passes: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    lookups: Counter[str] = field(default_factory=Counter)
    _kept: OrderedDict[Weights, Copy] = field(default_factory=OrderedDict)
    _pinned: dict[Weights, Copy] = field(default_factory=dict)
    _regret: dict[Weights, float] = field(default_factory=dict)
    _known: OrderedDict[tuple[Item, ...], Part] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.shape = Shape(self.mixture)
        # Counted now: other threads ask, and a composed pass has copies in the parameters' place.
        self._price = self.mixture.parameter_bytes

    def pin(self, weights: Weights) -> None:
        """Keep a composed copy of this mixture for good, where the budget has room for one."""
        if self.mode in ("auto", "composed") and any(weights) and self._room() >= self._price:
            self._pinned[weights] = self.mixture.compose(weights)

    @property
    def composed_bytes(self) -> int:
        """Bytes of all composed copies."""
        return (len(self._kept) + len(self._pinned)) * self._price

    def plan(self, items: Sequence[Item], lasting: bool = True) -> list[Part]:
        """Forward passes that together compute ``items``. lasting: whether a copy may be made for them, and
        others go for it; copies that there are serve in any case."""
        whole = self._factored(items)
        if self.mode not in ("auto", "composed"):
            return [whole]
        groups: dict[Weights, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(item.weights, []).append(index)
        if len(groups) > 1:
            return self._split(items, groups, whole) or [whole]
        (weights,) = groups
        if lasting:
            copy = self._copy(weights, whole.seconds) if any(weights) else None
        else:
            copy = self._pinned.get(weights) or self._kept.get(weights)
        return [whole if copy is None else Part(whole.members, "composed", copy)]

    def alone(self, item: Item) -> Part:
        """One pass for one item that needs no further memory: for what failed in company."""
        return self._factored([item])

    @contextmanager
    def apply(self, part: Part, items: Sequence[Item], heads: Sequence[int]) -> Iterator[None]:
        """Run one part's forward pass inside; ``heads`` tells how many of each item's last tokens reach
        the output head."""
        self.passes[part.kind] += 1
        if part.kind == "plain":
            yield
            return
        if part.copy is not None:
            with self.mixture.composed(part.copy):
                yield
            return
        for kernel in part.kernels:
            self.kernels[type(kernel).__name__.lower()] += 1
        own = [items[index] for index in part.members]
        if not self._is_static(own) and all(item.weights == own[0].weights for item in own):
            g = head = self.mixture.g([own[0].weights])
        else:
            rows = self.mixture.g([item.weights for item in own])
            counts = torch.tensor([item.tokens for item in own], device=rows.device)
            g = rows.repeat_interleave(counts, 0)
            seen = torch.tensor([int(heads[index]) for index in part.members], device=rows.device)
            head = rows.repeat_interleave(seen, 0)
        with self.mixture.factored(g, part.kernels, head, [Stacked(slice(None), head)]):
            yield

    @contextmanager
    def uniform(self, weights: Weights, tokens: int) -> Iterator[None]:
        """Forward passes of any shape inside, all tokens of one mixture."""
        item = Item(weights, tokens)
        (part,) = self.plan([item])
        if part.kernels:
            # Prompts of several lengths are padded there: what counts does not stand side by side.
            _, kernels = self._run(weights, tokens, slice(None))
            part = replace(part, kernels=tuple(kernels))
        with self.apply(part, [item], [True]):
            yield

    # How to compute, and what it costs.

    def _factored(self, items: Sequence[Item]) -> Part:
        # Most steps decode the same rows as the one before.
        key = tuple(items)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        part = self._known[key] = self._arranged(items)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return part

    def _is_static(self, items: Sequence[Item]) -> bool:
        return self.static and all(item.tokens == 1 for item in items)

    def _static(self, items: Sequence[Item]) -> Part:
        members = _padded(range(len(items)))
        rows = [items[i].weights for i in members]
        if not any(map(any, rows)):
            return Part(members, "plain")
        seconds = self.costs.stacked.seconds(self.shape.stacked(len(rows)))
        return Part(members, "factored", None, (Stacked(slice(None), self.mixture.g(rows)),), seconds)

    def _arranged(self, items: Sequence[Item]) -> Part:
        if self._is_static(items):
            return self._static(items)
        order = sorted(range(len(items)), key=lambda i: (items[i].tokens > 1, *_rank(items[i].weights)))
        singles = [items[i].weights for i in order if items[i].tokens == 1]
        at = sum(not any(weights) for weights in singles)
        active = singles[at:]
        few = [weights for weights in active if _used(weights) <= FEW_EXPERTS]
        ways = self._singles(few, active[len(few) :], at)
        at += len(active)
        for i in order[len(singles) :]:
            item = items[i]
            if any(item.weights):
                ways.append(self._run(item.weights, item.tokens, slice(at, at + item.tokens)))
            at += item.tokens
        kernels = tuple(kernel for _, kernels in ways for kernel in kernels)
        kind: Literal["factored", "plain"] = "factored" if kernels else "plain"
        return Part(tuple(order), kind, None, kernels, sum(cost for cost, _ in ways))

    def _singles(self, few: list[Weights], many: list[Weights], at: int) -> list[tuple[float, list[Kernel]]]:
        """Tokens of few experts and of many, each their own way, or all in one, if that is cheaper."""
        apart = [self._kernels(rows, start) for rows, start in ((few, at), (many, at + len(few))) if rows]
        if not few or not many:
            return apart
        together = self._kernels([*few, *many], at)
        return [together] if together[0] < sum(cost for cost, _ in apart) else apart

    def _kernels(self, rows: list[Weights], at: int) -> tuple[float, list[Kernel]]:
        """The cheapest way for single tokens of these mixtures, which begin at ``at``."""
        span, g = slice(at, at + len(rows)), self.mixture.g(rows)
        ways: dict[str, tuple[float, list[Kernel]]] = {}
        runs: list[tuple[float, list[Kernel]]] = []
        start = 0
        for index in range(1, len(rows) + 1):
            if index == len(rows) or rows[index] != rows[start]:
                runs.append(self._run(rows[start], index - start, slice(at + start, at + index)))
                start = index
        ways["sliced"] = sum(cost for cost, _ in runs), [k for _, kernels in runs for k in kernels]
        ways["stacked"] = self.costs.stacked.seconds(self.shape.stacked(len(rows))), [Stacked(span, g)]
        if self.shape.uniform:
            kernel = Grouped.of(span, rows, g)
            uses = 0 if kernel.places is None else len(kernel.returns)
            work = self.shape.grouped(kernel.low, kernel.high, kernel.most, uses)
            ways["grouped"] = self.costs.grouped.seconds(work), [kernel]
        if self.mode in ways:
            return ways[self.mode]
        return min(ways.values(), key=lambda way: way[0])

    def _run(self, weights: Weights, tokens: int, span: slice) -> tuple[float, list[Kernel]]:
        """The cheaper way for ``tokens`` tokens of one mixture, which stand in ``span``."""
        used = tuple((k, weight) for k, weight in enumerate(weights) if weight)
        sliced = self.costs.sliced.seconds(self.shape.sliced(tokens, [k for k, _ in used]))
        stacked = self.costs.stacked.seconds(self.shape.stacked(tokens))
        if self.mode == "stacked" or (self.mode != "sliced" and stacked < sliced):
            return stacked, [Stacked(span, self.mixture.g([weights]))]
        return sliced, [Sliced(span, used)]

    def _split(
        self, items: Sequence[Item], groups: dict[Weights, list[int]], whole: Part
    ) -> list[Part] | None:
        """Two passes instead of one, if that is cheaper: the rows of a kept copy, and the rest."""
        best, found = 0.0, None
        total = sum(item.tokens for item in items)
        for weights, own in groups.items():
            copy = self._pinned.get(weights) or self._kept.get(weights)
            if copy is None:
                continue
            tokens = sum(items[i].tokens for i in own)
            others = [i for i in range(len(items)) if items[i].weights != weights]
            rest = self._factored([items[i] for i in others])
            more = self.costs.plain(tokens) + self.costs.plain(total - tokens) - self.costs.plain(total)
            saved = whole.seconds - rest.seconds - more
            if saved > best:
                ordered = tuple(sorted(own, key=lambda i: items[i].tokens > 1))
                if self._is_static([items[i] for i in own]):
                    ordered = _padded(ordered)
                renamed = replace(rest, members=tuple(others[i] for i in rest.members))
                best, found = saved, [Part(ordered, "composed", copy), renamed]
                if weights in self._kept:
                    self._kept.move_to_end(weights)
        return found

    # Composed copies.

    def _room(self) -> int:
        return self.budget - len(self._pinned) * self._price

    def _copy(self, weights: Weights, factored: float) -> Copy | None:
        if weights in self._pinned:
            self.lookups["hit"] += 1
            return self._pinned[weights]
        if weights in self._kept:
            self.lookups["hit"] += 1
            self._kept.move_to_end(weights)
            return self._kept[weights]
        self.lookups["miss"] += 1
        if self._room() < self._price:
            return None
        if self.mode == "auto":
            if len(self._regret) >= MOST_COUNTED:
                self._regret.clear()
            self._regret[weights] = self._regret.get(weights, 0.0) + factored
            making = self.costs.compose * sum(d for d, w in zip(self.shape.dense, weights, strict=True) if w)
            if self._regret[weights] < making:
                return None
        while (len(self._kept) + 1) * self._price > self._room():
            self._kept.popitem(last=False)
        # Counting starts again for everybody, so that rivals for the last copy do not evict each
        # other at every turn.
        self._regret.clear()
        try:
            self._kept[weights] = self.mixture.compose(weights)
        except (MemoryError, RuntimeError):
            # Out of memory, most likely: factors need none, and answer the same.
            log.exception("composing weights failed; copies are given up")
            self.budget = 0
            self._kept.clear()
            return None
        return self._kept[weights]


def _padded(members: Sequence[int]) -> tuple[int, ...]:
    return (*members, *[members[-1]] * (round_rows(len(members)) - len(members)))


def _used(weights: Weights) -> int:
    return sum(weight != 0.0 for weight in weights)


def _rank(weights: Weights) -> tuple[int, Weights]:
    # By expert, as their factors lie: where each has as many tokens, these then need no gathering.
    return _used(weights), tuple(-weight for weight in weights)
