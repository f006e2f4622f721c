"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serve.settings import EngineSettings

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; default: cuda where it is.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; default by device.")]
Slots = Annotated[int | None, typer.Option(min=1, help="Requests that decode together.")]
MaxModelLen = Annotated[int | None, typer.Option(min=2, help="Prompt and answer tokens together.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of one forward pass.")]
Url = Annotated[str, typer.Option(help="The running endpoint, as http://127.0.0.1:8000.")]
AdminKey = Annotated[
    str | None, typer.Option(envvar="TWINSERVE_ADMIN_KEY", help="One of the endpoint's admin keys.")
]


def engine_settings(**options: Any) -> EngineSettings:
    """Settings from options; what is not given comes from TWINSERVE_… variables or defaults."""
    from pydantic import ValidationError

    from compress.recipe import validation_sentence
    from serve.settings import EngineSettings

    given = {key: value for key, value in options.items() if value is not None}
    try:
        return EngineSettings(**given)
    except ValidationError as error:
        raise typer.BadParameter(validation_sentence(error, EngineSettings)) from error
