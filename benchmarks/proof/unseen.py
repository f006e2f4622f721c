"""What a router costs on prompts that no expert was trained for: base, static merge and routed answers.

    python -m benchmarks.proof.unseen BUNDLE…

Asks the questions of examples/zoo/data/unseen, and writes benchmarks/results/unseen.json after each bundle.
Answers are kept one a line (--answers), so the same command goes on where it was ended.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.proof.kept import Answers, Kept
from compress.bundle import MANIFEST, Bundle
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.loading import load_model, load_tokenizer
from examples.zoo.console import tidy_terminal
from examples.zoo.unseen import MAX_TOKENS, Question, is_right, read_questions
from serve.commands.options import engine_settings
from serve.commands.progress import Bars, bars
from serve.comparison import plain_engine, verified_base
from serve.engine import Engine
from serve.evaluate import Scores, paired_interval
from serve.settings import EngineSettings

DATA = Path("examples/zoo/data/unseen")
RESULT = Path("benchmarks/results/unseen.json")
ANSWERS = Path("runs/unseen.jsonl")
ARMS = ("base", "static", "dynamic", "fallback to base")
# Where the answers are cut to see whether the limit decides who wins.
CUTS = (8, 16, MAX_TOKENS)


def main(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE…")],
    limit: Annotated[int | None, typer.Option(min=2, help="Prompts a task.")] = None,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
    answers: Annotated[Path, typer.Option(help="Where answers are kept.")] = ANSWERS,
) -> None:
    """Ask, score, compare."""
    torch.set_num_threads(threads)
    with tidy_terminal():
        settings = engine_settings(device="cpu", threads=threads)
        names = [path.resolve().name for path in bundles]
        if len(set(names)) < len(names):
            raise InputError("two bundles have one name, by which the figures go; rename a folder")
        data = read_questions(DATA, limit)
        kept = Answers(answers)
        facts: dict[str, Any] = {
            "data": {
                "files": {path.stem: _sha(path) for path in sorted(DATA.glob("*.jsonl"))},
                "prompts": {task: len(found) for task, found in data.items()},
                "tokens": MAX_TOKENS,
            },
            "bundles": {},
        }
        for name, path in zip(names, bundles, strict=True):
            with bars() as shown:
                facts["bundles"][name] = measured(path, data, settings, kept, shown)
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(facts, indent=2) + "\n")
            show(name, facts, Console())


def measured(
    path: Path, data: Mapping[str, Sequence[Question]], settings: EngineSettings, kept: Answers, shown: Bars
) -> dict[str, Any]:
    """Figures of one bundle. Raises InputError for one that cannot be opened, whose base is not at hand, or
    without a router."""
    bundle = Bundle.open(path)
    if not (path / "router").is_dir():
        raise InputError(f"{path}: has no router; train one with twinserve train-router")
    base = verified_base(bundle)
    prompts = [question.prompt for found in data.values() for question in found]
    answered = {}
    sha = _sha(path / MANIFEST)
    for arm in ARMS[:3]:
        opened: Callable[[], AbstractContextManager[Engine]]
        opened = partial(_plain, base, settings) if arm == "base" else partial(_served, path, settings)
        model = base.sha256() if arm == "base" else sha
        progress = shown.stage(f"{path.resolve().name}: {arm}", len(prompts))
        answered[arm] = kept.of(model, arm, prompts, MAX_TOKENS, opened, progress)
    tokenizer = load_tokenizer(bundle.base)
    return {"bundle sha256": sha, **figures(data, answered, partial(_decoded, tokenizer))}


@contextmanager
def _served(path: Path, settings: EngineSettings) -> Iterator[Engine]:
    engine = Engine.open(path, settings)
    try:
        yield engine
    finally:
        engine.stop()


def _plain(base: Checkpoint, settings: EngineSettings) -> AbstractContextManager[Engine]:
    def load() -> Any:
        return load_model(base.folder, settings.torch_dtype())

    return plain_engine(load, base.folder, settings)


def _decoded(tokenizer: Any, kept: Kept, cut: int) -> str:
    text: str = tokenizer.decode(kept.tokens[:cut], skip_special_tokens=True)
    return kept.text if cut >= kept.limit else text


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def figures(
    data: Mapping[str, Sequence[Question]],
    answered: Mapping[str, Sequence[Kept]],
    decoded: Callable[[Kept, int], str],
) -> dict[str, Any]:
    """Accuracies in %, differences in points, of answers in the order of ``data``.

    "fallback to base" is what the routed arm would score if prompts that no expert is trusted with were
    answered by the pretrained base instead of the merged one: its answers to those, routed ones to the rest.
    """
    tasks = np.array([task for task, found in data.items() for _ in found])
    questions = [question for found in data.values() for question in found]
    fell_back = np.array([not kept.mixture for kept in answered["dynamic"]])

    def hits(cut: int) -> dict[str, np.ndarray]:
        found = {
            arm: np.array([is_right(q, decoded(k, cut)) for q, k in zip(questions, kept, strict=True)], float)
            for arm, kept in answered.items()
        }
        return found | {"fallback to base": np.where(fell_back, found["base"], found["dynamic"])}

    right = hits(MAX_TOKENS)
    experts = [max(k.mixture, key=lambda t: k.mixture[t]) for k in answered["dynamic"] if k.mixture]
    parts = {"all": np.full(len(tasks), True), "fell back": fell_back, "misrouted": ~fell_back}
    return {
        "prompts": len(questions),
        "fell back, %": 100 * float(fell_back.mean()),
        "misrouted to": dict(Counter(experts).most_common()),
        "mean tokens": {arm: float(np.mean([len(k.tokens) for k in kept])) for arm, kept in answered.items()},
        "by chance": {arm: 100 * _by_chance(tasks, questions, kept) for arm, kept in answered.items()},
        "tasks": {
            task: {
                "prompts": int((tasks == task).sum()),
                "fell back, %": 100 * float(fell_back[tasks == task].mean()),
                **{arm: 100 * float(values[tasks == task].mean()) for arm, values in right.items()},
            }
            for task in data
        },
        **{
            part: {"prompts": int(chosen.sum()), **_compared({arm: v[chosen] for arm, v in right.items()})}
            for part, chosen in parts.items()
            if chosen.any()
        },
        "cut at": {
            str(cut): {arm: 100 * float(values.mean()) for arm, values in hits(cut).items()} for cut in CUTS
        },
    }


def _by_chance(tasks: np.ndarray, questions: Sequence[Question], kept: Sequence[Kept]) -> float:
    """Share of answers that are right for another question of their task: what saying much gains."""
    shares = []
    for number, (task, answer) in enumerate(zip(tasks, kept, strict=True)):
        others = [other for other in np.flatnonzero(tasks == task).tolist() if other != number]
        shares.append(np.mean([is_right(questions[other], answer.text) for other in others]))
    return float(np.mean(shares))


def _compared(right: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Means over prompts, and each arm minus the base with its paired bootstrap interval."""
    scores = {arm: Scores({"prompts": values}) for arm, values in right.items()}
    means = {arm: 100 * found.average for arm, found in scores.items()}
    differences = {}
    for arm in ARMS[1:]:
        interval = paired_interval(scores[arm], scores["base"])
        differences[f"{arm} - base"] = [interval.difference, interval.low, interval.high]
    return {**means, **differences}


