"""Regenerate examples/zoo/data: test, dev and router prompts of the zoo's three tasks.

Run from the repository's root: `python -m examples.zoo.make_data`. The result is the same on
every machine: all draws are seeded, and the sources are pinned by version and hash.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from compress.errors import InputError
from examples.zoo.movie_snippets import Snippet, fetch_snippets
from examples.zoo.unrelated_prompts import PROMPTS

DATA = Path(__file__).parent / "data"
COUNTS = {"test": 150, "dev": 40, "router": 150}
GENERATORS = {"reversal": "word_sequence_reversal", "family": "family_relationships"}
TASKS = ("sentiment", *GENERATORS)

# reasoning-gym builds item i of seed s from s + i: seeds must lie further apart than the sizes.
SEEDS = {"test": 10_000_000, "dev": 20_000_000, "router": 30_000_000}
TRAINING_SEED, TRAINING_SIZE = 1, 4_000

LOWEST_RATING, LONGEST_SNIPPET, TRAINING_SHARE = 0.5, 300, 0.85
QUESTION = "Is the sentiment of this movie review positive or negative?"


class Item(NamedTuple):
    """A user's prompt and the whole answer expected from a greedy decode."""

    prompt: str
    answer: str


Splits = dict[str, dict[str, list[Item]]]


def key(prompt: str) -> str:
    """What makes two prompts the same text: all but letter case and white space."""
    return " ".join(prompt.split()).casefold()


def generated(task: str, seed: int, size: int) -> list[Item]:
    """`size` items that reasoning-gym's generator for `task` makes from `seed`, in order.

    Questions are stripped, as in the experts' training: after the line feed that ends a reversal
    question, the expert often ends its answer with one as well, which no exact match forgives.
    """
    # Imported here, so that what needs no generator needs no extra either.
    import reasoning_gym

    items = reasoning_gym.create_dataset(GENERATORS[task], seed=seed, size=size)
    return [Item(item["question"].strip(), item["answer"]) for item in items]


def sentiment_items(snippets: Iterable[Snippet]) -> tuple[list[Item], list[Item]]:
    """Clearly rated snippets as (those that the expert's training drew from, the others)."""
    items = [
        Item(f"{QUESTION}\n{text}", "positive" if rating > 0 else "negative")
        for rating, text in snippets
        if abs(rating) >= LOWEST_RATING and len(text) <= LONGEST_SNIPPET
    ]
    random.Random(0).shuffle(items)
    cut = int(len(items) * TRAINING_SHARE)
    return items[:cut], items[cut:]


def take(source: Iterator[Item], count: int, seen: set[str], name: str) -> list[Item]:
    """The next `count` items of `source` whose prompts are not in `seen`, which grows by them.

    Raises `InputError` when the source ends first.
    """
    taken: list[Item] = []
    while len(taken) < count:
        item = next(source, None)
        if item is None:
            raise InputError(
                f"{name} has only {len(taken)} unseen prompts of {count}; ask for fewer in COUNTS"
            )
        if key(item.prompt) not in seen:
            seen.add(key(item.prompt))
            taken.append(item)
    return taken


def draw_generated(task: str) -> tuple[list[Item], dict[str, list[Item]]]:
    """(training items of the expert, split -> items) of a task that reasoning-gym generates."""
    training = generated(task, TRAINING_SEED, TRAINING_SIZE)
    seen = {key(item.prompt) for item in training}
    splits = {}
    for split, count in COUNTS.items():
        spare = generated(task, SEEDS[split], 4 * count)
        splits[split] = take(iter(spare), count, seen, f"{task} {split}")
    return training, splits


def draw_sentiment(snippets: Iterable[Snippet]) -> tuple[list[Item], dict[str, list[Item]]]:
    """(items the expert's training drew from, split -> items) of the movie reviews."""
    training, held_out = sentiment_items(snippets)
    seen = {key(item.prompt) for item in training}
    source = iter(held_out)
    splits = {split: take(source, count, seen, f"sentiment {split}") for split, count in COUNTS.items()}
    return training, splits


def require_disjoint(groups: Mapping[str, Iterable[str]]) -> None:
    """Raise `InputError` when a prompt stands in two of the groups, or twice outside training.

    Training repeats a few texts of its own source, which leaks nothing.
    """
    owner: dict[str, str] = {}
    for name, prompts in groups.items():
        own = [key(prompt) for prompt in prompts]
        unique = set(own)
        if len(unique) < len(own) and not name.endswith(" training"):
            raise InputError(f"{name} holds a prompt twice; draw it again without repeats")
        for text in sorted(unique):
            if text in owner:
                raise InputError(
                    f"{name} and {owner[text]} share the prompt {text[:80]!r}; remove it from one of them"
                )
            owner[text] = name


def write_lines(path: Path, records: Iterable[Mapping[str, str]]) -> None:
    """Write one JSON object a line, in UTF-8, with the same bytes on every platform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def write_data(drawn: Splits, folder: Path) -> None:
    """Write task -> split -> items, and the prompts of no task, below `folder`."""
    for task, splits in drawn.items():
        for split in ("test", "dev"):
            lines = (item._asdict() for item in splits[split])
            write_lines(folder / split / f"{task}.jsonl", lines)
    routed = (
        {"task": task, "prompt": item.prompt} for task, splits in drawn.items() for item in splits["router"]
    )
    write_lines(folder / "router.jsonl", routed)
    write_lines(folder / "none.jsonl", ({"prompt": prompt} for prompt in PROMPTS))


def make_data(sdist: Path | None, folder: Path, console: Console) -> None:
    """Draw every split, prove that they share no text with training or each other, write them."""
    drawn: Splits = {}
    groups: dict[str, list[str]] = {"no task": list(PROMPTS)}
    table = Table("task", "training", *COUNTS, title="prompts without a text in common")
    with Progress(console=console) as progress:
        steps = progress.add_task("reading movie reviews", total=len(TASKS) + 1)
        snippets = fetch_snippets(sdist)
        for task in TASKS:
            progress.update(steps, advance=1, description=f"drawing {task}")
            training, splits = draw_sentiment(snippets) if task == "sentiment" else draw_generated(task)
            drawn[task] = splits
            groups[f"{task} training"] = [item.prompt for item in training]
            for split, items in splits.items():
                groups[f"{task} {split}"] = [item.prompt for item in items]
            table.add_row(task, str(len(training)), *(str(len(splits[s])) for s in COUNTS))
        require_disjoint(groups)
        write_data(drawn, folder)
        progress.update(steps, advance=1, description=f"wrote {folder}")
    table.add_row("no task", "", str(len(PROMPTS)), "", "")
    console.print(table)


def main(
    vader_sdist: Annotated[
        Path | None,
        typer.Option(help="vaderSentiment-3.3.2.tar.gz; downloaded from PyPI when absent"),
    ] = None,
) -> None:
    """Regenerate examples/zoo/data. Example: python -m examples.zoo.make_data"""
    console = Console()
    try:
        make_data(vader_sdist, DATA, console)
    except InputError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
