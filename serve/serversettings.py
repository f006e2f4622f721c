"""All that an operator of the endpoint can set: in one YAML file, by variables, by options."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from compress.errors import InputError
from compress.recipe import validation_sentence
from compress.yamlfile import read_mapping
from serve.adminsettings import Admin
from serve.settings import PREFIX, EngineSettings

# Read by the command line itself, before there are settings.
OTHER_VARIABLES = {"LOG"}


class ServerSettings(EngineSettings):
    """The endpoint: where it listens, and all that its engine needs."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    name: str | None = None
    """Model id that clients ask for; unset is the bundle's folder name."""
    drain_timeout: float = Field(30, ge=0)
    """Seconds that running requests have to end after SIGTERM; then they are ended with an error."""
    admin: Admin = Field(default_factory=Admin)


def read_settings(file: Path | None = None, **options: Any) -> ServerSettings:
    """Settings from options, then variables, then ``file``, then defaults; groups are merged key by key.

    Raises InputError, one sentence that says where the value stands, for one that is wrong, or a key or a
    variable that does not exist.
    """
    known = list(ServerSettings.model_fields)
    content = {} if file is None else read_mapping(file, "settings file", known)
    _refuse_unknown_variables(known)
    if file is not None:
        # Alone first: then whatever is wrong with it is this file's fault.
        _validated(_from(content), f"{file}: ")
    _validated(_from({}, environment=True), f"variables {PREFIX}…: ")
    return _validated(_from(content, environment=True), "", **options)


def as_yaml(settings: ServerSettings) -> str:
    """Every setting and its value, as a settings file that gives the same again; secrets are left out."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _from(content: dict[str, Any], environment: bool = False) -> type[ServerSettings]:
    """The settings' class, reading ``content`` below the environment."""

    class Read(ServerSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            *_: PydanticBaseSettingsSource,
            **__: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            variables = (EnvSettingsSource(settings_cls),) if environment else ()
            return init_settings, *variables, InitSettingsSource(settings_cls, content)

    return Read


def _validated(read: type[ServerSettings], where: str, **options: Any) -> ServerSettings:
    try:
        return read(**options)
    except ValidationError as error:
        raise InputError(f"{where}{validation_sentence(error, ServerSettings)}") from error
    except ValueError as error:
        # pydantic-settings' own: a variable whose JSON cannot be read.
        raise InputError(f"{where}{error}") from error


def _refuse_unknown_variables(known: list[str]) -> None:
    for variable in os.environ:
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX)
        if name in OTHER_VARIABLES or name.split("__")[0].lower() in known:
            continue
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
        raise InputError(f"variable {variable}: there is no such setting{hint}")
