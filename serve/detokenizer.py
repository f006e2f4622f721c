"""Tokens to text as they come, never a broken character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Tokens before an answer that may change its text: one would do, were it never a part of a character.
NEIGHBOURS = 6


class Detokenizer:
    """Text of one answer, piece by piece.

    Decodes from a little before the last finished text on, because tokens change their text with
    their neighbours. Text that may be the beginning of a stop string is held back until it is
    clear. before: tokens whose text the answer's is put behind; without them, some tokenizers drop
    the space before its first word.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = (), before: Sequence[int] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.stopped = False
        self._ids: list[int] = list(before[-NEIGHBOURS:])
        if self._decode(self._ids).endswith("\ufffd"):
            # Half a character has no text that the answer could go on from.
            self._ids = []
        self._prefix, self._read = 0, len(self._ids)
        self._held = ""

    def push(self, token: int) -> str:
        """Add one token; returns the text that is now certain. Sets ``stopped`` at the first stop
        string to be complete (of several, the one that begins first), whose text and whatever
        follows it are dropped."""
        self._ids.append(token)
        known = self._decode(self._ids[self._prefix : self._read])
        text = self._decode(self._ids[self._prefix :])
        if text.endswith("\ufffd") or len(text) <= len(known):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return self._release(text[len(known) :])

    def finish(self) -> str:
        """The rest, when no further token comes."""
        if self.stopped:
            return ""
        known = self._decode(self._ids[self._prefix : self._read])
        rest = self._release(self._decode(self._ids[self._prefix :])[len(known) :])
        held, self._held = self._held, ""
        return rest + held

    def _release(self, text: str) -> str:
        text = self._held + text
        # The first to be complete, and not the first to begin: how text is cut into tokens must not
        # decide which of two overlapping stop strings ends it.
        found = [(start + len(word), start) for word in self.stop if (start := text.find(word)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, word) for word in self.stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of ``text`` that begins ``word``."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if word.startswith(text[-n:])), 0)
