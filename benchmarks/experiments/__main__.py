"""How often an experiment without an effect claims one when it is looked at again and again, and how soon a
real effect is found.

    python -m benchmarks.experiments

Prints tables and writes benchmarks/results/experiments.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.experiments.peeking import FEWER, alarmed, guarded, watched
from benchmarks.experiments.simulated import generators, share_of, table
from benchmarks.experiments.traffic import Draw, Traffic, lognormal, rate, regulars, visitors
from serve.experiments.statistics.power import units_needed

RESULT = Path("benchmarks/results/experiments.json")
UNITS, EVERY = 5000, 50
TOLERANCE = 0.1
# name -> (values, share of the arm, binary)
ALIKE: dict[str, tuple[Draw, float, bool]] = {
    "binary, 50 %": (rate(0.5), 0.5, True),
    "binary, 2 %": (rate(0.02), 0.5, True),
    "binary, 5 %; share 0.1": (rate(0.05), 0.1, True),
    "lognormal": (lognormal(1), 0.5, False),
    "lognormal; share 0.1": (lognormal(1), 0.1, False),
    "lognormal; share 0.05": (lognormal(1), 0.05, False),
}


def main(
    tests: Annotated[int, typer.Option(help="Simulated experiments a row.")] = 1000,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Simulate, print, write."""
    console = Console()
    found = {
        "tests": tests,
        "units": UNITS,
        "looks": UNITS // EVERY,
        "alike": [_alike(name, tests) for name in (*ALIKE, "users who return")],
        "guardrails": _guardrails(tests),
        "sample_ratio": _sample_ratio(tests),
        "power": _power(tests),
    }
    for title, rows in (
        (
            f"arms alike: claims of a difference in {tests} tests, {UNITS // EVERY} looks each, %",
            found["alike"],
        ),
        (f"guardrail of {TOLERANCE:g}: said at some look, %", found["guardrails"]),
        ("sample ratio mismatch: alarms at some look, %", found["sample_ratio"]),
        ("binary, 60 % against 65 %: found, % of tests", found["power"]),
    ):
        console.print(table(title, rows))  # type: ignore[arg-type]
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(found, indent=2) + "\n")


def _alike(name: str, tests: int) -> dict[str, Any]:
    seen = []
    for generator in generators(name, tests):
        if name in ALIKE:
            draw, share, binary = ALIKE[name]
            traffic, every = visitors(generator, UNITS, share, draw, draw), EVERY
        else:
            traffic, binary = regulars(generator, UNITS // 2, 0.5), True
            every = len(traffic.unit) // (UNITS // EVERY)
        seen.append(watched(traffic, every, binary))
    return {
        "metric": name,
        "always-valid": share_of(one.first is not None for one in seen),
        f"from {FEWER} units on": share_of(one.early for one in seen),
        "Welch, every look": share_of(one.fixed for one in seen),
        "Welch, last look": share_of(one.last for one in seen),
        "responses as units": share_of(one.by_response for one in seen),
    }


def _guardrails(tests: int) -> list[dict[str, Any]]:
    """At the tolerance itself either word is an error; half of it and twice of it, one is."""
    rows = []
    for worse in (TOLERANCE / 2, TOLERANCE, 2 * TOLERANCE):
        said = [
            guarded(_slower(generator, worse), EVERY, TOLERANCE)
            for generator in generators(f"guardrail {worse:g}", tests)
        ]
        row = {"truly worse by": f"{worse:g}"}
        rows.append(row | {word: share_of(word in one for one in said) for word in ("broken", "ok")})
    return rows


def _slower(generator: np.random.Generator, worse: float) -> Traffic:
    return visitors(generator, UNITS, 0.5, lognormal(1, 0.5), lognormal(1 + worse, 0.5))


def _sample_ratio(tests: int) -> list[dict[str, Any]]:
    rows = []
    for told, true in (((0.5, 0.5), 0.5), ((0.9, 0.1), 0.1), ((0.5, 0.5), 0.46)):
        found = [
            alarmed((generator.random(UNITS) < true).astype(int), told, EVERY)
            for generator in generators(f"ratio {told} {true:g}", tests)
        ]
        rows.append(
            {
                "declared share": f"{told[1]:g}",
                "true share": f"{true:g}",
                "sequential": share_of(ours for ours, _ in found),
                "chi-square": share_of(pearson for _, pearson in found),
            }
        )
    return rows


def _power(tests: int) -> list[dict[str, Any]]:
    deviations = ((0.6 * 0.4) ** 0.5, (0.65 * 0.35) ** 0.5)
    most = units_needed(0.05, deviations, power=0.95)
    runs = [
        watched(visitors(generator, most, 0.5, rate(0.6), rate(0.65)), EVERY, True)
        for generator in generators("power", tests)
    ]
    # Units at the first look that found it; infinite where none did.
    ends = np.array([np.inf if one.first is None else one.first for one in runs])
    rows = []
    for power in (0.5, 0.8, 0.9, 0.95):
        units = units_needed(0.05, deviations, power=power)
        rows.append(
            {
                "power asked for": f"{power:g}",
                "units": units,
                "found by then": share_of(end <= units for end in ends),
                "one look would need": units_needed(0.05, deviations, power=power, always_valid=False),
                "median units when found": float(np.median(ends)),
            }
        )
    return rows


if __name__ == "__main__":
    typer.run(main)
