"""The long forms of the tests under load: swaps, kills, faults. Their outcomes go to a result file.

python -m benchmarks.soak.faults
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import typer

TESTS = [f"tests/serve/test_{name}.py" for name in ("swaps_under_load", "process", "faults")]
RESULT = Path("benchmarks/results/soak_faults.json")


def main(result: Annotated[Path, typer.Option(help="Where the outcomes go.")] = RESULT) -> None:
    """Run them; fails where one does."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", "--long", f"--junitxml={report}", *TESTS]
        code = subprocess.run(words, check=False).returncode
        facts = outcomes(report)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    raise typer.Exit(code)


def outcomes(report: Path) -> dict[str, dict[str, str | float]]:
    """Test -> its outcome (passed, failure, error, skipped) and seconds, from pytest's own report."""
    found: dict[str, dict[str, str | float]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "passed")
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}.{case.get('name')}"
        found[name] = {"outcome": outcome, "seconds": round(float(case.get("time", 0)), 1)}
    return found


if __name__ == "__main__":
    typer.run(main)
