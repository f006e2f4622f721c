"""One step's forward passes: from tokens of many requests to logits, whatever fails alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serve.attention import InterruptedPassError, Switch, check_attention
from serve.kernels import Weights
from serve.kvcache import Segment, SlotCache
from serve.mixture import MixtureModel
from serve.planner import Item, Part, Planner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """Tokens to compute. wanted: whether the logits after the last of them are; every: those after each."""

    segment: Segment
    weights: Weights
    wanted: bool
    every: bool = False

    @property
    def heads(self) -> int:
        """How many of its last tokens the output head must see."""
        return len(self.segment.tokens) if self.every else int(self.wanted)


class Runner:
    """Runs steps of one model on one cache. Not thread-safe."""

    def __init__(self, mixture: MixtureModel, cache: SlotCache, planner: Planner) -> None:
        check_attention(mixture.model)
        self.mixture, self.cache, self.planner = mixture, cache, planner
        self._attention = Switch(mixture.model)
        self._device = next(mixture.model.parameters()).device

    def run(
        self, work: Sequence[Work], give_way: Callable[[], bool] | None = None
    ) -> list[Tensor | Exception | None]:
        """Logits [vocabulary] after each piece of work, [tokens, vocabulary] where every token's are wanted,
        None where none are.

        When a pass fails, each of its pieces is computed again by itself; what then still fails gets
        its exception in its place, and the others their logits.

        give_way: of work that matters less than what may come: asked in every layer, and once it says yes all
        of this is given up by InterruptedPassError. No weights are composed for such work.
        """
        items = [Item(one.weights, len(one.segment.tokens)) for one in work]
        results: list[Tensor | Exception | None] = [None] * len(work)
        for part in self.planner.plan(items, lasting=give_way is None):
            try:
                self._pass(part, work, items, results, give_way)
            except InterruptedPassError:
                raise
            except Exception:
                log.exception("a step of %d requests failed; each is tried alone", len(part.members))
                for index in part.members:
                    self._alone(index, work, items, results)
        return results

    def _alone(
        self,
        index: int,
        work: Sequence[Work],
        items: Sequence[Item],
        results: list[Tensor | Exception | None],
    ) -> None:
        own: list[Tensor | Exception | None] = [None]
        try:
            self._pass(self.planner.alone(items[index]), [work[index]], [items[index]], own)
        except Exception as error:
            log.exception("a request failed alone, too")
            own = [error]
        results[index] = own[0]

    def _pass(
        self,
        part: Part,
        work: Sequence[Work],
        items: Sequence[Item],
        results: list[Tensor | Exception | None],
        give_way: Callable[[], bool] | None = None,
    ) -> None:
        segments = [work[index].segment for index in part.members]
        tokens = [token for segment in segments for token in segment.tokens]
        places = [segment.start + i for segment in segments for i in range(len(segment.tokens))]
        heads = [one.heads for one in work]
        if not any(heads[index] for index in part.members):
            # The head has to see something; the middle of a prompt has nothing worth looking at.
            heads[part.members[-1]] = 1
        ends: list[int] = []
        at = 0
        for index, segment in zip(part.members, segments, strict=True):
            at += len(segment.tokens)
            ends += range(at - heads[index], at)
        with (
            self.cache.running(segments, self._device, give_way),
            self._attention.on(),
            self.planner.apply(part, items, heads),
        ):
            output = self.mixture.model(
                input_ids=torch.tensor([tokens], device=self._device),
                position_ids=torch.tensor([places], device=self._device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=torch.tensor(ends, device=self._device),
            )
        rows = output.logits[0].split([heads[index] for index in part.members])
        for index, logits in zip(part.members, rows, strict=True):
            if work[index].every:
                results[index] = logits
            elif work[index].wanted:
                results[index] = logits[-1]
