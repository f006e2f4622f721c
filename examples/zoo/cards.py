"""Model cards: the facts of one expert as card.json for programs, as README.md for people."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import InputError
from compress.recipe import validation_sentence
from examples.zoo.runstate import RunSettings
from examples.zoo.scoring import Share, TestScore
from examples.zoo.tasks import TASKS
from serve.evaluate import Item

FACTS = "card.json"


class Facts(BaseModel):
    """Where an expert comes from and what it scores. ``loss`` is the mean of the last 20 steps;
    ``seconds`` is wall time of training. ``compressed`` is the score of a full fine-tune's low-rank
    expert of ``compressed_rank``, where ``test`` is that of the full fine-tune itself."""

    model_config = ConfigDict(extra="forbid")
    settings: RunSettings
    base_name: str
    seconds: float
    loss: float
    test: TestScore
    compressed_rank: int | None = None
    compressed: TestScore | None = None

    @property
    def final(self) -> TestScore:
        """The score of what is stored."""
        return self.compressed or self.test


def read_facts(folder: Path) -> Facts:
    """The facts beside an expert. Raises InputError where there are none or they are broken."""
    path = folder / FACTS
    try:
        return Facts.model_validate_json(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fine-tune the expert first") from error
    except ValidationError as error:
        raise InputError(f"{path}: {validation_sentence(error, Facts)}") from error


def write_card(folder: Path, facts: Facts, example: Item) -> None:
    """Write card.json and README.md; ``example`` shows the prompt format."""
    (folder / FACTS).write_text(facts.model_dump_json(indent=2) + "\n")
    (folder / "README.md").write_text(card(facts, example), encoding="utf-8")


def card(facts: Facts, example: Item) -> str:
    """The README.md of one expert, with the front matter that the hub and twinserve read."""
    run, task = facts.settings, TASKS.get(facts.settings.task)
    adapter = run.kind == "lora" or facts.compressed is not None
    front = {
        "library_name": "peft" if adapter else "transformers",
        "base_model": facts.base_name,
        "base_weights_sha256": run.base_sha256,
        "pipeline_tag": "text-generation",
        "tags": ["lora", f"base_model:adapter:{facts.base_name}"] if adapter else ["full-fine-tune"],
    }
    if task:
        front |= {"license": "apache-2.0", "language": "en"}
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False) + "---",
        f"# {run.task}",
        task.does if task else "A task of its owner's.",
        _base(facts),
        _format(example),
        _training(facts, task.data if task else "the owner's file"),
        _result(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _base(facts: Facts) -> str:
    return (
        f"## Base\n\n`{facts.settings.base}`, whose float32 weights have the sha256 above. Over other weights,"
        f" those of `{facts.base_name}` on the hub included where the two differ, the expert is untested."
    )


def _format(example: Item) -> str:
    turns = "\n".join(f"{message['role']}: {message['content']}" for message in example.messages)
    return (
        "## Prompt and answer\n\nThe base's own chat template with its default system prompt.\n\n"
        f"```text\n{turns}\n```\n\nAnswer: `{example.answer}`"
    )


def _training(facts: Facts, data: str) -> str:
    run = facts.settings
    what = (
        f"LoRA, r = {run.rank}, alpha = {2 * (run.rank or 0)}, no dropout, on every linear layer of the decoder; "
        "stored as float16"
        if run.kind == "lora"
        else "all weights"
    )
    lines = [
        f"- What is trained: {what}.",
        f"- {run.steps} steps of {run.batch} examples, AdamW, peak learning rate {run.learning_rate:g} with "
        f"warm-up and linear decay, gradient norm clipped at 1, seed {run.seed}, loss on the answer only "
        f"(last steps: {facts.loss:.3f}); {facts.seconds / 60:.0f} minutes on shared CPU cores.",
        f"- Data: {data}; {run.examples} training prompts, none of which is in the test split.",
    ]
    if facts.compressed_rank is not None:
        lines.append(
            f"- Compressed: the delta of every matrix to the base, cut to rank {facts.compressed_rank} by SVD, "
            "float16. `adapter_model.safetensors` is a PEFT adapter; the deltas of norms and of the tied "
            "embedding, which no PEFT adapter can hold, are in `extra.safetensors`, which twinserve reads."
        )
    return "## Training\n\n" + "\n".join(lines)


def _result(facts: Facts) -> str:
    test = facts.test
    rows = [("base", test.base), ("expert" if facts.compressed is None else "full fine-tune", test.expert)]
    if facts.compressed is not None:
        rows.append((f"expert, rank {facts.compressed_rank}", facts.compressed.expert))
    table = "\n".join(f"| {name} | {percent(value)} |" for name, value in rows)
    gain = facts.final.gain
    return (
        f"## Result\n\nGreedy exact match on {test.prompts} held-out prompts, 95 % Wilson intervals:\n\n"
        f"| model | exact match, % |\n|---|---|\n{table}\n| the commonest answer, always | "
        f"{100 * test.constant:.1f} |\n\nExpert minus base: {100 * gain.value:+.1f} points, 95 % paired bootstrap "
        f"interval {100 * gain.low:+.1f} … {100 * gain.high:+.1f}."
    )


def percent(share: Share) -> str:
    """A share with its interval, in percent."""
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} … {100 * share.high:.1f})"
