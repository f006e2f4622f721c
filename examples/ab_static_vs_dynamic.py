"""An A/B test inside the endpoint: labelled traffic, feedback on every answer, and what the report says.

    TWINSERVE_EXPERIMENTS__FILE=configs/experiment.yaml twinserve serve bundles/zoo &
    python examples/ab_static_vs_dynamic.py --model zoo --limit 50

Every prompt comes from a user of its own. The endpoint decides which arm a user gets; this script only says,
by POST /v1/feedback, whether the answer was right. The page at / shows the same report while it runs.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from rich.console import Console
from rich.progress import track
from rich.table import Table

DATA = Path(__file__).resolve().parent / "zoo" / "data" / "test"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="the served name, without :static or :dynamic")
    parser.add_argument("--experiment", default="static-or-dynamic")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--data", type=Path, default=DATA, help='<task>.jsonl, lines {"prompt", "answer"}')
    parser.add_argument("--limit", type=int, default=50, help="prompts a task")
    options = parser.parse_args()

    client = OpenAI(base_url=options.url, api_key="none")
    with httpx.Client(base_url=options.url, timeout=60) as http:
        tasks = [model.id.split(":", 1)[1] for model in client.models.list() if ":" in model.id]
        items = list(labelled(options.data, tasks, options.limit))
        for number, (prompt, expected) in enumerate(track(items, "asking")):
            answer = client.chat.completions.create(
                model=options.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=48,
                user=f"user-{number}",
            )
            text = answer.choices[0].message.content or ""
            said = {"response_id": answer.id, "metrics": {"correct": text.strip() == expected.strip()}}
            http.post("feedback", json=said).raise_for_status()
        report = http.get(f"experiments/{options.experiment}").raise_for_status().json()
    console = Console()
    for metric in report["metrics"]:
        console.print(table(metric))
    console.print(report["decision"])


def labelled(data: Path, tasks: list[str], limit: int) -> Iterator[tuple[str, str]]:
    """Prompts of all tasks with their answers, in a random order that is the same every time."""
    paths = [path for task in tasks if (path := data / f"{task}.jsonl").is_file()]
    lines = [line for path in paths for line in path.read_text().splitlines()[:limit]]
    random.Random(0).shuffle(lines)
    for line in lines:
        item = json.loads(line)
        yield item["prompt"], item["answer"]


def table(metric: dict[str, Any]) -> Table:
    shown = Table("arm", "users", "mean", "minus control", "95 %, whenever you look", title=metric["name"])
    for arm in metric["arms"]:
        low, high = arm["always_valid_low"], arm["always_valid_high"]
        interval = "" if low is None else f"{low:+.3f} … {high:+.3f}"
        effect = "" if arm["effect"] is None else f"{arm['effect']:+.3f}"
        mean = "" if arm["mean"] is None else f"{arm['mean']:.3f}"
        shown.add_row(arm["arm"], str(arm["units"]), mean, effect, interval)
    return shown


if __name__ == "__main__":
    main()
