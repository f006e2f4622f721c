"""twinserve eval: the table of base, static merges, dynamic, oracle-routed and own experts."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

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
    static: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Another merge to compare with: a plain model."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts a task at most.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Keep every answer there; a run that was cut off goes on."),
    ] = None,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Measure tokens/s and memory of base, static, dynamic and own."),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The router's report with its effect on answers."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Compare a bundle with its base, static merges and its own fine-tunes on held-out prompts.

    Example: twinserve eval bundles/quickstart --data examples/zoo/data/test --limit 20
    """
    from compress.bundle import read_manifest
    from serve.answers import AnswerFile
    from serve.comparison import ARMS, arm_costs, compare
    from serve.comparisonreport import figures, print_comparison
    from serve.evaluate import read_data

    if report is not None and (len(bundles) > 1 or not (bundles[0] / "router").is_dir()):
        raise typer.BadParameter("--report is about the router of one bundle, which must have one")
    if len({bundle.name for bundle in bundles}) < len(bundles):
        raise typer.BadParameter("two bundles have the same folder name, so their results would look alike")
    references = dict(_pair("--reference", "TASK=CHECKPOINT", text) for text in reference or [])
    statics = {n: Path(f) for n, f in (_pair("--static", "NAME=FOLDER", text) for text in static or [])}
    if taken := sorted(set(statics) & set(ARMS)):
        raise typer.BadParameter(f"--static {taken[0]}: that is the name of an arm; choose another")
    settings = engine_settings(device=device, threads=threads)
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        kept = stack.enter_context(AnswerFile.open(answers)) if answers else AnswerFile()
        for bundle in bundles:
            tasks = read_manifest(bundle).tasks
            if unknown := sorted(set(references) - set(tasks)):
                raise typer.BadParameter(f"{unknown[0]!r} is no task of {bundle}: {', '.join(tasks)}")
            prompts = read_data(data, tasks, limit)
            tuning = read_data(dev, tasks) if dev else None
            with bars() as shown:
                result = compare(
                    bundle,
                    prompts,
                    settings,
                    shown.stage,
                    references=references,
                    statics=statics,
                    dev=tuning,
                    answers=kept,
                )
                costs = arm_costs(bundle, prompts, settings, shown.stage, references) if cost else {}
            print_comparison(bundle.name, result, costs, Console())
            results[bundle.name] = figures(result, costs) | {"loss": _loss(bundle, result)}
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

    bundle = Bundle.open(path)
    router = load_router(path / "router", bundle.fingerprint, bundle.tasks)
    model = load_composed(bundle, factor_weights({}, bundle.carried, bundle.scalings))
    asked = [user_turns(item.messages) for items in data.values() for item in items]
    seconds = per_thousand(router, model, load_tokenizer(bundle.base), asked)
    file.parent.mkdir(parents=True, exist_ok=True)
    html = page(router.report, router.tasks, found["exact_match"], seconds, found["loss"])
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


def _pair(option: str, form: str, text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name or not value:
        raise typer.BadParameter(f"{option} {text}: give {form}")
    return name, value
