"""twinserve build, compress, train-router: checkpoints to a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from serve.commands.progress import Bars, bars

if TYPE_CHECKING:
    from compress.bundle import Bundle
    from compress.recipe import Recipe
    from router import RouterSettings
    from router.train import Prompt

Settings = TypeVar("Settings", bound="RouterSettings")
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
        Path,
        typer.Option(
            metavar="FILE|DIR", help='Lines {"task": …, "prompt" or "messages": …}, or DIR/<task>.jsonl.'
        ),
    ],
    layer: Annotated[
        int | None, typer.Option(help="Decoder layers to run; default: a share of them.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="mean or last.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Experts to blend at most.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Least confidence; below it: shared base.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split.")] = None,
) -> None:
    """Train (again) the router of a bundle.

    Example: twinserve train-router bundles/quickstart --prompts examples/zoo/data/router
    """
    from compress.bundle import edit, read_manifest
    from compress.report import write_report
    from router import RouterSettings, read_prompts

    options = {"layer": layer, "pooling": pooling, "top_k": top_k, "threshold": threshold, "seed": seed}
    settings = _checked(RouterSettings, {key: value for key, value in options.items() if value is not None})
    labelled = read_prompts(prompts, read_manifest(bundle).tasks)
    with bars() as shown, edit(bundle) as folder:
        report = _report_of(folder)
        report["router"] = _train(_opened(folder), settings, labelled, shown)
        write_report(folder, read_manifest(folder), report)
    _print_router(report["router"])


def _offline(path: Path, output: Path, *, with_router: bool) -> None:
    from compress.build import build as compress_all
    from compress.build import refuse_overlap
    from compress.bundle import create, seal
    from compress.errors import InputError
    from compress.recipe import read_recipe
    from compress.report import write_report

    recipe = read_recipe(path)
    refuse_overlap(recipe, output, path.parent)
    settings, prompts = None, None
    if with_router:
        if recipe.router is None:
            raise InputError(
                f"{path}: no router section; add router: {{prompts: FILE.jsonl}}, or use compress"
            )
        settings, prompts = _router_inputs(recipe, path.parent)
    with bars() as shown, create(output) as folder:
        manifest, report = compress_all(recipe, folder, relative_to=path.parent, progress=shown.report)
        if settings is not None and prompts is not None:
            report["router"] = _train(_opened(folder), settings, prompts, shown)
        write_report(folder, manifest, report)
        seal(folder, manifest)
    from serve.commands.inspect import print_bundle

    print_bundle(output)
    if "router" in report:
        _print_router(report["router"])


def _opened(folder: Path) -> Bundle:
    from compress.bundle import Bundle, read_manifest

    return Bundle(folder, read_manifest(folder))


def _router_inputs(recipe: Recipe, relative_to: Path) -> tuple[RouterSettings, list[Prompt]]:
    from router import RouterRecipe, read_prompts
    from router.train import distinct

    section = _checked(RouterRecipe, recipe.router or {})
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


def _train(bundle: Bundle, settings: RouterSettings, prompts: list[Prompt], shown: Bars) -> dict[str, Any]:
    from compress.compose import factor_weights, load_composed
    from compress.loading import load_tokenizer
    from router import train_router as train

    shared = factor_weights({}, bundle.tasks, bundle.scalings)
    model = load_composed(bundle, shared)
    tokenizer = load_tokenizer(bundle.base)
    router, report = train(
        model,
        tokenizer,
        prompts,
        bundle.tasks,
        settings,
        progress=lambda done, total: shown.report("router", done, total),
    )
    folder = bundle.path / "router"
    if folder.exists():
        # The old files may be hard links into the bundle that is being replaced.
        shutil.rmtree(folder)
    router.save(folder)
    return report


def _report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def _print_router(report: dict[str, Any]) -> None:
    facts = ", ".join(
        f"{key.replace('_', ' ')} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in report.items()
        if isinstance(value, int | float)
    )
    Console().print(f"router: {facts}")
