"""The output ensemble, RegMean's own baseline: the mean of what all fine-tunes predict for the next token.

It costs as many models as there are fine-tunes, in memory and in time, and is no merge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from compress.finetunes import apply
from compress.inputs import Inputs
from compress.loading import load_model, load_tokenizer
from serve.evaluate import SPARE_TOKENS, Item
from serve.prompts import file_ids


@torch.no_grad()
def ensemble_scores(
    inputs: Inputs, items: Mapping[str, Sequence[Item]], done: Callable[[], None]
) -> dict[str, float]:
    """Exact match of greedy decoding from the mean probabilities: task -> share in [0, 1]."""
    tokenizer = load_tokenizer(inputs.base.folder)
    models = [
        apply(finetune, load_model(inputs.base.folder, torch.float32), inputs.base)
        for finetune in inputs.finetunes.values()
    ]
    end = tokenizer.eos_token_id
    scores = {}
    for task, asked in items.items():
        hits = 0
        for item in asked:
            prompt = file_ids(tokenizer, item.messages)
            reference = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
            answer = _greedy(models, prompt, end, len(reference) + 1 + SPARE_TOKENS)
            hits += answer is not None and tokenizer.decode(answer).strip() == item.answer.strip()
            done()
        scores[task] = hits / len(asked)
    return scores


def _greedy(models: Sequence[torch.nn.Module], prompt: list[int], end: int, limit: int) -> list[int] | None:
    """The tokens before the end of text, or None where it does not come in time."""
    caches: list[object] = [None] * len(models)
    given, answer = torch.tensor([prompt]), list[int]()
    for _ in range(limit):
        total = torch.zeros(())
        for number, model in enumerate(models):
            out = model(input_ids=given, past_key_values=caches[number], use_cache=True, logits_to_keep=1)
            caches[number] = out.past_key_values
            total = total + out.logits[0, -1].float().softmax(-1)
        token = int(total.argmax())
        if token == end:
            return answer
        answer.append(token)
        given = torch.tensor([[token]])
    return None
