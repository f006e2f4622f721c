"""Log-probabilities in the two shapes of OpenAI's responses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from transformers.convert_slow_tokenizer import bytes_to_unicode

from serve.api.echo import Echo
from serve.api.responses import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob
from serve.detokenizer import Detokenizer
from serve.request import TokenLogprob

# JSON has no -inf; OpenAI's API reference writes an excluded token so.
EXCLUDED = -9999.0
# Byte-level BPE writes bytes as letters.
BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}


class Spelling(NamedTuple):
    """What a token writes inside a text.

    text: "\ufffd" stands in it for parts of characters. raw: its UTF-8, also where that is a part of a
    character; None where the tokenizer writes its pieces in no known way.
    """

    text: str
    raw: bytes | None

    @property
    def name(self) -> str:
        """As OpenAI's completions name parts of characters, which would all be one name otherwise."""
        if "\ufffd" not in self.text or self.raw is None:
            return self.text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.raw)


# The likeliest tokens are mostly the same few, and decoding twenty a step would hold up other streams. By
# tokenizer, and no longer than it lives: generations come and go.
_spellings: WeakKeyDictionary[Any, dict[int, Spelling]] = WeakKeyDictionary()


def spelling(tokenizer: Any, token: int) -> Spelling:
    """How ``tokenizer`` spells a token id."""
    known = _spellings.setdefault(tokenizer, {})
    if token not in known:
        known[token] = _spelt(tokenizer, token)
    return known[token]


def _spelt(tokenizer: Any, token: int) -> Spelling:
    text: str = tokenizer.decode([token])
    # A second time, because some tokenizers drop the space before the first word of a text.
    twice: str = tokenizer.decode([token, token])
    if "\ufffd" not in twice:
        text = twice[len(text) :] if twice.startswith(text) else text
        return Spelling(text, text.encode())
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", piece):
        return Spelling(text, bytes.fromhex(byte[1]))
    if all(letter in BYTES for letter in piece):
        return Spelling(text, bytes(BYTES[letter] for letter in piece))
    return Spelling(text, None)


def chat_logprobs(tokenizer: Any, found: Sequence[TokenLogprob]) -> ChatLogprobs | None:
    """``found`` as a chat choice's ``logprobs``; None where there are none."""
    if not found:
        return None

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text, raw = spelling(tokenizer, token)
        return {
            "token": text,
            "logprob": max(logprob, EXCLUDED),
            "bytes": None if raw is None else list(raw),
        }

    content = [
        ChatTokenLogprob(
            **entry(one.token_id, one.logprob), top_logprobs=[TopLogprob(**entry(*top)) for top in one.top]
        )
        for one in found
    ]
    return ChatLogprobs(content=content, refusal=None)


class CompletionLogprobsForm:
    """Log-probabilities of one completion, which may come piece by piece."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # Lengths of single tokens' texts would not add up where a character has several tokens.
        self.text = Detokenizer(tokenizer)
        self.offset = 0

    def of(
        self, found: Sequence[TokenLogprob], echo: Echo | None = None, scores: Sequence[TokenLogprob] = ()
    ) -> CompletionLogprobs | None:
        """The next tokens as a choice's ``logprobs``; None where there are none.

        echo: the prompt that comes before them, with the ``scores`` of its tokens but the first. A token
        that ends inside a character begins where the character does.
        """
        begun = [] if echo is None else echo.ids[:1]
        if not (begun or found):
            return None
        offsets = [] if echo is None else self._skip(echo)
        every = [*scores, *found]
        return CompletionLogprobs(
            tokens=[spelling(self.tokenizer, i).name for i in (*begun, *(one.token_id for one in every))],
            token_logprobs=[*(None for _ in begun), *(max(one.logprob, EXCLUDED) for one in every)],
            top_logprobs=[*(None for _ in begun), *map(self._likeliest, every)],
            text_offset=[*offsets, *self._offsets([one.token_id for one in found])],
        )

    def _skip(self, echo: Echo) -> list[int]:
        """Where the prompt's tokens begin; the answer's then begin where its text ends."""
        # Tokens may spell a text otherwise than it was sent (an unknown character, say).
        found = [min(i, len(echo.text)) for i in self._offsets(echo.ids)]
        self.text, self.offset = Detokenizer(self.tokenizer, before=echo.ids), len(echo.text)
        return found

    def _offsets(self, tokens: Iterable[int]) -> Iterable[int]:
        for token in tokens:
            yield self.offset
            self.offset += len(self.text.push(token))

    def _likeliest(self, one: TokenLogprob) -> dict[str, float]:
        likeliest: dict[str, float] = {}
        # The first of a name is the likeliest of it; the token itself comes last and may be there.
        for token, logprob in (*one.top, (one.token_id, one.logprob)):
            likeliest.setdefault(spelling(self.tokenizer, token).name, max(logprob, EXCLUDED))
        return likeliest
