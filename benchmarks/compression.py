"""What a full fine-tune keeps at a size: half-precision factors, 8-bit ones, and mixed 8/4/2-bit ones.

    python -m benchmarks.compression BASE FINETUNE --task movies --task reversal --task recall

Error, divergence from the fine-tune's predictions and exact match at shares of the delta's own bytes, and
mergekit-extract-lora at equal rank beside it. Prints a table and writes benchmarks/results/compression.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch.nn.functional import kl_div

from compress.checkpoints import Checkpoint
from compress.decompose import Decomposition, bits_by_matrix
from compress.exclusive import Pieces, compress_matrices
from compress.loading import load_model, load_tokenizer
from compress.lowrank import LowRank, truncate
from compress.recipe import ExclusiveRecipe
from compress.sources import resolve
from compress.workspace import Workspace
from serve.commands.options import engine_settings
from serve.commands.progress import bars
from serve.evaluate import Item, read_data, score
from serve.plainmodels import plain_engine
from serve.prompts import file_ids
from serve.request import Target

DATA = Path("examples/zoo/data/test")
RESULT = Path("benchmarks/results/compression.json")
SHARES = (8, 16, 32, 64)
DTYPES = ("float16", "int8", "mixed")
RANK = 32


def main(
    base: Annotated[str, typer.Argument(metavar="BASE")],
    finetune: Annotated[str, typer.Argument(metavar="FINETUNE", help="A full fine-tune of it.")],
    task: Annotated[list[str], typer.Option(help="Tasks to score it on; repeated.")],
    data: Annotated[Path, typer.Option(help="TASK.jsonl with prompts and answers.")] = DATA,
    limit: Annotated[int, typer.Option(help="Prompts a task.")] = 60,
    work: Annotated[
        Path | None, typer.Option(help="Keeps singular vectors between runs; default: a temporary folder.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of torch.")] = None,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Measure error and score against bytes."""
    if threads:
        torch.set_num_threads(threads)
    opened = Checkpoint.open(resolve(base))
    tuned = Checkpoint.open(resolve(finetune), opened)
    items = read_data(data, task, limit)
    settings = engine_settings(device="cpu", threads=threads)
    folder = work or Path(tempfile.mkdtemp())
    part = Decomposition("delta", tuned, opened, Workspace(folder))
    delta_bytes = 2 * opened.parameters
    rows: list[dict[str, Any]] = []
    with bars() as shown:
        exact: list[torch.Tensor] = []

        def scored(weights: dict[str, torch.Tensor], name: str) -> dict[str, float]:
            model = load_model(opened.folder, torch.float32)
            model.load_state_dict(weights, strict=False)
            count = sum(map(len, items.values()))
            predicted = predictions(model, opened.folder, items)
            # The first model is the fine-tune itself.
            exact.extend(predicted if not exact else ())
            apart = [
                kl_div(ours, its, log_target=True, reduction="batchmean")
                for ours, its in zip(predicted, exact, strict=True)
            ]
            with plain_engine(lambda: model, opened.folder, settings) as engine:
                found = score(engine, items, lambda _: Target("static"), shown.stage(name, count))
            return {"divergence": float(torch.stack(apart).mean()), "score": 100 * found.average}

        part.run(ExclusiveRecipe.model_validate({"size": "1x"}), 1.0, shown.report)
        whole = dict(_weights(opened, tuned, None))
        rows.append({"stored as": "the fine-tune", "share": 1.0, "error": 0.0, **scored(whole, "whole")})
        for share in SHARES:
            for dtype in DTYPES:
                exclusive = ExclusiveRecipe.model_validate({"size": "1x", "dtype": dtype})
                budget = delta_bytes // share
                bits = bits_by_matrix({"delta": part}, exclusive, budget)["delta"]
                pieces = Pieces()
                compress_matrices(pieces, part, bits, exclusive, torch.float16)
                name = f"{dtype} 1/{share}"
                rows.append(
                    {
                        "stored as": dtype,
                        "share": 1 / share,
                        "bytes": _bytes(pieces),
                        "components": sum(row["rank"] for row in pieces.rows),
                        "error": 1 - pieces.kept,
                        **scored(dict(_weights(opened, tuned, pieces)), name),
                    }
                )
    facts = {
        "fine-tune": Path(finetune).name,
        "delta bytes": delta_bytes,
        "prompts": sum(map(len, items.values())),
        "rows": rows,
        "mergekit-extract-lora": extraction(opened, tuned),
    }
    if work is None:
        shutil.rmtree(folder)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    show(facts, Console())


