"""How often a canary's alarm over failures is false, and how soon it is right.

    python -m benchmarks.experiments.canary

Prints tables and writes benchmarks/results/canary.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.experiments.failing import ALPHA, Draw, alarm, exact_test, hopeless, once, outages
from benchmarks.experiments.simulated import generators, share_of, table

RESULT = Path("benchmarks/results/canary.json")
REQUESTS = 20_000
STEPS = (0.01, 0.05, 0.2, 0.5)
ALIKE: dict[str, Draw] = {
    "1 % fail; share 0.01": once(0.01, 0.01, 0.01),
    "1 % fail; share 0.05": once(0.05, 0.01, 0.01),
    "1 % fail; share 0.5": once(0.5, 0.01, 0.01),
    "outages; share 0.05": outages(0.05),
    "1 user in 50 always fails; share 0.05": hopeless(0.05),
    "1 user in 50 always fails; ramp": hopeless(*STEPS),
}
RATES = (1.0, 0.2, 0.05, 0.02)


def main(
    tests: Annotated[int, typer.Option(help="Simulated canaries a row.")] = 1000,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Simulate, print, write."""
    console = Console()
    found = {
        "tests": tests,
        "requests": REQUESTS,
        "alpha": ALPHA,
        "alike": [_alike(name, tests) for name in ALIKE],
        "failing": [_failing(share, rate, tests) for share in STEPS for rate in RATES],
    }
    for title, rows in (
        (f"arms alike: alarms in {tests} tests of {REQUESTS:,} requests, a look each, %", found["alike"]),
        ("1 % of the control's requests fail: the arm's requests until the alarm", found["failing"]),
    ):
        console.print(table(title, rows))  # type: ignore[arg-type]
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(found, indent=2) + "\n")


def _alike(name: str, tests: int) -> dict[str, Any]:
    drawn = [ALIKE[name](generator, REQUESTS) for generator in generators(name, tests)]
    return {
        "requests": name,
        "alarm": share_of(alarm(asked) is not None for asked in drawn),
        "Fisher, every look": share_of(exact_test(asked) for asked in drawn),
        "requests as units": share_of(alarm(asked, by_request=True) is not None for asked in drawn),
    }


def _failing(share: float, rate: float, tests: int) -> dict[str, Any]:
    draw, needed = once(share, 0.01, rate), []
    for generator in generators(f"failing {share:g} {rate:g}", tests):
        asked = draw(generator, REQUESTS)
        end = alarm(asked)
        needed.append(np.inf if end is None else float(asked.has_arm[:end].sum()))
    # Infinite where the alarm came too seldom for that.
    median, most = np.quantile(needed, (0.5, 0.95), method="higher")
    return {
        "share": f"{share:g}",
        "of the arm's requests fail": f"{100 * rate:g} %",
        "raised": share_of(np.isfinite(needed)),
        "median": _count(median),
        "95 % of them by": _count(most),
    }


def _count(requests: float) -> str:
    return f"{requests:,.0f}" if np.isfinite(requests) else "–"


if __name__ == "__main__":
    typer.run(main)
