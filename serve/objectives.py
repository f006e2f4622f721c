"""What a search may optimise: how well one plain model gives the reference answers of some prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.loading import load_model, load_tokenizer
from router import user_turns
from serve.evaluate import SPARE_TOKENS, Item, score
from serve.kvcache import context_length
from serve.plainmodels import plain_engine
from serve.prompts import file_ids
from serve.request import Target
from serve.settings import EngineSettings

Data = Mapping[str, Sequence[Item]]
# Tokens of a pass, padding included: logits of all answers' positions are in memory at once.
BATCH_TOKENS = 2048
UNSCORED = -100
SHOWN = 80


@dataclass(frozen=True)
class Example:
    """One item in tokens; ``answer`` ends as the model should end it."""

    prompt: list[int]
    answer: list[int]


class Exam:
    """The prompts of one split, encoded by the base's tokenizer; scores any plain model of that base.

    Raises InputError, before any model is loaded, for a prompt that the chat template refuses, or that with
    its answer exceeds the context.
    """

    def __init__(self, data: Data, base: Checkpoint, settings: EngineSettings) -> None:
        self.data, self.settings = data, settings
        tokenizer = load_tokenizer(base.folder)
        context = context_length(base.config.get_text_config(decoder=True), settings.max_model_len)
        self._examples = {
            task: [_example(tokenizer, item, context) for item in items] for task, items in data.items()
        }
        self._padding = tokenizer.pad_token_id or 0

    @property
    def prompts(self) -> int:
        return sum(len(items) for items in self.data.values())

    def loss(self, folder: Path) -> float:
        """Mean negative log-likelihood of the reference answers in nats a token, their ends included; each
        task weighs the same."""
        model = load_model(folder, self.settings.torch_dtype()).to(self.settings.torch_device())
        with torch.inference_mode():
            means = [_loss(model, examples, self._padding) for examples in self._examples.values()]
        return float(np.mean(means))

    def exact_match(self, folder: Path) -> float:
        """Share of greedy answers that equal the reference, by the rule of ``twinserve eval``; each task
        weighs the same."""
        device, dtype = self.settings.torch_device(), self.settings.torch_dtype()
        with plain_engine(lambda: load_model(folder, dtype).to(device), folder, self.settings) as engine:
            return score(engine, self.data, lambda _: Target("static")).average


def refuse_unserved(base: Checkpoint, settings: EngineSettings) -> None:
    """Raises InputError where the engine, which exact match needs, cannot run models like ``base``: better
    before a search than at its end."""
    device, dtype = settings.torch_device(), settings.torch_dtype()
    with plain_engine(lambda: load_model(base.folder, dtype).to(device), base.folder, settings):
        pass


def refuse_shared(dev: Data, test: Data) -> None:
    """Raises InputError, naming the prompt, where a development prompt is also a test prompt, of whatever
    task: a score on what was selected by says nothing."""
    tested = {_words(item) for items in test.values() for item in items}
    for task, items in dev.items():
        for item in items:
            if (words := _words(item)) in tested:
                raise InputError(
                    f"development and test prompts must differ, and both have {words[-1][:SHOWN]!r} (task "
                    f"{task}): remove it from one of them"
                )


def _words(item: Item) -> tuple[str, ...]:
    return tuple(" ".join(turn.split()) for turn in user_turns(item.messages))


def _example(tokenizer: Any, item: Item, context: int) -> Example:
    prompt = file_ids(tokenizer, item.messages)
    answer = list(tokenizer(item.answer.strip(), add_special_tokens=False)["input_ids"])
    if tokenizer.eos_token_id is not None:
        answer.append(tokenizer.eos_token_id)
    if len(prompt) + len(answer) + SPARE_TOKENS + 1 > context:
        shown = user_turns(item.messages)[-1][:SHOWN]
        raise InputError(
            f"the prompt {shown!r} and its answer exceed the context of {context} tokens: shorten or "
            "remove it"
        )
    return Example(prompt, answer)


def _loss(model: Any, examples: Sequence[Example], padding: int) -> float:
    total, count = 0.0, 0
    for batch in _batches(examples):
        rows = [torch.tensor(example.prompt + example.answer) for example in batch]
        # Padding comes last: causal attention never sees it, and positions are those without any.
        ids = pad_sequence(rows, batch_first=True, padding_value=padding)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        targets = torch.full_like(ids, UNSCORED)
        for row, example in enumerate(batch):
            start = len(example.prompt)
            # The token before predicts it.
            targets[row, start - 1 : start - 1 + len(example.answer)] = torch.tensor(example.answer)
        first = min(len(example.prompt) for example in batch) - 1
        kept = torch.arange(first, ids.shape[1], device=model.device)
        logits = model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            use_cache=False,
            logits_to_keep=kept,
        ).logits
        wanted = targets[:, first:].to(model.device)
        losses = cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
        total += float(losses.double().sum())
        count += sum(len(example.answer) for example in batch)
    return total / count


def _batches(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples of like lengths together, at most BATCH_TOKENS with their padding."""
    made: list[list[Example]] = []
    for example in sorted(examples, key=lambda e: len(e.prompt) + len(e.answer)):
        length = len(example.prompt) + len(example.answer)
        if made and (len(made[-1]) + 1) * length <= BATCH_TOKENS:
            made[-1].append(example)
        else:
            made.append([example])
    return made