@torch.no_grad()
def predictions(
    model: torch.nn.Module, folder: Path, items: Mapping[str, Sequence[Item]]
) -> list[torch.Tensor]:
    """Log-probabilities of every next token along each reference answer, its end included: of every prompt
    [tokens, vocabulary]."""
    tokenizer = load_tokenizer(folder)
    found = []
    for item in (item for asked in items.values() for item in asked):
        prompt = file_ids(tokenizer, item.messages)
        answer = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
        logits = model(input_ids=torch.tensor([prompt + answer]), logits_to_keep=len(answer) + 1).logits[0]
        found.append(logits.float().log_softmax(-1))
    return found


def _weights(
    base: Checkpoint, tuned: Checkpoint, pieces: Pieces | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The fine-tune's weights, matrices as ``pieces`` have them; norms and biases are its own."""
    for name, parameter in base.table.items():
        if pieces is None or not parameter.is_matrix:
            yield name, tuned.weight(name)
            continue
        weight = base.weight(name)
        factors: LowRank | None = pieces.low_rank.get(name)
        if name in pieces.quantised:
            factors = pieces.quantised[name].dequantised()
        if factors is not None:
            weight += parameter.to_map(factors.dense())
        yield name, weight


def _bytes(pieces: Pieces) -> int:
    low = sum(f.A.nbytes + f.B.nbytes for f in pieces.low_rank.values())
    return low + sum(q.nbytes for q in pieces.quantised.values())


def extraction(base: Checkpoint, tuned: Checkpoint) -> dict[str, Any]:
    """mergekit's extraction and ours of all linear layers at one rank: seconds and relative squared error."""
    tool = Path(sys.executable).parent / "mergekit-extract-lora"
    linear = [p for p in base.table.values() if p.is_matrix and not p.tied_head and "embed" not in p.name]
    started = time.perf_counter()
    ours = {p.name: truncate(_delta(base, tuned, p.name), rank=RANK) for p in linear}
    seconds = time.perf_counter() - started
    found: dict[str, Any] = {"rank": RANK, "ours": {"seconds": seconds}}
    found["ours"]["error"] = 1 - sum(t.kept_energy for t in ours.values()) / sum(
        t.energy for t in ours.values()
    )
    if not tool.is_file():
        return found
    with tempfile.TemporaryDirectory() as out:
        command = [
            str(tool), "--model", str(tuned.folder.resolve()), "--base-model", str(base.folder.resolve()),
            "--out-path", out, "--max-rank", str(RANK), "--quiet",
        ]  # fmt: skip
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found["theirs"] = {"seconds": time.perf_counter() - started}
        tensors = load_file(Path(out) / "adapter_model.safetensors")
        config = json.loads((Path(out) / "adapter_config.json").read_text())
        lost = energy = 0.0
        for parameter in linear:
            key = f"base_model.model.{parameter.module}.lora_%s.weight"
            a, b = tensors[key % "A"].float(), tensors[key % "B"].float()
            rank = config.get("rank_pattern", {}).get(parameter.module, config["r"])
            scale = config.get("alpha_pattern", {}).get(parameter.module, config["lora_alpha"]) / rank
            delta = _delta(base, tuned, parameter.name)
            lost += float((delta - scale * (b @ a)).double().square().sum())
            energy += float(delta.double().square().sum())
        found["theirs"]["error"] = lost / energy
    return found


def _delta(base: Checkpoint, tuned: Checkpoint, name: str) -> torch.Tensor:
    return tuned.weight(name) - base.weight(name)


def show(facts: dict[str, Any], console: Console) -> None:
    """The figures as tables."""
    table = Table(title=f"{facts['fine-tune']}: error and exact match by size", title_justify="left")
    columns = ("share of the delta's bytes", "factors", "MB", "components", "error", "nats", "exact match")
    for column in columns:
        table.add_column(column, justify="left" if column == "factors" else "right")
    for row in facts["rows"]:
        share = "1" if row["share"] == 1 else f"1/{1 / row['share']:.0f}"
        table.add_row(
            share,
            row["stored as"],
            f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else "",
            str(row.get("components", "")),
            f"{100 * row['error']:.1f} %",
            f"{row['divergence']:.4f}",
            f"{row['score']:.1f}",
        )
    console.print(table)
    compared = facts["mergekit-extract-lora"]
    for who in ("ours", "theirs"):
        if who in compared:
            console.print(
                f"rank {compared['rank']} of all linear layers, {who}: {compared[who]['seconds']:.1f} s, "
                f"error {100 * compared[who]['error']:.2f} %"
            )


if __name__ == "__main__":
    typer.run(main)
