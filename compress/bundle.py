"""The artefact: a folder with a base, its experts and a manifest of checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import InputError
from compress.experts import Expert
from compress.parameters import Parameter, parameter_table, read_config
from compress.staging import hard_copy, staged

SCHEMA = 1
MANIFEST = "bundle.json"
LIBRARIES = ("twinserve", "torch", "transformers", "peft", "safetensors")


class BaseFacts(BaseModel):
    """The model that base/ was made from and what base/ holds."""

    model_config = ConfigDict(extra="forbid")
    source: str
    sha256: str
    parameters: int
    dtype: str


class ExpertFacts(BaseModel):
    """One expert: where it came from and what it costs. ``kept`` is the share of energy kept."""

    model_config = ConfigDict(extra="forbid")
    source: str
    kind: Literal["adapter", "full"]
    bytes: int
    max_rank: int
    kept: float


class SharedFacts(BaseModel):
    """How the shared base was merged; ``weights`` are lambda_t."""

    model_config = ConfigDict(extra="forbid")
    method: str
    weights: dict[str, float]


class Manifest(BaseModel):
    """bundle.json. ``reference`` says what base/ is: the shared base, or the pretrained one."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = SCHEMA
    base: BaseFacts
    reference: Literal["shared", "pretrained"]
    shared: SharedFacts
    experts: dict[str, ExpertFacts]
    recipe: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str] = {}

    @property
    def tasks(self) -> list[str]:
        return list(self.experts)


class Bundle:
    """An opened bundle: checksums hold, the parts are read lazily."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open and verify. Raises InputError naming the first file whose hash does not hold."""
        manifest = read_manifest(path)
        for name, expected in manifest.files.items():
            file = path / name
            if not file.is_file():
                raise InputError(f"{path}: {name} is missing; build or copy the bundle again")
            actual = _sha256(file)
            if actual != expected:
                raise InputError(
                    f"{path}: {name} has sha256 {actual[:16]}…, the manifest says {expected[:16]}…; "
                    "the file was changed or damaged, so build or copy the bundle again"
                )
        foreign = sorted(set(_listing(path)) - set(manifest.files))
        if foreign:
            raise InputError(f"{path}: {foreign[0]} is not in the manifest; remove it from the bundle")
        return cls(path, manifest)

    @property
    def tasks(self) -> list[str]:
        return self.manifest.tasks

    @property
    def base(self) -> Path:
        """The model folder that experts are deltas of."""
        return self.path / "base"

    @property
    def scalings(self) -> dict[str, float] | None:
        """lambda_t where the shared base is reached through the experts; None where base/ is it."""
        return self.manifest.shared.weights if self.manifest.reference == "pretrained" else None

    def table(self) -> dict[str, Parameter]:
        """The base's parameters."""
        return parameter_table(read_config(str(self.base)))

    def expert(self, task: str, table: dict[str, Parameter]) -> Expert:
        """One expert over the parameters of ``table()``."""
        return Expert(self.path / "experts" / task, table)

    def bytes(self) -> dict[str, int]:
        """Bytes of weights by part: ``base``, ``experts``, ``router``."""
        sizes = dict.fromkeys(("base", "experts", "router"), 0)
        for path in self.path.rglob("*.safetensors"):
            part = path.relative_to(self.path).parts[0]
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
        return sizes


def read_manifest(path: Path) -> Manifest:
    """bundle.json of a bundle folder. Raises InputError when it is missing or of another schema."""
    file = path / MANIFEST
    if not file.is_file():
        raise InputError(f"{path}: not a bundle (no {MANIFEST}); make one with twinserve build")
    try:
        content = json.loads(file.read_text())
        if content.get("schema_version") != SCHEMA:
            raise InputError(
                f"{file}: schema version {content.get('schema_version')} is not {SCHEMA}, the one this "
                "twinserve reads; build the bundle again or install the matching version"
            )
        return Manifest.model_validate(content)
    except (ValueError, AttributeError, ValidationError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not a bundle manifest: {str(error).splitlines()[0]}") from error


@contextmanager
def create(path: Path) -> Iterator[Path]:
    """A private folder that becomes the bundle ``path`` when ``seal`` was called and nothing failed.

    Raises InputError when ``path`` exists and is not a bundle: it would be overwritten.
    """
    if path.exists() and not (path / MANIFEST).is_file() and any(path.iterdir()):
        raise InputError(f"{path}: exists and is not a bundle; choose another output folder")
    with staged(path) as folder:
        yield folder


@contextmanager
def edit(path: Path) -> Iterator[Path]:
    """A private copy (hard links) of bundle ``path`` to change; swapped in with a new manifest.

    Files of the copy must be replaced, never written into. The bundle stays as it was on any error.
    """
    manifest = Bundle.open(path).manifest
    with staged(path) as folder:
        hard_copy(path, folder)
        yield folder
        seal(folder, manifest)


def seal(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json with the hash of every file in ``folder``."""
    manifest = manifest.model_copy(
        update={"files": {name: _sha256(folder / name) for name in _listing(folder)}}
    )
    for path in folder.rglob("*"):
        # safetensors writes files for their owner only; a server often runs as somebody else.
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")


def library_versions() -> dict[str, str]:
    """Versions recorded for provenance."""
    return {name: version(name) for name in LIBRARIES}


def _listing(folder: Path) -> list[str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    return [name for name in names if name != MANIFEST]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
