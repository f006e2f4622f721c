"""What one answer is asked with and what comes back: shared by the API and the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from compress.compose import BASE
from serve.times import Times

if TYPE_CHECKING:
    from router.policy import Policy


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are picked and when an answer ends.

    max_tokens: tokens to generate at most, >= 0; 0 = read the prompt and end. temperature: >= 0;
    0 = greedy. top_p: nucleus mass in [0, 1]. seed: None = not reproducible. stop: strings that end the
    answer and are left out of it. stop_token_ids: token ids that end it. ignore_eos: go on past the
    end-of-text token.

    top_k: draw from that many most likely tokens, 0 = all.
    min_p: draw from tokens at least that many times as likely as the likeliest, in [0, 1].
    repetition_penalty: > 0, 1 = none; on tokens of prompt and answer. presence_penalty,
    frequency_penalty: subtracted from the logit of a token that the answer holds, once and for each
    time; 0 = none. logit_bias: token id -> added to its logit, finite. Bias and penalties act on
    greedy answers too.

    logprobs: None = no log-probabilities, n >= 0 = the chosen token's and those of the n most likely.
    prompt_logprobs: the same for every token of the prompt but the first, which nothing precedes; such
    a prompt is computed whole, whatever the prefix cache holds.

    json_schema: JSON text; the answer is JSON that follows it, and end of text ends it even with
    ignore_eos.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    # Left out of the hash because a mapping has none; equality still sees it.
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    json_schema: str | None = None


@dataclass(frozen=True)
class Target:
    """Which weights answer.

    dynamic: the router's mixture. static: the merged model. task: one expert, named by ``task``.
    mixture: the weights in ``mixture`` (task -> weight; empty = the shared base).

    policy: of a dynamic target, instead of the router's own. It decides by the conversation's last turn
    alone, also where the router's own would stick to an earlier choice. arm: the experiment's arm that this
    is, None outside experiments.
    """

    kind: Literal["dynamic", "static", "task", "mixture"]
    task: str | None = None
    mixture: Mapping[str, float] | None = None
    policy: Policy | None = None
    arm: str | None = None

    @property
    def label(self) -> str:
        """What logs and metrics call it: the experiment's arm, the task's name, or the kind."""
        return self.arm or self.task or self.kind


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt to continue.

    prompt: token ids. turns: the user's own words, oldest first, to route. timeout: seconds after which it
    is given up, where the engine's own is not shorter. route_tokens: how many leading tokens of the prompt
    ``turns`` were read from, None = they were not cut short. joined: the answer's text is put behind the
    prompt's. background: it is answered while the engine has nothing else to do, and otherwise in a small
    share of its time; given up where it is in the way, and counted nowhere. times: where the engine writes
    down when it did what; None: nobody will read that.
    """

    # Not shown: requests stand in errors, and errors in logs.
    prompt: list[int] = field(repr=False)
    params: SamplingParams
    target: Target
    turns: tuple[str, ...] = field(default=(), repr=False)
    timeout: float | None = None
    route_tokens: int | None = None
    joined: bool = False
    background: bool = False
    times: Times | None = field(default=None, compare=False, repr=False)

    def choices(self, n: int) -> list[GenerationRequest]:
        """This request ``n`` times, each with random numbers of its own; the first is unchanged."""
        return [self, *(replace(self, params=_reseeded(self.params, i)) for i in range(1, n))]


def _reseeded(params: SamplingParams, choice: int) -> SamplingParams:
    if params.seed is None:
        return params
    # Not seed + choice: the next seed's first choice would repeat this one's second.
    digest = hashlib.sha256(f"{params.seed}/{choice}".encode()).digest()
    return replace(params, seed=int.from_bytes(digest[:8], "big", signed=True))


@dataclass(frozen=True)
class Routing:
    """Which weights answered and who chose them.

    mixture: task -> weight, the pretrained base being called ``base``. source: what decided it;
    "router_on_scored_prompt" is the router where it read the very text whose log-probabilities were asked
    for, because nobody said where to stop. confidence: the router's highest calibrated probability in
    [0, 1], None where the router was not asked. arm: the experiment arm; without one the task's name, or the
    kind of target. generation: which version of the bundle's contents answered.
    """

    mixture: dict[str, float]
    source: Literal["router", "router_on_scored_prompt", "request", "model", "static"]
    confidence: float | None
    arm: str
    generation: int

    @property
    def experts(self) -> dict[str, float]:
        """The mixture without the pretrained base; empty where no expert was trusted."""
        return {task: weight for task, weight in self.mixture.items() if task != BASE}


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithm of a token's probability, from the model's own logits: before bias,
    penalties, temperature and truncation; -inf for a token that the model excludes.

    top: (token id, log-probability) of the most likely tokens, most likely first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Event:
    """One step of one answer.

    text: what it adds, possibly "". token_ids: the tokens it adds. finish_reason: set on the last
    event only; "length" when ``max_tokens`` ended the answer. logprobs: one for each of
    ``token_ids`` where they were asked for.

    On the first event only: prompt_logprobs, one for each prompt token but the first where they were
    asked for, and cached_tokens, how many prompt tokens were taken from the prefix cache.
    """

    text: str
    token_ids: tuple[int, ...]
    routing: Routing
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
