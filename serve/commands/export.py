"""twinserve export: mixtures of a bundle as a plain model, PEFT adapters, or a folder for vLLM."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console

from serve.commands.progress import bars

if TYPE_CHECKING:
    import torch

    from compress.bundle import Bundle


class Form(StrEnum):
    """What to export."""

    MERGED = "merged"
    PEFT = "peft"
    VLLM = "vllm"


def export(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder.")],
    form: Annotated[
        Form, typer.Option("--as", help="One dense model; PEFT adapters; or adapters as vLLM serves them.")
    ] = Form.MERGED,
    mixture: Annotated[
        list[str] | None, typer.Option(metavar="TASK=W,TASK=W", help="A mixture; adapters: any number.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="One expert; static is the shared base.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every expert: the default for adapters.")] = False,
    lossy: Annotated[bool, typer.Option(help="Leave out of adapters what LoRA cannot hold.")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="Of weights or factors; default: as the bundle stores them.")
    ] = None,
) -> None:
    """Write mixtures of a bundle as others read them.

    A merged model is by default the shared base. Examples: twinserve export BUNDLE -o model --task recall;
    twinserve export BUNDLE -o served --as vllm
    """
    from compress.bundle import Bundle
    from compress.errors import InputError
    from compress.export import export_adapters, export_merged, mixture_name, serve_command
    from compress.export.cards import base_name
    from compress.staging import refuse_existing, staged

    asked = [_task(text) for text in task or []] + [_mixture(text) for text in mixture or []]
    if every and (asked or form is Form.MERGED):
        raise typer.BadParameter(
            "--all is every expert as an adapter: leave out --task, --mixture and --as merged"
        )
    if form is Form.MERGED and (len(asked) > 1 or lossy):
        raise typer.BadParameter("--as merged writes one mixture, with everything: give one, and no --lossy")
    stored = _dtype(dtype)
    refuse_existing(output)
    if output.resolve().is_relative_to(bundle.resolve()):
        raise InputError(f"{output}: lies inside the bundle; choose another output folder")
    opened = Bundle.open(bundle)
    console = Console()
    if form is Form.MERGED:
        chosen = asked[0] if asked else {}
        with bars() as shown, staged(output) as folder:
            export_merged(opened, chosen, folder, stored, progress=shown.report)
        what = f"dense weights of {mixture_name(chosen)}"
    else:
        with bars() as shown, staged(output) as folder:
            made = export_adapters(
                opened,
                asked or _all(opened, form),
                folder,
                "vllm" if form is Form.VLLM else "peft",
                lossy=lossy,
                dtype=stored,
                progress=shown.report,
            )
        for one in made:
            if one.left_out:
                console.print(
                    f"note: {one.name} leaves out {len(one.left_out)} parameters, "
                    f"{100 * one.share:.3g} % of the energy of its change",
                    highlight=False,
                    soft_wrap=True,
                )
        count = "1 adapter" if len(made) == 1 else f"{len(made)} adapters"
        what = f"base and {count} of rank {max(one.rank for one in made)} at most"
    size = sum(path.stat().st_size for path in output.rglob("*.safetensors"))
    console.print(f"{output}: {what}, {size / 1e6:.1f} MB", highlight=False, soft_wrap=True)
    if form is Form.VLLM:
        command = serve_command({one.name: one.rank for one in made}, base_name(opened))
        typer.echo(f"cd {shlex.quote(str(output))} && {command}")


def _all(bundle: Bundle, form: Form) -> list[dict[str, float]]:
    """Every expert; for a server also the shared base, where that is not base/ itself."""
    from compress.compose import factor_weights

    asked = [{task: 1.0} for task in bundle.tasks]
    if form is Form.VLLM and any(factor_weights({}, bundle.carried, bundle.scalings)):
        asked.insert(0, {})
    return asked


def _task(name: str) -> dict[str, float]:
    return {} if name == "static" else {name: 1.0}


def _mixture(text: str) -> dict[str, float]:
    from compress.errors import InputError

    found: dict[str, float] = {}
    for part in text.split(","):
        task, equals, weight = (word.strip() for word in part.partition("="))
        if not equals or task in found:
            raise InputError(f"--mixture {text}: give TASK=WEIGHT, separated by commas, each task once")
        try:
            found[task] = float(weight)
        except ValueError as error:
            raise InputError(
                f"--mixture {text}: the weight of {task!r} is {weight!r}, not a number"
            ) from error
    return found


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    from compress.recipe import Dtype

    if name is None:
        return None
    if name not in get_args(Dtype):
        raise typer.BadParameter(f"--dtype {name}: give {', '.join(get_args(Dtype))}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
