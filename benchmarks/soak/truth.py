"""What every answer must be: greedy decoding of dense weights of the mixture that the response names."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.loading import load_tokenizer
from serve.prompts import chat_ids

Mixture = tuple[tuple[str, float], ...]
# Two tokens so near each other that rounding decides are told apart from wrong answers.
TIE = 1e-4


class Truth:
    """Answers of one bundle, by transformers alone: no cache, no batch, no router."""

    def __init__(self, folder: Path) -> None:
        self.bundle = Bundle.open(folder)
        self.tokenizer = load_tokenizer(self.bundle.base)
        self._model = lru_cache(maxsize=64)(self._composed)
        self.answer = lru_cache(maxsize=None)(self._answer)

    def _composed(self, mixture: Mixture) -> Any:
        weights = factor_weights(dict(mixture), self.bundle.carried, self.bundle.scalings)
        return load_composed(self.bundle, weights)

    @torch.no_grad()
    def _answer(self, prompt: str, mixture: Mixture, limit: int) -> tuple[str, bool]:
        """The text, and whether some step of it was a tie."""
        ids = list(chat_ids(self.tokenizer, [{"role": "user", "content": prompt}]))
        model, made, tie = self._model(mixture), list[int](), False
        for _ in range(limit):
            best = model(input_ids=torch.tensor([ids + made])).logits[0, -1].topk(2)
            tie |= float(best.values[0] - best.values[1]) < TIE
            token = int(best.indices[0])
            if token == self.tokenizer.eos_token_id:
                break
            made.append(token)
        return self.tokenizer.decode(made, skip_special_tokens=True), tie
