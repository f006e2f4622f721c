"""What a build kept and lost: report.json for programs, report.html for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from compress.bundle import Manifest
from compress.kinshippage import view


def write_report(folder: Path, manifest: Manifest, report: dict[str, Any]) -> None:
    """Write report.json and report.html into a bundle folder; ``report`` from compress.build, with
    the router's own report under ``router`` once it is trained."""
    for name in ("report.json", "report.html"):
        # The folder may hold hard links into another bundle: replace, never write into.
        (folder / name).unlink(missing_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    environment = Environment(
        loader=PackageLoader("compress"), autoescape=select_autoescape(default=True, default_for_string=True)
    )
    template = environment.get_template("report.html.j2")
    page = template.render(
        manifest=manifest,
        report=report,
        kinship=view(report["kinship"]) if "kinship" in report else None,
        base_bytes=2 * manifest.base.parameters,
        worst={task: _worst(facts["matrices"]) for task, facts in report["experts"].items()},
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _worst(matrices: list[dict[str, Any]], count: int = 10) -> list[dict[str, Any]]:
    return sorted((row for row in matrices if not row["exact"]), key=lambda row: row["kept"])[:count]
