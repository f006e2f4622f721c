"""lm_eval against the live endpoint, beside the same scores without lm_eval and without the endpoint.

    pip install "lm_eval[api]" transformers               # in an environment of its own
    python -m benchmarks.proof.lmeval BUNDLE --lm-eval ENV/bin/lm_eval

Starts ``twinserve serve``, runs EleutherAI's harness (``local-completions``, the bundle's own chat template)
over the tasks in benchmarks/proof/lm_eval for three arms: the router's choice, the static merge, and each
task's own expert. Then asks the same prompts by ``serve.evaluate.score``, and computes the likelihoods of
choices by transformers from dense weights (``benchmarks.proof.likelihood``). Prints both side by side, and
writes benchmarks/results/lm_eval.json. Fails where a prompt's token ids differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from benchmarks.proof.likelihood import Choices, likelihoods
from compress.bundle import Bundle
from compress.loading import load_tokenizer
from router import user_turns
from serve.engine import Engine
from serve.evaluate import Item, read_data, score
from serve.prompts import file_ids
from serve.request import Target
from serve.settings import EngineSettings

TASKS = Path(__file__).parent / "lm_eval"
DATA = Path("examples/zoo/data/test")
RESULT = Path("benchmarks/results/lm_eval.json")
# lm_eval's tasks, without the zoo_ before their names, and whose prompts they ask.
CHOOSE = {"movies": "movies"}
SAY = {"movies_said": "movies", "reversal": "reversal", "recall": "recall"}
EXPERTS = CHOOSE | SAY
CHOICES = {"movies": ("fresh", "rotten")}
ARMS = ("dynamic", "static", "expert")
PORT = 18322
PATIENCE = 600.0
# One question of lm_eval's record: its token ids, whether it was right, and the choices' log-likelihoods.
Sample = dict[str, Any]


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    lm_eval: Annotated[Path | None, typer.Option(help="The command; default: the one on PATH.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Of each task.")] = 60,
    port: Annotated[int, typer.Option(help="For the server.")] = PORT,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Serve, run lm_eval, score again without either, compare."""
    disable_progress_bar()
    command = lm_eval or shutil.which("lm_eval")
    if command is None:
        raise typer.BadParameter('lm_eval is not on PATH; pip install "lm_eval[api]", or give --lm-eval')
    read = read_data(DATA, sorted({*EXPERTS.values()}), prompts)
    data = {task: read[expert] for task, expert in EXPERTS.items()}
    with served(bundle, port) as url:
        harness = {
            (arm, task): samples
            for arm in ARMS
            for group in ([[task] for task in EXPERTS] if arm == "expert" else [[*EXPERTS]])
            for task, samples in run(Path(command), bundle, url, arm, group, prompts).items()
        }
    tokenizer = load_tokenizer(bundle / "base")
    for (_, task), samples in harness.items():
        check_ids(tokenizer, task, samples, data[task])
    ours = again(bundle, data)
    rows = [compared(arm, task, harness[arm, task], ours[arm, task]) for arm in ARMS for task in EXPERTS]
    facts = {
        "bundle": bundle.resolve().name,
        "lm_eval": version(Path(command)),
        "prompts": prompts,
        "rows": rows,
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    Console().print(table(rows))


@contextmanager
def served(bundle: Path, port: int) -> Iterator[str]:
    """The address of ``twinserve serve``, which ends with the block."""
    words = [str(Path(sys.executable).with_name("twinserve")), "serve", str(bundle)]
    words += ["--port", str(port), "--name", "zoo"]
    server = subprocess.Popen(words, env=os.environ | {"TWINSERVE_LOG": "WARNING"})
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + PATIENCE
    try:
        while not ready(url):
            if server.poll() is not None or time.monotonic() > until:
                raise typer.BadParameter("the server did not start; what it printed says why")
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


def run(
    command: Path, bundle: Path, url: str, arm: str, tasks: list[str], prompts: int
) -> dict[str, list[Sample]]:
    """lm_eval's record of each question, by task and in the data's order."""
    options = {
        "model": model_id(arm, tasks[0]),
        "base_url": f"{url}/v1/completions",
        "tokenizer": str(bundle / "base"),
        "tokenizer_backend": "huggingface",
        "max_length": "2048",
    }
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "--model", "local-completions", "--batch_size", "8", "--apply_chat_template"]
        words += ["--include_path", str(TASKS), "--tasks", ",".join(f"zoo_{task}" for task in tasks)]
        words += ["--limit", str(prompts), "--log_samples", "--output_path", folder]
        words += ["--model_args", ",".join(f"{key}={value}" for key, value in options.items())]
        # Its own cache would answer from an older state of the data.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{folder}/cache"}
        environment.pop("PYTHONPATH", None)
        subprocess.run([command, *words], env=environment, check=True)
        return {task: recorded(Path(folder), task) for task in tasks}


