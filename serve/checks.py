"""What can be served, told before anything is queued or allocated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.compose import check_mixture
from compress.errors import InputError
from serve.kvcache import context_length
from serve.request import GenerationRequest
from serve.scheduler import LENGTH_STEP
from serve.settings import EngineSettings


def check_request(
    request: GenerationRequest, limit: int, vocabulary: int, tasks: Sequence[str], pretrained: bool
) -> None:
    """limit: tokens of prompt and answer together. vocabulary: how many token ids there are. tasks: names of
    experts. pretrained: whether the pretrained base can be mixed in. Raises InputError for a request that
    goes beyond them."""
    length = len(request.prompt)
    if length == 0:
        raise InputError("the prompt is empty; give at least one token")
    if request.params.max_tokens < 0:
        raise InputError(f"max_tokens must be at least 0, not {request.params.max_tokens}")
    if length + request.params.max_tokens > limit:
        raise InputError(
            f"{length} prompt tokens and max_tokens {request.params.max_tokens} exceed the context "
            f"of {limit} tokens; at most {max(0, limit - length)} can be asked for"
        )
    if not all(0 <= token < vocabulary for token in request.prompt):
        raise InputError(f"prompt: token ids must lie between 0 and {vocabulary - 1}")
    target = request.target
    if target.kind == "task":
        check_mixture({str(target.task): 1.0}, tasks, pretrained)
    elif target.kind == "mixture":
        check_mixture(target.mixture or {}, tasks, pretrained)


def fitting_length(config: Any, settings: EngineSettings, cost: int) -> int:
    """Positions of a request: the model's, or what the memory for keys and values holds.

    cost: bytes of one. Raises InputError where that is less than the settings ask for.
    """
    most = int(settings.kv_memory) // (cost * LENGTH_STEP) * LENGTH_STEP
    length = context_length(config, settings.max_model_len)
    if most < LENGTH_STEP or (settings.max_model_len is not None and most < length):
        raise InputError(
            f"kv_memory {int(settings.kv_memory)} holds {most} positions of this model, at {cost} bytes "
            f"each, and {max(settings.max_model_len or 0, LENGTH_STEP)} are needed: give it more"
        )
    return min(length, most)
