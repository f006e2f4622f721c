"""Greedy answers that outlive the run that computed them: one line an answer, written as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from serve.engine import Engine
from serve.prompts import file_ids
from serve.request import GenerationRequest, SamplingParams, Target

# What a killed run loses at most; a batch of the engine has 16 rows, which this keeps full most of the time.
CHUNK = 48


@dataclass(frozen=True)
class Kept:
    """One answer. model: sha256 of the weights that were asked. arm: "base", "static" or "dynamic".
    tokens: its ids, at most ``limit``. mixture: task -> weight, empty = the shared base."""

    model: str
    arm: str
    limit: int
    prompt: str
    text: str
    tokens: list[int]
    mixture: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int, str]:
        return self.model, self.arm, self.limit, self.prompt


class Answers:
    """The file of kept answers. A line that a kill cut short is left out and asked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[tuple[str, str, int, str], Kept] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        for line in filter(None, whole.split("\n")):
            kept = Kept(**json.loads(line))
            self._found[kept.key] = kept
        if whole != text:
            path.write_text(whole, encoding="utf-8")

    def of(
        self,
        model: str,
        arm: str,
        prompts: Sequence[str],
        limit: int,
        opened: Callable[[], AbstractContextManager[Engine]],
        progress: Callable[[], None],
    ) -> list[Kept]:
        """Answers of at most ``limit`` tokens in the order of ``prompts``; ``opened`` gives the engine, and
        is not called when all are kept. Arm "dynamic" is routed; any other is the model itself."""
        missing = [p for p in prompts if (model, arm, limit, p) not in self._found]
        for _ in range(len(prompts) - len(missing)):
            progress()
        if missing:
            with opened() as engine:
                for start in range(0, len(missing), CHUNK):
                    asked = missing[start : start + CHUNK]
                    self._keep(ask(engine, model, arm, asked, limit, progress))
        return [self._found[model, arm, limit, p] for p in prompts]

    def _keep(self, answers: Sequence[Kept]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(asdict(kept), ensure_ascii=False) + "\n" for kept in answers)
        self._found |= {kept.key: kept for kept in answers}


def ask(
    engine: Engine, model: str, arm: str, prompts: Sequence[str], limit: int, progress: Callable[[], None]
) -> list[Kept]:
    """Greedy answers of one arm, batched."""
    target = Target("dynamic" if arm == "dynamic" else "static")
    params = SamplingParams(max_tokens=limit)
    requests = [
        GenerationRequest(file_ids(engine.tokenizer, [{"role": "user", "content": p}]), params, target, (p,))
        for p in prompts
    ]
    return [
        Kept(model, arm, limit, prompt, answer.text, list(answer.token_ids), dict(answer.routing.mixture))
        for prompt, answer in zip(prompts, engine.generate(requests, progress), strict=True)
    ]
