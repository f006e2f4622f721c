"""twinserve merge beside mergekit-yaml: the same recipes over the same checkpoints, in turns.

    python -m benchmarks.mergekit --work DIR

Makes a base and three fine-tunes of some 336 million random parameters in bfloat16, merges them by task
arithmetic and by TIES with both tools, compares every tensor, and takes wall time and peak memory of each
process from the operating system. Needs the dev extra. Writes benchmarks/results/mergekit.json.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from examples.zoo.base import BASE

RESULT = Path("benchmarks/results/mergekit.json")
BIN = Path(sys.executable).parent
SHARD = 200_000_000
METHODS = ("task_arithmetic", "ties")
WEIGHTS, DENSITIES = (0.3, 0.5, 0.2), (0.2, 0.2, 0.5)


def main(
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and merges, 5 GB.")],
    method: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(METHODS)}; default: all.")] = None,
    rounds: Annotated[int, typer.Option(help="Runs of each tool and method.")] = 3,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Merge in turns and compare."""
    sizes = make_models(work)
    facts: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {"methods": {}}
    facts["parameters"] = sizes["parameters"]
    for name in method or METHODS:
        recipe = write_recipe(work, name)
        runs: dict[str, list[dict[str, float]]] = {"mergekit": [], "twinserve": []}
        for _ in range(rounds):
            for tool in runs:
                out = work / f"{tool}-{name}"
                shutil.rmtree(out, ignore_errors=True)
                runs[tool].append(measured(command(tool, recipe, out)))
        facts["methods"][name] = {
            "rounds": rounds,
            **{tool: _summary(found) for tool, found in runs.items()},
            **compared(work, name),
        }
    # What a process needs before it has read a tensor.
    idle = measured([str(BIN / "python"), "-c", "import serve.commands.merge, compress.mergedmodel, torch"])
    facts["memory"] = {
        "imports alone, MB": idle["peak MB"],
        "largest shard, MB": sizes["shard"] / 1e6,
        "largest tensor, MB": sizes["tensor"] / 1e6,
        "1.3 (shard + 3 tensors), MB": 1.3 * (sizes["shard"] + 3 * sizes["tensor"]) / 1e6,
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    show(facts, Console())


def make_models(work: Path) -> dict[str, int]:
    """base and m1 to m3 below ``work``, unless they are there; sizes in bytes."""
    from compress.loading import load_tokenizer
    from compress.sources import resolve

    config = AutoConfig.for_model(
        "llama",
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    if not (work / "m3").is_dir():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        tokenizer = load_tokenizer(resolve(BASE))
        base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for name in ("base", "m1", "m2", "m3"):
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    noise = 0.0 if name == "base" else 0.002 * torch.randn(parameter.shape)
                    parameter.copy_(base[key].float() + noise)
            model.save_pretrained(work / name, max_shard_size="200MB")
            tokenizer.save_pretrained(work / name)
    shards = [path.stat().st_size for path in (work / "base").glob("*.safetensors")]
    tensors = [t for path in (work / "base").glob("*.safetensors") for t in load_file(path).values()]
    return {
        "shard": max(shards),
        "tensor": max(tensor.nbytes for tensor in tensors),
        "parameters": sum(tensor.numel() for tensor in tensors),
    }


def write_recipe(work: Path, method: str) -> Path:
    """A mergekit YAML with absolute paths, computed in float32 and stored as bfloat16, as ours is."""
    models = []
    for number, (weight, density) in enumerate(zip(WEIGHTS, DENSITIES, strict=True), start=1):
        own = {"weight": weight} | ({"density": density} if method == "ties" else {})
        models.append({"model": str((work / f"m{number}").resolve()), "parameters": own})
    content = {
        "merge_method": method,
        "base_model": str((work / "base").resolve()),
        "models": models,
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    path = work / f"{method}.yml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def command(tool: str, recipe: Path, out: Path) -> list[str]:
    """Either tool over ``recipe``, with output files of the same size."""
    if tool == "mergekit":
        shards = ["--out-shard-size", str(SHARD)]
        return [str(BIN / "mergekit-yaml"), str(recipe), str(out), "--quiet", *shards]
    return [str(BIN / "twinserve"), "merge", str(recipe), "-o", str(out), "--shard", str(SHARD / 1024**3)]


# A process begins with its parent's peak memory on its account: a small one in between keeps ours off it.
LAUNCHER = """
import json, os, sys, time
log = os.open(os.devnull, os.O_WRONLY)
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)])
_, status, usage = os.wait4(child, 0)
print(json.dumps({"status": status, "seconds": time.perf_counter() - started,
    "cpu seconds": usage.ru_utime + usage.ru_stime, "peak MB": usage.ru_maxrss * 1024 / 1e6}))
"""


def measured(argv: list[str]) -> dict[str, float]:
    """Wall seconds, processor seconds and peak resident memory of one process."""
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *argv], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    if found.pop("status"):
        raise RuntimeError(f"{' '.join(argv)} failed")
    return found


def _summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Medians, and the highest of the peaks."""
    return {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "cpu seconds": statistics.median(run["cpu seconds"] for run in runs),
        "peak MB": max(run["peak MB"] for run in runs),
    }


def compared(work: Path, method: str) -> dict[str, int]:
    """How many elements of the two merges differ, and how many of them are not at TIES' cut.

    Differences of bfloat16 weights take few values, so that many are exactly as large as the smallest one
    that stays. Which of these stay is left to the order of a sort: ours is stable, torch's argsort, which
    mergekit calls, is not for large tensors.
    """
    theirs, ours = _tensors(work / f"mergekit-{method}"), _tensors(work / f"twinserve-{method}")
    if theirs.keys() != ours.keys():
        raise RuntimeError(f"other tensors: {sorted(theirs.keys() ^ ours.keys())[:3]}")
    different = {name: theirs[name] != ours[name] for name in ours}
    total = sum(int(mask.sum()) for mask in different.values())
    elsewhere = total
    if method == "ties":
        base, models = _tensors(work / "base"), [_tensors(work / f"m{i}") for i in (1, 2, 3)]
        for name, mask in different.items():
            at_cut = torch.zeros_like(mask)
            for model, density in zip(models, DENSITIES, strict=True):
                magnitudes = (model[name].float() - base[name].float()).abs()
                count = max(1, int(density * magnitudes.numel()))
                at_cut |= magnitudes == magnitudes.reshape(-1).topk(count).values[-1]
            elsewhere -= int((mask & at_cut).sum())
    return {"elements that differ": total, "of them not at the cut": elsewhere}


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def show(facts: dict[str, Any], console: Console) -> None:
    """The figures as a table."""
    table = Table(title=f"merging 3 × {facts['parameters'] / 1e6:.0f}M parameters", title_justify="left")
    for column in ("method", "tool", "seconds", "CPU seconds", "peak MB", "differ", "not at the cut"):
        table.add_column(column, justify="left" if column in ("method", "tool") else "right")
    for method, row in facts["methods"].items():
        for tool in ("mergekit", "twinserve"):
            values = (f"{row[tool][key]:.1f}" for key in ("seconds", "cpu seconds"))
            keys = ("elements that differ", "of them not at the cut") if tool == "twinserve" else ()
            table.add_row(method, tool, *values, f"{row[tool]['peak MB']:.0f}", *(str(row[k]) for k in keys))
    console.print(table)
    for method, row in facts["methods"].items():
        ours, theirs = row["twinserve"], row["mergekit"]
        console.print(
            f"{method}: {ours['seconds'] / theirs['seconds']:.2f} × the time, "
            f"{ours['peak MB'] / theirs['peak MB']:.2f} × the memory"
        )
    console.print(", ".join(f"{name}: {value:.0f}" for name, value in facts["memory"].items()))


if __name__ == "__main__":
    typer.run(main)
