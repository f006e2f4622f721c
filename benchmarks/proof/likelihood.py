"""Log-likelihoods of answers by transformers, from dense weights: no engine, no batch, no cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.loading import load_tokenizer


@dataclass(frozen=True)
class Choices:
    """One prompt and the answers to compare."""

    messages: list[dict[str, Any]]
    answers: tuple[str, ...]


@torch.no_grad()
def likelihoods(
    bundle: Bundle, items: Sequence[Choices], mixtures: Sequence[Mapping[str, float]]
) -> list[list[float]]:
    """ln p(answer | prompt) for each answer of each item, under its own mixture.

    White space at the end of the prompt, as chat templates leave it, counts to the answer: lm_eval splits the
    two there, and it is the same summand for every answer. Each mixture is composed once, and each text is
    one forward pass of its own.
    """
    tokenizer = load_tokenizer(bundle.base)
    groups: defaultdict[tuple[tuple[str, float], ...], list[int]] = defaultdict(list)
    for index, weights in enumerate(mixtures):
        groups[tuple(sorted(weights.items()))].append(index)
    found: dict[int, list[float]] = {}
    for mixture, members in groups.items():
        model: Any = load_composed(bundle, factor_weights(dict(mixture), bundle.carried, bundle.scalings))
        for index in members:
            item = items[index]
            prompt = tokenizer.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False)
            start = len(tokenizer(prompt.rstrip(), add_special_tokens=False)["input_ids"])
            found[index] = [_scored(model, tokenizer, prompt + answer, start) for answer in item.answers]
    return [found[index] for index in range(len(items))]


def _scored(model: Any, tokenizer: Any, text: str, start: int) -> float:
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    logprobs = model(input_ids=ids).logits[0, start - 1 : -1].double().log_softmax(-1)
    return float(logprobs.gather(1, ids[0, start:, None]).sum())
