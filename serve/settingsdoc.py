"""docs/settings.md, made of the settings' own models: python -m serve.settingsdoc > docs/settings.md"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, SecretStr
from pydantic.fields import FieldInfo

from serve.serversettings import ServerSettings
from serve.settings import PREFIX

HEAD = """# Settings of the endpoint

`twinserve serve BUNDLE --config FILE.yaml`. A setting stands in that file under its key (`limits.queue` as
`limits: {queue: 64}`), in an environment variable, or is an option of the command, which counts most. Keys
and variables that do not exist are errors. `--print-config` prints what would be in force, as such a file.

This page is made from the settings themselves: `python -m serve.settingsdoc > docs/settings.md`.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_section(ServerSettings, "", "The engine and where it listens"))


def _section(model: type[BaseModel], above: str, title: str) -> Iterator[str]:
    yield f"\n## {title}\n\n| key | variable | value | default | |\n|---|---|---|---|---|\n"
    groups: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        key, annotation = f"{above}{name}", field.annotation
        if _is_group(annotation):
            groups.append((annotation, key))
            continue
        variable = PREFIX + key.upper().replace(".", "__")
        meaning = " ".join((field.description or "").split())
        yield f"| `{key}` | `{variable}` | {_kind(annotation)} | {_default(field)} | {meaning} |\n"
    for group, key in groups:
        yield from _section(group, f"{key}.", f"`{key}`: {(group.__doc__ or '').splitlines()[0]}")


def _is_group(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_kind(arg) for arg in args if arg is not type(None))
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin is list:
        return f"list of {_kind(args[0])}"
    if origin is not None and args:
        return _kind(args[0])
    known = {
        int: "integer",
        float: "number",
        str: "text",
        bool: "true or false",
        SecretStr: "secret text",
        ByteSize: "bytes, as in `2GiB`",
    }
    return known.get(
        annotation, "JSON" if _is_group(annotation) else getattr(annotation, "__name__", "text").lower()
    )


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, ByteSize):
        return f"`{value.human_readable(separator=' ')}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(page(), end="")
