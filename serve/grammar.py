"""Answers that follow a JSON schema: which tokens may come next, found by llguidance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from torch import Tensor

from compress.errors import InputError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# Characters of a schema as JSON text, and compiled schemas that are kept.
MOST_CHARACTERS = 100_000
MOST_COMPILED = 64
# The library's own messages hold the whole grammar otherwise.
LIMITS = LLParserLimits(verbose_errors=False)
DEAD_END = "no token of this model can continue the text"
WRITING: JsonCompileOptions = {
    "lenient": False,
    # Without an end to it, small models indent for ever.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,20}",
    # One spelling a string: a key written "\u0061" would pass for another one than "a" and then be "a".
    "json_allowed_escapes": '"\\bfnrt',
}


class GrammarError(InputError):
    """A schema that no answer can be held to."""


class Constraint:
    """One answer on its way through its schema. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def forbidden(self, width: int) -> Tensor:
        """Whether each token id below ``width`` would leave the schema; bool [width]. End of text is
        forbidden up to where the schema is fulfilled, and alone allowed where nothing may follow."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        # What is beyond the tokenizer's vocabulary is filled up with zeros.
        return torch.from_numpy(np.unpackbits(packed, bitorder="little", count=width)) == 0

    def accept(self, token: int) -> None:
        """Go on past ``token``. Raises GrammarError where it was forbidden, which a sampled token is only
        if all were, or if finding out took the library more steps than it is allowed."""
        # An end of text is consumed without complaint where the mask has found a dead end.
        if not self._matcher.consume_token(token) or self._matcher.is_error():
            raise GrammarError(
                "the answer cannot go on by the schema of response_format; mend or simplify it"
                f" ({_sentence(self._matcher.get_error())})"
            )


def restrict(logits: Tensor, constraints: Sequence[Constraint | None]) -> None:
    """-inf for every token that its row's constraint forbids, in place. logits: [rows, vocabulary]."""
    for row, constraint in zip(logits, constraints, strict=True):
        if constraint is not None:
            row.masked_fill_(constraint.forbidden(len(row)).to(row.device), float("-inf"))


class Grammars:
    """Schemas compiled for one tokenizer, the last ``MOST_COMPILED`` kept.

    They are compiled on a thread of their own, one after the other, because that can take a second: neither
    the event loop nor the engine's steps wait for it.
    """

    def __init__(self, tokenizer: Any, eos: Collection[int]) -> None:
        self._tokenizer, self._eos = tokenizer, eos
        self._thread = ThreadPoolExecutor(1, "twinserve-grammar")
        self._compiled = lru_cache(MOST_COMPILED)(self._compile)

    def start(self, schema: str) -> Future[Constraint]:
        """A constraint at its beginning; schema: JSON text. The future raises GrammarError for one that is
        too long, that llguidance does not know how to follow, or that nothing fulfils."""
        return self._thread.submit(lambda: Constraint(self._compiled(schema).deep_copy()))

    def _compile(self, schema: str) -> LLMatcher:
        if len(schema) > MOST_CHARACTERS:
            raise GrammarError(
                f"the schema of response_format has {len(schema)} characters, and at most {MOST_CHARACTERS}"
                " are compiled: send a smaller one"
            )
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=WRITING)
        except ValueError as error:
            raise GrammarError(_refusal(str(error))) from error
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise GrammarError(_refusal(matcher.get_error()))
        trial = matcher.deep_copy()
        trial.compute_bitmask()
        if trial.is_error():
            raise GrammarError(_refusal(trial.get_error()))
        return matcher

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        ends = sorted(token for token in self._eos if token < len(self._tokenizer))
        if not ends:
            raise GrammarError("this model has no end-of-text token, which response_format needs")
        try:
            return llguidance.hf.from_tokenizer(self._tokenizer, eos_token=ends)
        except ValueError as error:
            raise GrammarError(
                f"this model's tokenizer cannot be used with response_format: {_sentence(str(error))}"
            ) from error


def _refusal(reason: str) -> str:
    return f"the schema of response_format cannot be followed: {_sentence(reason)}"


def _sentence(text: str) -> str:
    """The library's message in one line, without what it says of its own state."""
    message = " ".join(text.split("\n<", 1)[0].split())
    return DEAD_END if message.startswith("NoExtension") else message
