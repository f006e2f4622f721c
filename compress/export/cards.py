"""What exported folders say of themselves: the mixture, where it comes from, how to use it."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from compress.bundle import Bundle, library_versions
from compress.compose import Mixture, factor_weights
from compress.export.vllm import serve_command

if TYPE_CHECKING:
    from compress.export.adapters import Exported, Form

# "static" is how the server calls the shared base; no task may have that name.
STATIC = "static"
LONGEST = 100


def mixture_name(mixture: Mixture) -> str:
    """A name for a folder and for a model: the task itself, ``static``, or tasks with weights.

    Task names hold neither "@" nor "+", so no blend is called as a task is.
    """
    if not mixture:
        return STATIC
    if list(mixture.values()) == [1.0]:
        return next(iter(mixture))
    name = "+".join(f"{task}@{weight:g}" for task, weight in mixture.items())
    return name if len(name) <= LONGEST else f"mixture@{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def model_card(bundle: Bundle, mixture: Mixture, dtype: str) -> str:
    """README.md of a plain model."""
    return _render("export_model", bundle, mixture=mixture, dtype=dtype, rows=_rows(bundle, mixture))


def adapter_card(bundle: Bundle, exported: Exported, base_sha256: str) -> str:
    """README.md of one adapter. base_sha256: of the weights in base/, which ``twinserve build`` checks."""
    rows = _rows(bundle, exported.mixture)
    return _render(
        "export_adapter",
        bundle,
        exported=exported,
        mixture=exported.mixture,
        base_sha256=base_sha256,
        rows=rows,
    )


def folder_card(bundle: Bundle, exported: list[Exported], form: Form) -> str:
    """README.md of a folder of adapters, with the commands that use it."""
    alone = base_name(bundle)
    command = serve_command({one.name: one.rank for one in exported}, alone) if form == "vllm" else None
    return _render("export_folder", bundle, adapters=exported, command=command, alone=alone)


def base_name(bundle: Bundle) -> str:
    """What base/ without an adapter is: the shared base, or the model that was fine-tuned."""
    return STATIC if bundle.manifest.reference == "shared" else "base"


def _rows(bundle: Bundle, mixture: Mixture) -> list[dict[str, Any]]:
    """The experts that a mixture is made of, with their weights g over base/; all, where they made that."""
    weights = factor_weights(mixture, bundle.carried, bundle.scalings)
    return [
        {"name": task, "g": g, "facts": bundle.manifest.experts[task]}
        for task, g in zip(bundle.carried, weights, strict=True)
        if g != 0.0 or bundle.manifest.reference == "shared"
    ]


def _render(template: str, bundle: Bundle, **facts: Any) -> str:
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    text = files("compress").joinpath(f"templates/{template}.md.j2").read_text(encoding="utf-8")
    manifest, made = bundle.manifest, library_versions()
    return environment.from_string(text).render(
        manifest=manifest, fingerprint=bundle.fingerprint, versions=made, **facts
    )
