"""Time of one optimiser step: the zoo's short loop beside transformers' Trainer, in one run.

    python -m benchmarks.finetune_loop

Both train the same LoRA adapter on the same examples, in turns, so that a noisy machine hits both.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch.optim import AdamW

from compress.loading import load_model, load_tokenizer
from compress.sources import resolve
from examples.zoo.adapters import with_adapter
from examples.zoo.base import BASE, BASE_NAME
from examples.zoo.encoding import IGNORED, Example, collate
from examples.zoo.runstate import trainable
from examples.zoo.splits import split
from examples.zoo.training import optimiser_step

RESULT = Path("benchmarks/results/finetune_loop.json")
RANK, BATCH, RATE = 16, 4, 8e-4


def main(
    task: Annotated[str, typer.Option(help="Whose training prompts.")] = "tweets",
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps a turn.")] = 6,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Print and write seconds a step of both, and their ratio."""
    folder = resolve(BASE)
    tokenizer = load_tokenizer(folder)
    examples = split(task, None, None, tokenizer, 1024).training[: steps * BATCH]
    turns = {
        "loop": loop_turn(adapted(folder), examples, tokenizer.eos_token_id),
        "Trainer": trainer_turn(adapted(folder), examples, tokenizer.eos_token_id),
    }
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    # The first round warms up memory and kernels and does not count.
    for number in range(rounds + 1):
        for name, turn in turns.items():
            taken = turn()
            if number:
                seconds[name] += taken
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures: dict[str, Any] = {
        "task": task,
        "threads": torch.get_num_threads(),
        "seconds_per_step": medians,
        "all": seconds,
        "trainer_over_loop": medians["Trainer"] / medians["loop"],
    }
    for name, value in medians.items():
        Console().print(f"{name:<8}{value:6.2f} s a step", highlight=False)
    Console().print(f"Trainer takes {figures['trainer_over_loop']:.2f} times as long", highlight=False)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


def adapted(folder: Path) -> Any:
    """A fresh adapter to train."""
    torch.manual_seed(0)
    return with_adapter(load_model(folder, torch.float32), RANK, BASE_NAME)


def loop_turn(model: Any, examples: list[Example], padding: int) -> Callable[[], list[float]]:
    """Seconds of each of the loop's own steps over the examples."""
    optimizer = AdamW(trainable(model).values(), lr=RATE, weight_decay=0.0)

    def turn() -> list[float]:
        taken = []
        for start in range(0, len(examples), BATCH):
            began = time.perf_counter()
            optimiser_step(model, collate(examples[start : start + BATCH], padding), optimizer)
            taken.append(time.perf_counter() - began)
        return taken

    return turn


def trainer_turn(model: Any, examples: list[Example], padding: int) -> Callable[[], list[float]]:
    """Seconds of each of Trainer's steps on the same batches, with labels on the answers alone. Only from
    a step's beginning to its end: neither making the Trainer nor its loading of data counts."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.taken: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.taken.append(time.perf_counter() - self.began)

    def whole(rows: list[Example]) -> dict[str, torch.Tensor]:
        batch = collate(rows, padding)
        labels = torch.full_like(batch.ids, IGNORED)
        labels[:, -batch.labels.shape[1] :] = batch.labels
        return {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "position_ids": batch.positions,
            "labels": labels,
        }

    def turn() -> list[float]:
        watch = Watch()
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                num_train_epochs=1,
                learning_rate=RATE,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                train_sampling_strategy="sequential",
            )
            Trainer(
                model=model, args=arguments, train_dataset=examples, data_collator=whole, callbacks=[watch]
            ).train()
        return watch.taken

    return turn


if __name__ == "__main__":
    typer.run(main)
