"""twinserve add, remove: one expert more or less, without building again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from serve.commands.progress import Bars, bars

if TYPE_CHECKING:
    from compress.bundle import Manifest
    from router import Prompt


def add(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    expert: Annotated[str, typer.Argument(metavar="TASK=CHECKPOINT", help="A fine-tune of the same base.")],
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Prompts of the new task, as train-router takes them."),
    ] = None,
    remerge: Annotated[
        bool, typer.Option(help="Also merge it into the shared base. Moves what the others answer.")
    ] = False,
) -> None:
    """Fit one more expert into a bundle. What the others answer stays as it was.

    Example: twinserve add BUNDLE recall=examples/zoo/adapters/recall --prompts examples/zoo/data/router
    """
    from compress.bundle import edit, read_manifest, seal
    from compress.errors import InputError
    from compress.grow import add_expert, remerged
    from compress.kinshipreport import kinship_of_experts
    from compress.report import write_report
    from router import load_router, read_prompts
    from serve.commands.build import report_of

    task, found, checkpoint = expert.partition("=")
    if not found or not task or not checkpoint:
        raise typer.BadParameter(f"{expert}: give TASK=CHECKPOINT")
    manifest = read_manifest(bundle)
    has_router = (bundle / "router").is_dir()
    wanted = [*manifest.tasks, task] if remerge else [task]
    # Before anything takes time.
    if has_router and prompts is None and load_router(bundle / "router").projection is None:
        whose = "all tasks, for another shared base needs another router" if remerge else repr(task)
        raise InputError(f"the bundle's router learns from prompts: give --prompts with those of {whose}")
    labelled = read_prompts(prompts, wanted) if prompts and has_router else None
    with bars() as shown, edit(bundle) as folder:
        report = report_of(folder)
        grown, report["experts"][task] = add_expert(folder, manifest, task, checkpoint, shown.report)
        if remerge:
            grown = remerged(folder, grown)
        if kinship := kinship_of_experts(folder, grown, shown.report):
            report["kinship"] = kinship
        seal(folder, grown)
        if has_router:
            report["router"] = _routed(folder, grown, task, labelled, shown, anew=remerge)
        write_report(folder, grown, report)
    facts = report["experts"][task]
    console = Console()
    console.print(f"{task}: {facts['kind']}, rank at most {facts['max_rank']}, {facts['bytes'] / 1e6:.1f} MB")
    if not has_router:
        console.print(f"no router: ask for {bundle.name}:{task}")
    elif new := next((row for row in report["router"].get("added", [])[::-1] if row["task"] == task), None):
        console.print(
            f"router: {100 * new['recall']:.1f} % of {new['prompts']['test']} held-out prompts of {task} "
            f"find it, {100 * new['false_rejection']:.1f} % are taken for unknown; it takes "
            f"{100 * new['taken']:.1f} % of the others' prompts"
        )


def remove(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    task: Annotated[str, typer.Argument(metavar="TASK")],
) -> None:
    """Take one expert out of a bundle. What the others answer stays as it was.

    Example: twinserve remove bundles/quickstart recall
    """
    from compress.bundle import edit, read_manifest, seal
    from compress.grow import remove_expert
    from compress.kinshipreport import kinship_of_experts
    from compress.report import write_report
    from router import load_router, save_router, without
    from serve.commands.build import opened, report_of, train_in

    with bars() as shown, edit(bundle) as folder:
        manifest = remove_expert(folder, read_manifest(folder), task)
        report = report_of(folder)
        if task not in manifest.experts:
            report["experts"].pop(task, None)
            if kinship := kinship_of_experts(folder, manifest, shown.report):
                report["kinship"] = kinship
        seal(folder, manifest)
        if (folder / "router").is_dir():
            router = load_router(folder / "router", manifest.fingerprint)
            if router.projection is not None:
                report["router"] = train_in(opened(folder), router.settings, None, shown)
            else:
                save_router(router := without(router, task), folder / "router")
                report["router"] = dict(router.report)
        write_report(folder, manifest, report)
    kept = " (its factors stay: the shared base is reached through them)" if task in manifest.retired else ""
    Console().print(f"{task} answers nobody any more{kept}; left: {', '.join(manifest.tasks)}")


def _routed(
    folder: Path, manifest: Manifest, task: str, prompts: list[Prompt] | None, shown: Bars, *, anew: bool
) -> dict[str, Any]:
    """The router of the grown bundle, written; its report."""
    from compress.compose import factor_weights, load_composed
    from compress.loading import load_tokenizer
    from router import extend, load_router, save_router
    from serve.commands.build import opened, train_in

    router = load_router(folder / "router")
    if router.projection is not None:
        return train_in(opened(folder), router.settings, None, shown)
    assert prompts is not None
    if anew:
        return train_in(opened(folder), router.settings, prompts, shown)
    bundle = opened(folder)
    model = load_composed(bundle, factor_weights({}, bundle.carried, bundle.scalings))
    router, _ = extend(
        router, model, load_tokenizer(bundle.base), task, prompts, partial(shown.report, "router")
    )
    save_router(router, folder / "router")
    return dict(router.report)
