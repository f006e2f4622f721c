"""An A/B test from outside: half of the users get the static merge, the others the routed experts.

    twinserve serve bundles/zoo &
    python examples/static_vs_dynamic.py --model zoo --limit 20 movies reversal recall

Every prompt comes from a user of its own, and a hash of the user's id decides the arm, so a user who comes
again gets the same one. Prints a table: exact match of each arm with its 95 % Wilson interval, the difference
with Newcombe's (1998, method 10), and the mean latency.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from openai import OpenAI
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

DATA = Path(__file__).resolve().parent / "zoo" / "data" / "test"
ARMS = ("static", "dynamic")


@dataclass
class Arm:
    """Answers of one arm: right or wrong, and seconds each."""

    hits: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def share(self) -> tuple[float, float, float]:
        """Share of right answers and its 95 % Wilson interval."""
        found = binomtest(sum(self.hits), len(self.hits))
        interval = found.proportion_ci(method="wilson")
        return found.statistic, interval.low, interval.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="DATA/<task>.jsonl is asked")
    parser.add_argument("--model", required=True, help="the served name, without :static or :dynamic")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--data", type=Path, default=DATA, help='lines {"prompt": …, "answer": …}')
    parser.add_argument("--limit", type=int, default=20, help="prompts a task")
    options = parser.parse_args()

    client = OpenAI(base_url=options.url, api_key="none")
    arms = {arm: Arm() for arm in ARMS}
    for task in options.tasks:
        lines = (options.data / f"{task}.jsonl").read_text().splitlines()[: options.limit]
        for number, line in enumerate(lines):
            item, user = json.loads(line), f"{task}-{number}"
            arm = arm_of(user)
            started = time.perf_counter()
            answer = client.chat.completions.create(
                model=f"{options.model}:{arm}",
                messages=[{"role": "user", "content": item["prompt"]}],
                temperature=0,
                max_tokens=48,
                user=user,
            )
            arms[arm].seconds.append(time.perf_counter() - started)
            text = answer.choices[0].message.content or ""
            arms[arm].hits.append(text.strip() == item["answer"].strip())
    if not all(arm.hits for arm in arms.values()):
        parser.error("one arm got no prompt at all: give more tasks, or a higher --limit")
    Console().print(table(arms))


def arm_of(user: str) -> str:
    """The arm of a user, the same on every machine and in every process."""
    return ARMS[hashlib.sha256(user.encode()).digest()[0] % len(ARMS)]


def difference(a: Arm, b: Arm) -> tuple[float, float, float]:
    """``a`` minus ``b`` with its 95 % interval of Newcombe (1998), made of the two Wilson intervals."""
    (p, low, high), (q, under, over) = a.share(), b.share()
    return p - q, p - q - math.hypot(p - low, over - q), p - q + math.hypot(high - p, q - under)


def table(arms: dict[str, Arm]) -> Table:
    shown = Table("arm", "prompts", "exact match (95 %)", "mean latency")
    for name, arm in arms.items():
        latency = f"{1000 * sum(arm.seconds) / len(arm.seconds):.0f} ms"
        shown.add_row(name, str(len(arm.hits)), percent(*arm.share()), latency)
    shown.add_row("dynamic − static", "", percent(*difference(arms["dynamic"], arms["static"])), "")
    return shown


def percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} … {100 * high:.1f}) %"


if __name__ == "__main__":
    main()
