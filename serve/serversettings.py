"""All that an operator of the endpoint can set: in one YAML file, by variables, by options."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
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
from serve.api.limits import Limits
from serve.api.security import Security
from serve.experimentsettings import Experiments
from serve.logs import LogSettings
from serve.pagesettings import Page
from serve.settings import PREFIX, EngineSettings
from serve.tracing import TracingSettings

# What twinserve chat and experiment send to an endpoint; its own are security.api_key and admin_key.
OTHER_VARIABLES = {"API_KEY", "ADMIN_KEY"}


class ServerSettings(EngineSettings):
    """The endpoint: where it listens, and all that its engine needs."""

    request_timeout: float | None = Field(600.0, gt=0)
    """Seconds after which a request is given up; a client may ask for less with ``x-request-timeout``."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    name: str | None = None
    """Model id that clients ask for; unset is the bundle's folder name."""
    drain_timeout: float = Field(30, ge=0)
    """Seconds that running requests have to end after SIGTERM; then they are ended with an error."""
    limits: Limits = Field(default_factory=Limits)
    """What the endpoint takes on before it refuses."""
    security: Security = Field(default_factory=Security)
    """Who may ask, and what browsers may do."""
    page: Page = Field(default_factory=Page)
    log: LogSettings = Field(default_factory=LogSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    admin: Admin = Field(default_factory=Admin)
    experiments: Experiments = Field(default_factory=Experiments)


class OptionError(InputError):
    """An option of the command has a value that it cannot have."""


def read_settings(file: Path | None = None, **options: Any) -> ServerSettings:
    """Settings from options, then variables, then ``file``, then defaults; groups are merged key by key.

    Raises InputError, one sentence that says where the value stands, for one that is wrong, or a key or a
    variable that does not exist; OptionError where it is an option.
    """
    known = list(ServerSettings.model_fields)
    content = {} if file is None else read_mapping(file, "settings file", known)
    _refuse_unknown_variables(known)
    if file is not None:
        # Alone first: then whatever is wrong with it is this file's fault.
        _validated(_from(content), f"{file}: ")
    _validated(_from({}, environment=True), f"variables {PREFIX}…: ")
    try:
        return _validated(_from(content, environment=True), "", **options)
    except InputError as error:
        raise OptionError(str(error)) from error


def as_yaml(settings: ServerSettings) -> str:
    """Every setting and its value, as a settings file that gives the same again; secrets are
    masked, and a mask is refused as a secret."""
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
            variables = (_Variables(settings_cls),) if environment else ()
            return init_settings, *variables, InitSettingsSource(settings_cls, content)

    return Read


class _Variables(EnvSettingsSource):
    """TWINSERVE_LOG alone is the level, as of every other command."""

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        if field_name == "log" and value is not None:
            value = json.dumps({"level": value})
        return super().prepare_field_value(field_name, field, value, value_is_complex)


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
