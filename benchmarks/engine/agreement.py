"""How many greedy tokens of each contender are those of transformers with the merged model.

    python -m benchmarks.engine.agreement --vllm-python ENV/bin/python --llamacpp-python ENV/bin/python

A contender that computes something else must not be compared. One real prompt of each task is answered by
its expert, all prompts in one batch; then all of them by one soft mixture. The truth comes from PEFT's own
merge_and_unload(), and for the soft mixture from dense weights.
"""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import PeftModel
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from benchmarks.engine import batches
from benchmarks.engine.contenders import CONTENDERS, Setting, load
from benchmarks.engine.models import bundle
from benchmarks.engine.protocol import Request, Workload, refusal
from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.loading import first_line, load_model, load_tokenizer
from serve.prompts import chat_ids

PROMPTS = Path("examples/zoo/data/test")
NEW_TOKENS = 32


def main(
    threads: Annotated[int, typer.Option(min=1, help="Threads of each contender.")] = 2,
    contender: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(CONTENDERS)}.")] = None,
    vllm_python: Annotated[Path | None, typer.Option(help="Python with vLLM.")] = None,
    llamacpp_python: Annotated[Path | None, typer.Option(help="Python with llama-cpp-python.")] = None,
    folder: Annotated[Path, typer.Option(help="Bundles, conversions and logs.")] = Path("runs/engine"),
) -> None:
    """Print, for each contender, how many leading tokens of each answer agree."""
    disable_progress_bar()
    torch.set_num_threads(threads)
    opened = bundle("smollm2", folder)
    prompts = [real_prompt(opened, task) for task in opened.tasks]
    even = {task: 1 / len(opened.tasks) for task in opened.tasks}
    workloads: dict[str, Workload] = {
        "one expert": [Request(p, NEW_TOKENS, {t: 1.0}) for t, p in zip(opened.tasks, prompts, strict=True)],
        "soft mixture": [Request(p, NEW_TOKENS, even) for p in prompts],
    }
    mixed = composed(opened, even)
    truths = {
        "one expert": [
            greedy(merged(opened, task), prompt) for task, prompt in zip(opened.tasks, prompts, strict=True)
        ],
        "soft mixture": [greedy(mixed, prompt) for prompt in prompts],
    }
    length = max(map(len, prompts)) + NEW_TOKENS
    setting = Setting(opened, folder, len(prompts), threads, length, vllm_python, llamacpp_python)
    # What serves one model alone has no expert to agree with.
    names = contender or ["twinserve", "peft", "reference", "vllm", "llamacpp"]
    screen = Console(highlight=False, markup=False, soft_wrap=True)
    made, failures = load(setting, names)
    for name, failure in failures.items():
        screen.print(f"{name}: {failure}")
    for one in made:
        for kind, requests in workloads.items():
            if reason := refusal(one, requests):
                screen.print(f"{one.name}, {kind}: {reason}")
                continue
            try:
                outputs = one.run(requests).outputs
            except Exception as error:
                screen.print(f"{one.name}, {kind}: {first_line(error)}")
                continue
            equal = [agreeing(a, b) for a, b in zip(outputs, truths[kind], strict=True)]
            total = NEW_TOKENS * len(equal)
            screen.print(f"{one.name}, {kind}: {sum(equal)} of {total} tokens agree {equal}")
        one.close()


def real_prompt(opened: Bundle, task: str) -> list[int]:
    """The first test prompt of ``task`` in the chat template."""
    line = json.loads((PROMPTS / f"{task}.jsonl").read_text().splitlines()[0])
    messages = line.get("messages") or [{"role": "user", "content": line["prompt"]}]
    return chat_ids(load_tokenizer(opened.base), messages)


def merged(opened: Bundle, task: str) -> Any:
    """One expert as PEFT itself puts it into the base."""
    base: Any = load_model(opened.base, torch.float32)
    return PeftModel.from_pretrained(base, str(opened.path / "experts" / task)).merge_and_unload()


def composed(opened: Bundle, mixture: dict[str, float]) -> Any:
    return load_composed(opened, factor_weights(mixture, opened.carried, opened.scalings))


def greedy(model: Any, prompt: list[int]) -> list[int]:
    tokens, _ = batches.generate(batches.never_ending(model), [Request(prompt, NEW_TOKENS)])
    return tokens[0]


def agreeing(first: list[int], second: list[int]) -> int:
    """Tokens until the first that differs: what follows answers another text."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=True)))


if __name__ == "__main__":
    typer.run(main)
