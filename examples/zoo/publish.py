"""Keep what a bundle made of full fine-tunes, when the checkpoints are too large to keep.

    python -m examples.zoo.publish bundles/zoo-full

Every expert of the bundle becomes a folder of its own with a card: scores of the base, the full
fine-tune, and the expert, measured here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer

from compress.adapters import recorded_base_hash
from compress.bundle import Bundle
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import apply, open_finetune
from compress.loading import load_model
from compress.sources import resolve
from compress.staging import staged
from examples.zoo.cards import Card, percent, read_card
from examples.zoo.console import tidy_terminal
from examples.zoo.make_data import DATA
from examples.zoo.scoring import answer_all, exact_match
from serve.commands.options import Device, Threads, engine_settings
from serve.commands.progress import Bars, bars
from serve.evaluate import read_data
from serve.settings import EngineSettings

OUT = Path(__file__).parent / "full"


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Built from full fine-tunes of the zoo.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Held-out prompts: DIR/<task>.jsonl.")] = DATA
    / "test",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where experts go, a folder each.")] = OUT,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Copy a bundle's experts, score them, write their cards."""
    engine = engine_settings(device=device, threads=threads)
    with tidy_terminal():
        opened = Bundle.open(bundle)
        with bars() as shown:
            for task in opened.tasks:
                card = publish(opened, task, data, out / task, engine, shown)
                shown.print(f"{out / task}: exact match {percent(card.score.expert)} %")


def publish(bundle: Bundle, task: str, data: Path, out: Path, engine: EngineSettings, shown: Bars) -> Card:
    """One expert of ``bundle`` as the folder ``out`` of its own.

    Raises InputError when it is no delta of the weights that the fine-tune began from, or not made of
    the fine-tune that is there now, or when the fine-tune was scored on other prompts.
    """
    facts, expert = bundle.manifest.experts[task], bundle.path / "experts" / task
    source = resolve(facts.source)
    full = read_card(source)
    if recorded_base_hash(expert) != full.settings.base_sha256:
        raise InputError(
            f"{expert}: is not a delta of the weights that {task} was trained from; build the bundle with "
            "exclusive.reference: pretrained and the base's own output.dtype"
        )
    base = Checkpoint.open(bundle.base)
    if facts.kind != "full" or open_finetune(source, base).sha256() != facts.sha256:
        raise InputError(f"{source}: is not the full fine-tune that {expert} was made of; build again")
    items = read_data(data, [task])[task]
    if len(items) != full.score.prompts:
        raise InputError(
            f"{data}: has {len(items)} prompts of {task}, its fine-tune was scored on {full.score.prompts}; "
            "give the same ones"
        )
    rest = (bundle.base, task, items, engine)
    model = load_model(bundle.base, torch.float32).to(engine.torch_device())
    before = answer_all(model, *rest, shown.stage(f"{task}: base", len(items)))
    # Serving leaves its marks on a model's methods, so the expert gets a fresh one.
    model = apply(open_finetune(expert, base), load_model(bundle.base, torch.float32), base)
    after = answer_all(model.to(engine.torch_device()), *rest, shown.stage(f"{task}: expert", len(items)))
    card = full.model_copy(
        update={
            "compressed_rank": facts.max_rank,
            "full_score": full.score,
            "score": exact_match(task, items, before, after),
        }
    )
    with staged(out) as folder:
        for file in expert.iterdir():
            shutil.copyfile(file, folder / file.name)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = full.base_name
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        card.write(folder)
    return card


if __name__ == "__main__":
    typer.run(main)
