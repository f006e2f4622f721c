"""Keys and values of prompts seen before, so that a common beginning is prefilled once a mixture.

Keys and values depend on the weights that computed them. A prefix is therefore found only under the
same root: the bundle's generation and the snapped mixture. Blocks are chained by identity, not by a
hash, so two different prefixes can never be taken for each other.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Root:
    """A parent that no block's id can be taken for."""

    key: Hashable


@dataclass(frozen=True)
class Block:
    """``PrefixCache.block`` consecutive tokens under one parent. id: names it to its children."""

    id: int
    layers: Layers
    nbytes: int


class PrefixCache:
    """Blocks of keys and values under a byte budget; the least recently used leave first.

    A use touches a chain from its end to its beginning, so a block always outlives its children.
    """

    def __init__(self, budget: int, block: int = 32) -> None:
        self.budget, self.block = budget, block
        self.nbytes = self.hits = self.misses = 0
        self._blocks: OrderedDict[tuple[Hashable, tuple[int, ...]], Block] = OrderedDict()
        self._ids = itertools.count()

    def match(self, root: Hashable, tokens: Sequence[int]) -> list[Block]:
        """The longest chain of blocks that begins ``tokens``; never all of them, because the last
        token has to be computed for its logits. Counts ``hits`` and ``misses`` in tokens."""
        chain = self._chain(root, tokens, (len(tokens) - 1) // self.block)
        self.hits += len(chain) * self.block
        self.misses += len(tokens) - len(chain) * self.block
        return [block for _, block in chain]

    def insert(self, root: Hashable, tokens: Sequence[int], read: Callable[[int, int], Layers]) -> None:
        """Keep every whole block of ``tokens``; ``read(start, stop)`` copies those not yet known."""
        if not self.budget:
            return
        known = self._chain(root, tokens, len(tokens) // self.block)
        parent: Hashable = known[-1][1].id if known else _Root(root)
        for index in range(len(known), len(tokens) // self.block):
            start, stop = index * self.block, (index + 1) * self.block
            layers = read(start, stop)
            nbytes = sum(keys.nbytes + values.nbytes for keys, values in layers)
            if (index + 1) * nbytes > self.budget:
                break
            made = Block(next(self._ids), layers, nbytes)
            self._blocks[parent, tuple(tokens[start:stop])] = made
            self.nbytes += nbytes
            parent = made.id
        # The new chain's end must not be the first to go, nor its beginning before its end.
        self._chain(root, tokens, len(tokens) // self.block)
        while self.nbytes > self.budget:
            _, gone = self._blocks.popitem(last=False)
            self.nbytes -= gone.nbytes

    def _chain(
        self, root: Hashable, tokens: Sequence[int], most: int
    ) -> list[tuple[tuple[Hashable, tuple[int, ...]], Block]]:
        found: list[tuple[tuple[Hashable, tuple[int, ...]], Block]] = []
        parent: Hashable = _Root(root)
        for index in range(most):
            key = (parent, tuple(tokens[index * self.block : (index + 1) * self.block]))
            block = self._blocks.get(key)
            if block is None:
                break
            found.append((key, block))
            parent = block.id
        for key, _ in reversed(found):
            self._blocks.move_to_end(key)
        return found
