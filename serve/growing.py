"""One expert more or less in the private folder of a bundle: factors, router and report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from compress.bundle import Bundle, Manifest, read_manifest, seal
from compress.compose import factor_weights, load_composed
from compress.errors import InputError
from compress.grow import add_expert, remerged, remove_expert
from compress.kinshipreport import kinship_of_experts
from compress.loading import load_tokenizer
from compress.report import write_report
from compress.staging import hard_copy, staged
from router import Prompt, extend, load_router, read_prompts, save_router, without
from serve.commands.build import opened, report_of, train_in
from serve.commands.progress import Bars


def labelled(bundle: Path, task: str, prompts: Path | None, *, remerge: bool = False) -> list[Prompt] | None:
    """The prompts that the bundle's router needs to learn ``task``; None where it needs none.

    Raises InputError when they are missing: to be asked before anything takes time.
    """
    if not (bundle / "router").is_dir():
        return None
    if prompts is not None:
        return read_prompts(prompts, [*read_manifest(bundle).tasks, task] if remerge else [task])
    if load_router(bundle / "router").projection is None:
        whose = "all tasks, for another shared base needs another router" if remerge else repr(task)
        raise InputError(f"the bundle's router learns from prompts: give --prompts with those of {whose}")
    return None


def grow(
    folder: Path,
    task: str,
    checkpoint: str,
    prompts: list[Prompt] | None,
    shown: Bars,
    *,
    remerge: bool = False,
) -> dict[str, Any]:
    """Fit one more expert into the bundle in ``folder``; its report. remerge: also merge it into the shared
    base. Raises InputError as ``add_expert`` and ``extend`` do."""
    report = report_of(folder)
    grown, report["experts"][task] = add_expert(folder, read_manifest(folder), task, checkpoint, shown.report)
    if remerge:
        grown = remerged(folder, grown)
    if kinship := kinship_of_experts(folder, grown, shown.report):
        report["kinship"] = kinship
    seal(folder, grown)
    if (folder / "router").is_dir():
        report["router"] = _routed(folder, grown, task, prompts, shown, anew=remerge)
    write_report(folder, grown, report)
    return report


def shrink(folder: Path, task: str, shown: Bars) -> Manifest:
    """Take one expert out of the bundle in ``folder``; its manifest. Raises InputError as ``remove_expert``
    does."""
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
    return manifest


@contextmanager
def derived(source: Path, target: Path, change: Callable[[Path], object]) -> Iterator[None]:
    """While inside, ``target`` is the bundle ``source`` after ``change`` of its private folder, sealed; it
    goes again when the block fails. Raises InputError for a source that does not verify, where the folder
    cannot be made, and what ``change`` raises."""
    Bundle.open(source)
    try:
        with staged(target) as folder:
            hard_copy(source, folder)
            change(folder)
            seal(folder, read_manifest(folder))
    except OSError as error:
        raise InputError(f"{target}: cannot be made: {error}") from error
    try:
        yield
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _routed(
    folder: Path, manifest: Manifest, task: str, prompts: list[Prompt] | None, shown: Bars, *, anew: bool
) -> dict[str, Any]:
    """The router of the grown bundle, written; its report."""
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
