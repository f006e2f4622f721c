"""twinserve build, compress, train-router: checkpoints to a bundle."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from serve.commands.calibration import calibration_of
from serve.commands.progress import Bars, bars

if TYPE_CHECKING:
    from compress.bundle import Bundle
    from compress.recipe import Recipe
    from router import Prompt, Router, RouterSettings

Settings = TypeVar("Settings", bound="RouterSettings")
# Conversations whose routing is timed.
SAMPLE = 200
Recipe_ = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to build.")]
Out = Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="Folder of the new bundle.")]


def build(recipe: Recipe_, output: Out) -> None:
    """Do the whole offline stage: merge, compress, train the router, report.

    Example: twinserve build configs/quickstart.yaml -o bundles/quickstart
    """
    _offline(recipe, output, with_router=True)


def compress(recipe: Recipe_, output: Out) -> None:
    """Do the first half of build: a bundle without a router.

    Example: twinserve compress configs/quickstart.yaml -o bundles/quickstart
    """
    _offline(recipe, output, with_router=False)


def train_router(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help='Lines {"task": …, "prompt" or "messages": …}, or DIR/<task>.jsonl. Default: none; '
            "the router is then made of the experts' own factors.",
        ),
    ] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="embedding, tfidf, hidden or sentence; several are compared.")
    ] = None,
    classifier: Annotated[
        list[str] | None, typer.Option(help="logistic, mlp or prototypes; several are compared.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Sentence encoder of sentence features: a folder or hub id.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Decoder layers to run; default: a share of them.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, last or both.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Experts to blend at most, where unsure.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least confidence; below it: the fall-back.")
    ] = None,
    false_rejection: Annotated[
        float | None, typer.Option(help="Share of a task's prompts that may be taken for unknown.")
    ] = None,
    fallback: Annotated[
        str | None, typer.Option(help="Who answers where no expert is trusted: base, shared or auto.")
    ] = None,
    history: Annotated[float | None, typer.Option(help="Weight of a turn relative to the next.")] = None,
    sticky: Annotated[
        float | None, typer.Option(help="Margin that another expert needs within a conversation.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split.")] = None,
) -> None:
    """Train (again) the router of a bundle.

    Example: twinserve train-router bundles/quickstart --prompts examples/zoo/data/router
    """
    from compress.bundle import edit, read_manifest
    from compress.report import write_report
    from router import RouterSettings, read_prompts

    options = {
        "features": tuple(features or ()) or None,
        "classifiers": tuple(classifier or ()) or None,
        "encoder": encoder,
        "layer": layer,
        "pooling": pooling,
        "top_k": top_k,
        "threshold": threshold,
        "false_rejection": false_rejection,
        "fallback": fallback,
        "history": history,
        "sticky": sticky,
        "seed": seed,
    }
    settings = _checked(RouterSettings, {key: value for key, value in options.items() if value is not None})
    labelled = None if prompts is None else read_prompts(prompts, read_manifest(bundle).tasks)
    with bars() as shown, edit(bundle) as folder:
        report = report_of(folder)
        report["router"] = train_in(opened(folder), settings, labelled, shown)
        write_report(folder, read_manifest(folder), report)
    print_router(report["router"])


def _offline(path: Path, output: Path, *, with_router: bool) -> None:
    from compress.build import build as compress_all
    from compress.bundle import create, seal
    from compress.errors import InputError
    from compress.inputs import refuse_overlap, work_key
    from compress.recipe import read_recipe
    from compress.report import write_report
    from compress.workspace import workspace

    recipe = read_recipe(path)
    refuse_overlap(recipe.sources, output, path.parent)
    settings, prompts = None, None
    if with_router:
        if recipe.router is None:
            raise InputError(
                f"{path}: no router section; add router: {{prompts: FILE.jsonl}}, or use compress"
            )
        settings, prompts = _router_inputs(recipe, path.parent)
    calibration = calibration_of(recipe, path.parent)
    key = work_key(recipe, path.parent, calibration)
    with bars() as shown, workspace(output, key) as work, create(output) as folder:
        manifest, report = compress_all(
            recipe, folder, work, relative_to=path.parent, calibration=calibration, progress=shown.report
        )
        for note in report["notes"]:
            shown.print(f"note: {note}")
        if settings is not None:
            report["router"] = train_in(opened(folder), settings, prompts, shown)
        write_report(folder, manifest, report)
        seal(folder, manifest)
    from serve.commands.inspect import print_bundle

    print_bundle(output)
    if "router" in report:
        print_router(report["router"])


def opened(folder: Path) -> Bundle:
    """The bundle in a private folder, whose checksums are not written yet."""
    from compress.bundle import Bundle, read_manifest

    return Bundle(folder, read_manifest(folder))


def _router_inputs(recipe: Recipe, relative_to: Path) -> tuple[RouterSettings, list[Prompt] | None]:
    from router import RouterRecipe, read_prompts
    from router.prompts import distinct

    section = _checked(RouterRecipe, recipe.router or {})
    if section.prompts is None:
        return section.settings(), None
    path = Path(section.prompts)
    prompts = read_prompts(path if path.exists() else relative_to / path, recipe.tasks)
    distinct(prompts, recipe.tasks)
    return section.settings(), prompts


def _checked(model: type[Settings], options: dict[str, Any]) -> Settings:
    from pydantic import ValidationError

    from compress.errors import InputError
    from compress.recipe import validation_sentence

    try:
        return model(**options)
    except ValidationError as error:
        raise InputError(f"router: {validation_sentence(error, model)}") from error


def train_in(
    bundle: Bundle, settings: RouterSettings, prompts: list[Prompt] | None, shown: Bars
) -> dict[str, Any]:
    """Train the router of a bundle in a private folder, there; returns its report."""
    from compress.compose import factor_weights, load_composed
    from compress.loading import load_tokenizer
    from router import dataless_router, save_router
    from router import train_router as train

    settings = settings.settled(bundle.scalings is not None)
    model = load_composed(bundle, factor_weights({}, bundle.carried, bundle.scalings))
    if prompts is None:
        table = bundle.table()
        experts = [bundle.expert(task, table) for task in bundle.tasks]
        router, report = dataless_router(model, experts, bundle.tasks, settings, bundle.fingerprint)
    else:
        tokenizer = load_tokenizer(bundle.base)
        router, report = train(
            model, tokenizer, prompts, bundle.tasks, settings, shown.report, bundle.fingerprint
        )
        seconds = per_thousand(router, model, tokenizer, [prompt.turns for prompt in prompts])
        shown.print(f"router: 1,000 prompts like these take {seconds:.1f} s here")
    save_router(router, bundle.path / "router")
    return report


def per_thousand(router: Router, model: Any, tokenizer: Any, conversations: list[tuple[str, ...]]) -> float:
    """Seconds that routing 1,000 conversations takes in batches, tokenisation included. Goes into no file of
    a bundle: building twice gives the same bytes."""
    chosen = conversations[:: max(1, len(conversations) // SAMPLE)]
    started = time.perf_counter()
    router.route(model, [router.query(tokenizer, turns) for turns in chosen])
    return 1000 * (time.perf_counter() - started) / len(chosen)


def report_of(folder: Path) -> dict[str, Any]:
    """A bundle's report.json."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def print_router(report: dict[str, Any]) -> None:
    """Print what a router was chosen from and what it measured."""
    from rich.table import Table

    console = Console()
    if rows := report.get("comparison"):
        table = Table(title="router: cross-validated on the training prompts", title_justify="left")
        for column in ("features", "classifier", "log-loss", "right", "chosen"):
            table.add_column(column, justify="left" if column in ("features", "classifier") else "right")
        for row in rows:
            table.add_row(
                row["features"],
                row["classifier"],
                f"{row['log_loss']:.4f}",
                f"{100 * row['accuracy']:.1f} %",
                "✓" if row["chosen"] else "",
            )
        console.print(table)
    console.print(f"router: {report['reason']}", highlight=False)
    facts = ", ".join(
        f"{key.replace('_', ' ')} {value:.3f}" for key, value in report.items() if isinstance(value, float)
    )
    if facts:
        console.print(f"held-out prompts: {facts}", highlight=False)
    if dropped := {name: n for name, n in report.get("dropped", {}).items() if n}:
        console.print("left out: " + ", ".join(f"{n} {name}" for name, n in dropped.items()))