def recorded(folder: Path, task: str) -> list[Sample]:
    (path,) = folder.rglob(f"samples_zoo_{task}_[0-9]*.jsonl")
    lines = sorted(map(json.loads, path.read_text().splitlines()), key=lambda line: line["doc_id"])
    found = []
    for line in lines:
        sample = {"context": line["arguments"]["gen_args_0"]["arg_0"], "answer": line["doc"]["answer"]}
        sample["right"] = bool(line["acc"] if task in CHOOSE else line["exact_match"])
        if task in CHOOSE:
            sample["likelihoods"] = [float(response[0][0]) for response in line["resps"]]
        found.append(sample)
    return found


def check_ids(tokenizer: Any, task: str, samples: list[Sample], items: list[Item]) -> None:
    """Raise unless lm_eval asked the very tokens that ``twinserve eval`` asks, in the same order."""
    for number, (sample, item) in enumerate(zip(samples, items, strict=True), start=1):
        theirs = tokenizer(sample["context"], add_special_tokens=False)["input_ids"]
        if theirs != file_ids(tokenizer, item.messages) or sample["answer"] != item.answer:
            raise typer.BadParameter(
                f"{task}: prompt {number} has other tokens in lm_eval than in twinserve eval"
            )


def again(bundle: Path, data: Mapping[str, list[Item]]) -> dict[tuple[str, str], list[Sample]]:
    """The same verdicts without lm_eval and HTTP."""
    found: dict[tuple[str, str], list[Sample]] = {}
    generated = {task: data[task] for task in SAY}
    engine = Engine.open(bundle, EngineSettings())
    try:
        for arm in ARMS:
            hits = score(engine, generated, partial(target, arm)).hits
            found |= {(arm, task): [{"right": bool(hit)} for hit in hits[task]] for task in SAY}
        turns = {task: [user_turns(item.messages) for item in data[task]] for task in CHOOSE}
        routed = {task: [route.mixture for route in engine.route_now(turns[task])] for task in CHOOSE}
    finally:
        engine.stop()
    opened = Bundle.open(bundle)
    for task, expert in CHOOSE.items():
        answers = CHOICES[expert]
        items = [Choices(item.messages, answers) for item in data[task]]
        mixtures: dict[str, Sequence[Mapping[str, float]]] = {
            "dynamic": routed[task],
            "static": [{}] * len(items),
            "expert": [{expert: 1.0}] * len(items),
        }
        for arm in track(ARMS, f"dense models: {task}"):
            found[arm, task] = [
                {"likelihoods": each, "right": answers[each.index(max(each))] == item.answer}
                for each, item in zip(likelihoods(opened, items, mixtures[arm]), data[task], strict=True)
            ]
    return found


def target(arm: str, task: str) -> Target:
    """The weights that answer, for the engine."""
    if arm == "expert":
        return Target("task", task=EXPERTS[task])
    return Target("static" if arm == "static" else "dynamic")


def model_id(arm: str, task: str) -> str:
    """The same for the endpoint."""
    return f"zoo:{EXPERTS[task] if arm == 'expert' else arm}"


def compared(arm: str, task: str, theirs: list[Sample], ours: list[Sample]) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {
        "model": model_id(arm, task),
        "task": task,
        "kind": "likelihood" if task in CHOOSE else "generated",
        "lm_eval": sum(one["right"] for one in theirs) / len(theirs),
        "ours": sum(one["right"] for one in ours) / len(ours),
        "equal_verdicts": sum(a["right"] == b["right"] for a, b in zip(theirs, ours, strict=True)),
        "prompts": len(theirs),
    }
    if task in CHOOSE:
        row["largest_difference"] = max(
            abs(a - b)
            for one, other in zip(theirs, ours, strict=True)
            for a, b in zip(one["likelihoods"], other["likelihoods"], strict=True)
        )
    return row


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table("model", "task", "lm_eval", "without", "equal", "ln p within")
    for row in rows:
        differ = f"{row['largest_difference']:.0e}" if "largest_difference" in row else ""
        equal = f"{row['equal_verdicts']} of {row['prompts']}"
        shown.add_row(row["model"], row["task"], f"{row['lm_eval']:.3f}", f"{row['ours']:.3f}", equal, differ)
    return shown


def version(command: Path) -> str:
    """Of the lm_eval that the command belongs to."""
    code = "from importlib.metadata import version; print(version('lm_eval'))"
    python = command.absolute().with_name("python")
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    typer.run(main)
