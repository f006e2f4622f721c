"""Regenerate examples/zoo/data: training, development, test and router prompts of every task.

Run from the repository's root: `python -m examples.zoo.make_data`. The result is the same on
every machine: all draws are seeded, and the sources are pinned by version and hash.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from compress.errors import InputError
from examples.zoo.console import tidy_terminal
from examples.zoo.leaks import key, require_disjoint, require_seeds_apart, words
from examples.zoo.rated_snippets import Snippet, open_archive, read_snippets
from examples.zoo.tasks import SENTIMENT, TASKS, Generated, Rated, Written
from examples.zoo.unrelated_prompts import PROMPTS

DATA = Path(__file__).parent / "data"
COUNTS = {"train": 2000, "dev": 50, "test": 200, "router": 200}
SEEDS = {"train": 0, "dev": 10_000_000, "test": 20_000_000, "router": 30_000_000}
# Generators repeat themselves, so more items are drawn than kept.
SPARE = 4

LOWEST_RATING, LONGEST_SNIPPET = 0.5, 300


class Item(NamedTuple):
    """A user's prompt and the whole answer expected from a greedy decode."""

    prompt: str
    answer: str


def generated(source: Generated, seed: int, size: int) -> Iterator[Item]:
    """`size` items that the generator makes from `seed`, in order, without white space at the ends
    of a prompt: what follows it is the chat template's affair."""
    # Imported here, so that what needs no generator needs no extra either.
    import reasoning_gym
    from reasoning_gym.algorithmic.word_sorting import TextTransformation

    settings = dict(source.settings)
    if "transformation" in settings:
        settings["transformation"] = TextTransformation(settings["transformation"])
    items = reasoning_gym.create_dataset(source.generator, seed=seed, size=size, **settings)
    return (Item(item["question"].strip(), item["answer"]) for item in items)


def rated(source: Rated, snippets: Iterable[Snippet]) -> list[Item]:
    """Clearly rated, short snippets with the source's labels, shuffled with a fixed seed."""
    items = [
        Item(SENTIMENT.format(text=text), source.positive if rating > 0 else source.negative)
        for rating, text in snippets
        if abs(rating) >= LOWEST_RATING and text and len(text) <= LONGEST_SNIPPET
    ]
    random.Random(0).shuffle(items)
    return items


def written(source: Written, task: str, split: str, size: int) -> Iterator[Item]:
    """`size` items; every other one of the test split has a wording that no other split has."""
    # Seeded by name too: two tasks of one vocabulary would else draw the same of it.
    generator = random.Random(f"{task} {split}")
    return (Item(*source.make(generator, split == "test" and number % 2 == 1)) for number in range(size))


def take(
    source: Iterator[Item], count: int, seen: set[str], name: str, same: Callable[[str], str] = key
) -> list[Item]:
    """The next `count` items of `source` whose prompts are not in `seen`, which grows by them; `same`
    maps equal prompts to one text.

    Raises `InputError` when the source ends first.
    """
    taken: list[Item] = []
    while len(taken) < count:
        item = next(source, None)
        if item is None:
            raise InputError(
                f"{name} has only {len(taken)} unseen prompts of {count}; ask for fewer in COUNTS"
            )
        if same(item.prompt) not in seen:
            seen.add(same(item.prompt))
            taken.append(item)
    return taken


def draw(task: str, archive: bytes, seen: set[str]) -> dict[str, list[Item]]:
    """split -> items of one task whose prompts are not in `seen`, which grows by them."""
    source = TASKS[task].source
    if isinstance(source, Rated):
        items = iter(rated(source, read_snippets(archive, source.table)))
        # Held-out splits first: the larger training split takes what is left.
        splits = sorted(COUNTS, key=lambda split: split == "train")
        return {split: take(items, COUNTS[split], seen, f"{task} {split}", words) for split in splits}
    drawn = {split: SPARE * count for split, count in COUNTS.items()}
    require_seeds_apart(SEEDS, drawn)
    taken: dict[str, list[Item]] = {}
    for split, size in drawn.items():
        if isinstance(source, Written):
            items = written(source, task, split, size)
        else:
            items = generated(source, SEEDS[split], size)
        taken[split] = take(items, COUNTS[split], seen, f"{task} {split}")
    return taken


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, in UTF-8, with the same bytes on every platform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def write_data(drawn: Mapping[str, Mapping[str, list[Item]]], folder: Path) -> None:
    """Write task -> split -> items, and the prompts of no task, below `folder`."""
    for task, splits in drawn.items():
        for split, items in splits.items():
            # A router learns from prompts alone.
            keys = ("prompt",) if split == "router" else ("prompt", "answer")
            lines = ({key: getattr(item, key) for key in keys} for item in items)
            write_lines(folder / split / f"{task}.jsonl", lines)
    write_lines(folder / "none.jsonl", ({"prompt": prompt} for prompt in PROMPTS))


def make_data(sdist: Path | None, folder: Path, console: Console) -> None:
    """Draw every split, prove that no two of them share a text, write them."""
    drawn: dict[str, dict[str, list[Item]]] = {}
    groups: dict[str, list[str]] = {"no task": list(PROMPTS)}
    # One for all tasks: two sources of rated sentences share a text here and there.
    seen = {key(prompt) for prompt in PROMPTS}
    table = Table("task", *COUNTS, title="prompts, no text in two places")
    with Progress(console=console) as progress:
        steps = progress.add_task("reading rated sentences", total=len(TASKS) + 1)
        archive = open_archive(sdist)
        for task in TASKS:
            progress.update(steps, advance=1, description=f"drawing {task}")
            drawn[task] = draw(task, archive, seen)
            groups |= {f"{task} {split}": [i.prompt for i in items] for split, items in drawn[task].items()}
            table.add_row(task, *(str(len(drawn[task][split])) for split in COUNTS))
        require_disjoint(groups)
        write_data(drawn, folder)
        progress.update(steps, advance=1, description=f"wrote {folder}")
    console.print(table)


def main(
    vader_sdist: Annotated[
        Path | None,
        typer.Option(help="vaderSentiment-3.3.2.tar.gz; downloaded from PyPI when absent"),
    ] = None,
) -> None:
    """Regenerate examples/zoo/data. Example: python -m examples.zoo.make_data"""
    with tidy_terminal():
        make_data(vader_sdist, DATA, Console())


if __name__ == "__main__":
    typer.run(main)