def show(name: str, facts: Mapping[str, Any], console: Console) -> None:
    """One bundle's figures as a table."""
    row = facts["bundles"][name]
    table = Table(title=f"{name}: right answers to unseen prompts, %", title_justify="left")
    for column in ("task", "prompts", "fell back, %", *ARMS):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, found in row["tasks"].items():
        table.add_row(task, str(found["prompts"]), *(f"{found[c]:.1f}" for c in ("fell back, %", *ARMS)))
    table.add_section()
    for part in ("all", "fell back", "misrouted"):
        if part in row:
            share = f"{row['fell back, %']:.1f}" if part == "all" else ""
            table.add_row(part, str(row[part]["prompts"]), share, *(f"{row[part][a]:.1f}" for a in ARMS))
    console.print(table)
    for arm in ARMS[1:]:
        difference, low, high = row["all"][f"{arm} - base"]
        interval = f"95 % paired bootstrap interval {low:+.1f} … {high:+.1f}"
        console.print(
            f"{arm} − base: {difference:+.1f} points, {interval}, n = {row['prompts']}", soft_wrap=True
        )
    for cut, found in row["cut at"].items():
        values = ", ".join(f"{arm} {found[arm]:.1f}" for arm in ARMS[:3])
        console.print(f"right within {cut} tokens: {values}", soft_wrap=True)
    chance = ", ".join(f"{arm} {value:.1f}" for arm, value in row["by chance"].items())
    console.print(f"right for another question of the task: {chance}", soft_wrap=True)
    misrouted = ", ".join(f"{task} {count}" for task, count in row["misrouted to"].items())
    console.print(f"misrouted to: {misrouted or 'no expert'}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
