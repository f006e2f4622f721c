"""Answers on file: an evaluation that was cut off goes on, and what equal weights said is asked once."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from compress.bundle import Bundle
from compress.errors import InputError
from serve.choice import snap
from serve.job import Answer
from serve.request import Target

if TYPE_CHECKING:
    from serve.evaluate import Item

FIELDS = {"model", "asked", "task", "prompt", "mixture", "answer", "ended", "expected"}


@dataclass(frozen=True)
class Kept:
    """One answer. mixture: the weights that gave it, {} = the model as it stands or the shared base. ended:
    whether the model ended it, and not the limit of tokens."""

    text: str
    ended: bool
    mixture: dict[str, float]


class AnswerFile:
    """Answers by model, by what was asked of it, and by prompt; appended to a file of JSON lines.

    Without a file they live in memory. One evaluation at a time has a file.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream
        self._found: dict[tuple[str, str, str], Kept] = {}

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[AnswerFile]:
        """The answers in ``path``, which is made if there is none. A last line that was cut off is dropped.

        Raises InputError for a file of something else, or while another evaluation writes it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8", newline="\n") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{path}: another evaluation is writing it; wait or name another") from error
            answers = cls(stream)
            answers._read(path)
            yield answers

    def get(self, model: str, asked: str, prompt: str) -> Kept | None:
        """What ``model`` said to ``prompt``, both by hash, when asked in this way."""
        return self._found.get((model, asked, prompt))

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep an answer of ``FIELDS``, also for whoever asks for the very mixture that the router chose."""
        self._remember(record)
        if self._stream is not None:
            self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._stream.flush()

    def _remember(self, record: Mapping[str, Any]) -> None:
        kept = Kept(record["answer"], record["ended"], record["mixture"])
        for asked in (record["asked"], _mixture(kept.mixture)):
            self._found.setdefault((record["model"], asked, record["prompt"]), kept)

    def _read(self, path: Path) -> None:
        assert self._stream is not None
        self._stream.seek(0)
        *lines, torn = self._stream.read().split("\n")
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not a line of answers; name another file") from error
            if not isinstance(record, dict) or set(record) != FIELDS:
                raise InputError(f"{path}:{number}: not a line of answers; name another file")
            self._remember(record)
        if torn:
            self._stream.truncate(sum(len(line.encode()) + 1 for line in lines))


class Book:
    """The answers of one model in a file. model: names its weights; router: whoever chooses the mixture."""

    def __init__(self, answers: AnswerFile, model: str, router: str = "") -> None:
        self._answers, self.model, self.router = answers, model, router

    @classmethod
    def of_bundle(cls, answers: AnswerFile, bundle: Bundle, dtype: str) -> Book:
        """Of a bundle's base with its experts, computed in ``dtype``: which router was trained for them
        changes nothing about what a mixture answers."""
        files = bundle.manifest.files
        parts = ("base/", "experts/", "shared/")
        weights = sorted((name, sha) for name, sha in files.items() if name.startswith(parts))
        router = sorted((name, sha) for name, sha in files.items() if name.startswith("router/router."))
        return cls(answers, f"{_hash(weights)} {dtype}", _hash(router))

    def get(self, item: Item, target: Target) -> Kept | None:
        """The answer to ``item`` of the weights that ``target`` names, if it is known."""
        return self._answers.get(self.model, self._asked(target), _prompt(item))

    def add(self, task: str, item: Item, target: Target, answer: Answer) -> Kept:
        """Keep an answer to one of ``task``'s prompts."""
        kept = Kept(answer.text, answer.finish_reason == "stop", dict(answer.routing.mixture))
        record = {
            "model": self.model,
            "asked": self._asked(target),
            "task": task,
            "prompt": _prompt(item),
            "mixture": kept.mixture,
            "answer": kept.text,
            "ended": kept.ended,
            "expected": item.answer,
        }
        self._answers.add(record)
        return kept

    def _asked(self, target: Target) -> str:
        if target.kind == "dynamic":
            return f"router {self.router}"
        mixture = {str(target.task): 1.0} if target.kind == "task" else snap(target.mixture or {})
        return _mixture(mixture)


def _prompt(item: Item) -> str:
    return _hash([item.messages, item.answer])


def _mixture(mixture: Mapping[str, float]) -> str:
    return json.dumps(dict(sorted(mixture.items())))


def _hash(content: object) -> str:
    # ASCII: a prompt may hold what UTF-8 cannot.
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
