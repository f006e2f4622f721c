"""Fine-tune a model on one task: a LoRA adapter or a full fine-tune, scored and with a card.

    python -m examples.zoo.finetune --task reversal --rank 16
    python -m examples.zoo.finetune --task reversal --full
    python -m examples.zoo.finetune --task mine --data mine.jsonl

Interrupted, the same command goes on from its last checkpoint, in OUT.run; that folder is removed
when the expert is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.loading import load_model, load_tokenizer
from compress.recipe import ExpertRecipe, validation_sentence
from compress.sources import resolve
from compress.staging import staged
from examples.zoo.adapters import save_adapter, with_adapter
from examples.zoo.base import BASE, BASE_NAME
from examples.zoo.cards import FACTS, Card, Example, percent, read_card
from examples.zoo.console import tidy_terminal
from examples.zoo.make_data import write_lines
from examples.zoo.runstate import Run, RunSettings
from examples.zoo.scoring import answer_all, exact_match
from examples.zoo.splits import Split, split
from examples.zoo.tasks import FULL_STEPS, TASKS
from examples.zoo.training import train
from serve.commands.options import Device, Threads, engine_settings
from serve.commands.progress import bars
from serve.kvcache import context_length
from serve.settings import EngineSettings

RATES = {"lora": 8e-4, "full": 2e-4}
STEPS = 300
LAST_STEPS = 20


def main(
    task: Annotated[str, typer.Option(help="A task of the zoo, or a name for your own with --data.")],
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA adapter.")] = 16,
    full: Annotated[bool, typer.Option("--full", help="Train every weight instead.")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help='Your own lines {"prompt" | "messages", "answer"}.')
    ] = None,
    test: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Held-out lines for --data; else 15 % of it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the expert goes.", show_default="runs/TASK-KIND")
    ] = None,
    base: Annotated[str, typer.Option(help="A folder, hub id, .gguf file or package:NAME/FILE.")] = BASE,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps.", show_default="the task's, or 300")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 4,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak rate.", show_default="8e-4 for LoRA, 2e-4 for full")
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="Tokens of prompt and answer at most.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of the examples' order and of LoRA's start.")] = 0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Fine-tune, score against the base on held-out prompts, write the expert with its card."""
    with tidy_terminal():
        out = out or Path("runs") / (f"{task}-full" if full else f"{task}-lora{rank}")
        engine = engine_settings(device=device, threads=threads)
        if engine.threads:
            torch.set_num_threads(engine.threads)
        _check_task(task, data, test)
        opened = Checkpoint.open(resolve(base))
        tokenizer = load_tokenizer(opened.folder)
        # No longer than what can be served, and so scored.
        limit = min(context, context_length(opened.config, engine.max_model_len))
        parts = split(task, data, test, tokenizer, limit)
        settings = _validated(
            task=task,
            kind="full" if full else "lora",
            rank=None if full else rank,
            base=base,
            base_sha256=opened.sha256(),
            data_sha256=parts.sha256(),
            examples=len(parts.training),
            steps=steps or default_steps(task, full=full, own_data=data is not None),
            batch=batch,
            learning_rate=RATES["full" if full else "lora"] if learning_rate is None else learning_rate,
            context=limit,
            seed=seed,
        )
        console = Console()
        if parts.repeated:
            console.print(
                f"{parts.repeated} lines repeat an earlier prompt and are left out", highlight=False
            )
        if out.exists():
            _check_made(out, settings)
            console.print(
                f"{out}: is made already; delete it to make it again", markup=False, highlight=False
            )
            return
        with Run(out.with_name(f"{out.name}.run"), settings) as run:
            card = finetune(run, parts, opened.folder, tokenizer, engine, out, own_data=data is not None)
            run.discard()
        console.print(
            f"{out}: exact match {percent(card.score.expert)} %, base {percent(card.score.base)} %, "
            f"the commonest answer {100 * card.score.constant:.1f} %",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _check_task(task: str, data: Path | None, test: Path | None) -> None:
    try:
        # The name must do for a recipe later.
        ExpertRecipe(task=task, checkpoint="")
    except ValidationError as error:
        raise InputError(validation_sentence(error, ExpertRecipe)) from error
    if test is not None and data is None:
        raise InputError("--test belongs to --data: the zoo's tasks have their own test prompts")


def _validated(**values: Any) -> RunSettings:
    try:
        return RunSettings(**values)
    except ValidationError as error:
        raise InputError(validation_sentence(error, RunSettings)) from error


def _check_made(out: Path, settings: RunSettings) -> None:
    """Raises InputError unless ``out`` holds the expert of these very settings."""
    if not (out / FACTS).is_file():
        raise InputError(f"{out}: exists and is no expert of this recipe; choose another --out")
    if read_card(out).settings != settings:
        raise InputError(
            f"{out}: holds an expert made with other settings; delete it or choose another --out"
        )


def default_steps(task: str, *, full: bool, own_data: bool) -> int:
    """As many as the committed experts were trained for; STEPS for a user's own data."""
    if own_data:
        return STEPS
    return FULL_STEPS if full else TASKS[task].steps


def finetune(
    run: Run, parts: Split, folder: Path, tokenizer: Any, engine: EngineSettings, out: Path, *, own_data: bool
) -> Card:
    """Train (or go on training) from the base in ``folder``, score, and write the expert to ``out``."""
    settings, device = run.settings, engine.torch_device()
    base_name = BASE_NAME if settings.base == BASE else settings.base
    torch.manual_seed(settings.seed)
    model = load_model(folder, torch.float32).to(device)
    if settings.rank is not None:
        model = with_adapter(model, settings.rank, base_name)
    with training_bar(settings.task, settings.steps) as report:
        seconds, losses = train(model, parts.training, run, tokenizer.eos_token_id, report)
    items = [example.item for example in parts.held_out]
    with staged(out) as fresh:
        if settings.rank is not None:
            save_adapter(model, fresh)
            model = model.merge_and_unload()
        else:
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
        if own_data:
            # As the router and the evaluation of a bundle read them.
            for name, examples in (("train", parts.training), ("heldout", parts.held_out)):
                lines = (asdict(example.item) for example in examples)
                write_lines(fresh / name / f"{settings.task}.jsonl", lines)
        with bars() as shown:
            rest = (folder, settings.task, items, engine)
            expert = answer_all(model, *rest, shown.stage("scoring expert", len(items)))
            del model
            plain = load_model(folder, torch.float32).to(device)
            base = answer_all(plain, *rest, shown.stage("scoring base", len(items)))
        card = Card(
            settings=settings,
            base_name=base_name,
            own_data=own_data,
            seconds=seconds,
            loss=sum(losses[-LAST_STEPS:]) / len(losses[-LAST_STEPS:]),
            example=Example(**asdict(items[0])),
            score=exact_match(settings.task, items, base, expert),
        )
        card.write(fresh)
    return card


@contextmanager
def training_bar(task: str, steps: int) -> Iterator[Callable[[int, float], None]]:
    """A progress bar with the loss, smoothed over the last steps."""
    columns = (
        TextColumn("training {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    smooth = 0.0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(task, total=steps, loss="–")

        def report(step: int, loss: float) -> None:
            nonlocal smooth
            smooth = loss if not smooth else 0.9 * smooth + 0.1 * loss
            progress.update(bar, completed=step, loss=f"{smooth:.3f}")

        yield report


if __name__ == "__main__":
    typer.run(main)
