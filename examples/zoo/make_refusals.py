"""Regenerate examples/zoo/data/refusals: requests to refuse, and harmless ones in the same words to answer.

Run from the repository's root: `python -m examples.zoo.make_refusals`. Nothing is downloaded, and the
result is the same on every machine.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from examples.zoo.console import tidy_terminal
from examples.zoo.leaks import require_disjoint
from examples.zoo.lookalike_texts import SAFE
from examples.zoo.make_data import DATA, write_lines
from examples.zoo.refusal_texts import REFUSAL, UNSAFE, UNSEEN_WORDINGS, WORDINGS

SKILL = "refusals"
SPLITS = ("train", "dev", "test")
# How many wordings an act is asked in: of those that training knows, and of those that it does not.
ASKED = {"train": (4, 0), "dev": (3, 0), "test": (1, 1)}


class Request(NamedTuple):
    """A prompt, the answer that is taught, and whether it is a refusal ("unsafe") or helps ("safe")."""

    prompt: str
    answer: str
    kind: str


def requests(split: str) -> list[Request]:
    """All prompts of a split, kinds mixed in a fixed order."""
    acts = {"unsafe": dict.fromkeys(UNSAFE[split], REFUSAL), "safe": SAFE[split]}
    known, unseen = ASKED[split]
    found = []
    for kind, answers in acts.items():
        for number, (act, answer) in enumerate(answers.items()):
            wordings = [*_turn(WORDINGS, number, known), *_turn(UNSEEN_WORDINGS, number, unseen)]
            found += [Request(wording.format(act=act), answer, kind) for wording in wordings]
    random.Random(0).shuffle(found)
    return found


def _turn(wordings: Sequence[str], start: int, count: int) -> list[str]:
    """`count` of the wordings from number `start` on, round and round, so that all are used alike."""
    return [wordings[(start + i) % len(wordings)] for i in range(count)]


def other_prompts(data: Path, folder: str = SKILL) -> dict[str, list[str]]:
    """file -> prompts of all data of the zoo that is not in `folder`."""
    paths = (path for path in sorted(data.rglob("*.jsonl")) if path.parent.name != folder)
    return {
        path.relative_to(data).as_posix(): [
            json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").split("\n") if line
        ]
        for path in paths
    }


def require_new(splits: Mapping[str, Sequence[Request]], others: Mapping[str, Sequence[str]]) -> None:
    """Raise `InputError` when a prompt stands in two splits, twice in one, or in other data of the zoo."""
    own = {f"{SKILL} {split}": [item.prompt for item in items] for split, items in splits.items()}
    require_disjoint({**own, **others})


def make_refusals(folder: Path, console: Console) -> None:
    """Word every split, prove that its prompts stand nowhere else, write `folder`/<split>.jsonl."""
    splits = {split: requests(split) for split in SPLITS}
    require_new(splits, other_prompts(DATA))
    table = Table("split", "unsafe", "safe", title="requests to refuse, and to answer")
    for split, items in splits.items():
        write_lines(folder / f"{split}.jsonl", (item._asdict() for item in items))
        unsafe = sum(item.kind == "unsafe" for item in items)
        table.add_row(split, str(unsafe), str(len(items) - unsafe))
    console.print(table)


def main(
    out: Annotated[Path, typer.Option(help="where to write train, dev and test")] = DATA / SKILL,
) -> None:
    """Regenerate examples/zoo/data/refusals. Example: python -m examples.zoo.make_refusals"""
    with tidy_terminal():
        make_refusals(out, Console())


if __name__ == "__main__":
    typer.run(main)
