"""twinserve eval: the table of base, static, dynamic, oracle-routed and own experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from serve.commands.options import Device, Threads, engine_settings
from serve.commands.progress import bars

if TYPE_CHECKING:
    from serve.comparison import Comparison
    from serve.evaluate import Item


def evaluate(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE…")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Held-out prompts: DIR/<task>.jsonl.")],
    reference: Annotated[
        list[str] | None, typer.Option(metavar="TASK=CHECKPOINT", help="A task's own fine-tune.")
    ] = None,
    dev: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Development prompts to tune the static scaling on.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts a task at most.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The router's report with its effect on answers."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Compare a bundle with its base, its static merge and its own fine-tunes on held-out prompts.

    Example: twinserve eval bundles/quickstart --data examples/zoo/data/test --limit 20
    """
    from compress.bundle import read_manifest
    from serve.comparison import compare
    from serve.evaluate import read_data

    if report is not None and (len(bundles) > 1 or not (bundles[0] / "router").is_dir()):
        raise typer.BadParameter("--report is about the router of one bundle, which must have one")
    if len({bundle.name for bundle in bundles}) < len(bundles):
        raise typer.BadParameter("two bundles have the same folder name, so their results would look alike")
    references = dict(_pair(text) for text in reference or [])
    settings = engine_settings(device=device, threads=threads)
    results: dict[str, Any] = {}
    for bundle in bundles:
        tasks = read_manifest(bundle).tasks
        if unknown := sorted(set(references) - set(tasks)):
            raise typer.BadParameter(f"{unknown[0]!r} is no task of {bundle}: {', '.join(tasks)}")
        prompts = read_data(data, tasks, limit)
        tuning = read_data(dev, tasks) if dev else None
        with bars() as shown:
            result = compare(bundle, prompts, settings, shown.stage, references=references, dev=tuning)
        print_comparison(bundle, result)
        results[bundle.name] = figures(result) | {"loss": _loss(bundle, result)}
    if report is not None:
        write_page(report, bundles[0], results[bundles[0].name], prompts)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(results, indent=2) + "\n")


def write_page(file: Path, path: Path, found: dict[str, Any], data: dict[str, list[Item]]) -> None:
    """The page about a bundle's router, with the exact match of every arm and what routing costs here.

    found: the bundle's ``figures`` with its ``loss``.
    """
    from compress.bundle import Bundle
    from compress.compose import factor_weights, load_composed
    from compress.loading import load_tokenizer
    from router import load_router, user_turns
    from router.report import page
    from serve.commands.build import per_thousand
    from serve.comparison import ARMS

    bundle = Bundle.open(path)
    router = load_router(path / "router", bundle.fingerprint, bundle.tasks)
    model = load_composed(bundle, factor_weights({}, bundle.carried, bundle.scalings))
    asked = [user_turns(item.messages) for items in data.values() for item in items]
    seconds = per_thousand(router, model, load_tokenizer(bundle.base), asked)
    file.parent.mkdir(parents=True, exist_ok=True)
    arms = {arm: found["exact_match"][arm] for arm in ARMS}
    html = page(router.report, router.tasks, arms, seconds, found["loss"])
    file.write_text(html, encoding="utf-8")


def _loss(bundle: Path, result: Comparison) -> dict[str, Any] | None:
    """What the static model loses by task, predicted by weights and measured; None where the bundle's report
    has no prediction."""
    from compress.predictedloss import beside_measured
    from serve.commands.build import report_of

    section = report_of(bundle).get("kinship") if (bundle / "report.json").is_file() else None
    if section is None:
        return None
    static, own = (
        {task: result.scores[arm].mean(task) for task in result.tasks} for arm in ("static", "own")
    )
    return beside_measured(section, static, own, result.static_scaling)


def _pair(text: str) -> tuple[str, str]:
    task, found, checkpoint = text.partition("=")
    if not found or not task or not checkpoint:
        raise typer.BadParameter(f"--reference {text}: give TASK=CHECKPOINT")
    return task, checkpoint


def print_comparison(bundle: Path, result: Comparison) -> None:
    """Print the table: exact match in percent, normalised by the own expert's in brackets."""
    from serve.comparison import ARMS
    from serve.evaluate import paired_interval

    table = Table(
        title=f"{bundle.name}: exact match in % (and as % of the own expert's)",
        title_justify="left",
    )
    for column in ("task", "prompts", *ARMS):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task in result.tasks:
        own = result.scores["own"].mean(task)
        cells = [_cell(result.scores[arm].mean(task), own) for arm in ARMS]
        table.add_row(task, str(result.prompts[task]), *cells)
    own = result.scores["own"].average
    table.add_section()
    total = str(sum(result.prompts.values()))
    table.add_row("average", total, *(_cell(result.scores[arm].average, own) for arm in ARMS))
    table.add_row("storage", "", *(f"{result.storage[arm]:.2f}" for arm in ARMS))
    console = Console()
    console.print(table)
    console.print("storage: every byte an arm needs, over the base's parameters × 2 bytes")
    dynamic = result.scores["dynamic"]
    if dynamic.routed_right is not None and dynamic.null_share is not None:
        console.print(
            f"router: {100 * dynamic.routed_right:.1f} % of prompts to their own expert, "
            f"{100 * dynamic.null_share:.1f} % to the shared base"
        )
    gain = paired_interval(dynamic, result.scores["static"])
    console.print(
        f"dynamic − static: {gain.difference:+.1f} points, "
        f"95 % paired bootstrap interval {gain.low:+.1f} … {gain.high:+.1f}"
    )
    if result.sweep:
        tried = ", ".join(f"{scaling:g}: {100 * mean:.1f}" for scaling, mean in result.sweep.items())
        console.print(
            f"static scaling {result.static_scaling:g} is the best on development prompts ({tried})"
        )


def _cell(value: float, own: float) -> str:
    return f"{100 * value:.1f} ({100 * value / own:.0f})" if own > 0 else f"{100 * value:.1f} (–)"


def figures(result: Comparison) -> dict[str, Any]:
    """The same figures for programs."""
    from serve.evaluate import paired_interval

    gain = paired_interval(result.scores["dynamic"], result.scores["static"])
    dynamic = result.scores["dynamic"]
    return {
        "prompts": result.prompts,
        "exact_match": {
            arm: {task: scores.mean(task) for task in scores.hits} | {"average": scores.average}
            for arm, scores in result.scores.items()
        },
        "normalised": {
            arm: 100 * scores.average / result.scores["own"].average if result.scores["own"].average else None
            for arm, scores in result.scores.items()
        },
        "storage": result.storage,
        "router_accuracy": dynamic.routed_right,
        "null_share": dynamic.null_share,
        "dynamic_minus_static": {"points": gain.difference, "low": gain.low, "high": gain.high},
        "static_scaling": result.static_scaling,
        "static_sweep": result.sweep,
    }
