"""The artefact: a folder with a base, its experts and a manifest of checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from compress.errors import InputError
from compress.experts import Expert
from compress.loading import first_line
from compress.parameters import Parameter, parameter_table, read_config
from compress.recipe import RESERVED, SHARED, TASK_NAME, validation_sentence
from compress.staging import hard_copy, publish, staged

SCHEMA = 1
MANIFEST = "bundle.json"
CARD = "README.md"
LIBRARIES = ("twinserve", "torch", "numpy", "scipy", "transformers", "peft", "safetensors")


class BaseFacts(BaseModel):
    """The model that base/ was made from and what base/ holds."""

    model_config = ConfigDict(extra="forbid")
    source: str
    sha256: str
    parameters: int = Field(gt=0)
    dtype: str


class ExpertFacts(BaseModel):
    """One expert: where it came from and what it costs. ``kept`` is the share of energy kept,
    ``sha256`` the hash of the fine-tune's own tensors."""

    model_config = ConfigDict(extra="forbid")
    source: str
    sha256: str
    kind: Literal["adapter", "compressed adapter", "full", "merge"]
    bytes: int
    max_rank: int
    kept: float


class SharedFacts(BaseModel):
    """How the shared base was merged: by which method with which settings, defaults filled in. ``weights``
    are those by which it is reached through experts' deltas, where base/ is the pretrained one: lambda_t."""

    model_config = ConfigDict(extra="forbid")
    method: str
    weights: dict[str, FiniteFloat]
    parameters: dict[str, Any] = {}

    def __str__(self) -> str:
        """The method, and lambda_t where the merge is a sum of the experts."""
        if SHARED in self.weights or not any(self.weights.values()):
            return self.method
        return f"{self.method}: " + ", ".join(f"{task} {w:g}" for task, w in self.weights.items())


class Manifest(BaseModel):
    """bundle.json. ``reference`` says what base/ is: the shared base, or the pretrained one. ``retired``
    experts answer nobody: their factors are only there because the shared base is reached through them. So is
    the one called ``shared``, ``W_s - W_0``, which is there where the merge is no sum of the experts."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = SCHEMA
    base: BaseFacts
    reference: Literal["shared", "pretrained"]
    shared: SharedFacts
    experts: dict[str, ExpertFacts]
    recipe: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str] = {}
    retired: list[str] = []

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        for task in self.experts:
            carrier = task == SHARED and task in self.retired
            if not carrier and (task in RESERVED or not TASK_NAME.fullmatch(task)):
                raise ValueError(f"{task!r} is no task name")
        if set(self.shared.weights) != set(self.experts):
            raise ValueError("shared.weights and experts name different tasks")
        if not set(self.retired) < set(self.experts):
            raise ValueError("retired does not name some of the experts")
        return self

    @property
    def tasks(self) -> list[str]:
        """Those that can answer."""
        return [task for task in self.experts if task not in self.retired]

    @property
    def base_files(self) -> dict[str, str]:
        """Files of base/ that say what it computes, and their hashes."""
        return {
            name: sha
            for name, sha in self.files.items()
            if name.startswith("base/") and name != f"base/{CARD}"
        }

    @property
    def expert_files(self) -> dict[str, str]:
        """Files of experts that say what they compute, by expert as ``factor_weights``, and their hashes."""
        return {
            name: sha
            for task in self.experts
            for name, sha in sorted(self.files.items())
            if name.startswith(f"{expert_folder(task)}/") and not name.endswith(f"/{CARD}")
        }

    @property
    def fingerprint(self) -> str:
        """Hash of all that makes the shared base: base/, and the experts that it is reached through. Equal
        ones answer alike without any expert: what a router learnt of one holds for the other, whatever
        else the bundles carry."""
        made = self.base_files
        for task, weight in self.shared.weights.items():
            if weight and self.reference == "pretrained":
                for name, sha in self.files.items():
                    if name.startswith(f"{expert_folder(task)}/") and name.endswith(".safetensors"):
                        made[f"{name} x {weight}"] = sha
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


class Bundle:
    """An opened bundle: checksums hold, the parts are read lazily. digest: see ``digest_of``."""

    def __init__(self, path: Path, manifest: Manifest, digest: str = "") -> None:
        self.path, self.manifest, self.digest = path, manifest, digest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open and verify. Raises InputError naming the first file whose hash does not hold."""
        manifest, digest = read_manifest(path), digest_of(path)
        present = set(_listing(path))
        for name, expected in manifest.files.items():
            # Only what stands in the folder is opened, whatever paths a manifest may name.
            if name not in present:
                raise InputError(f"{path}: {name} is missing; build or copy the bundle again")
            actual = _sha256(path / name)
            if actual != expected:
                raise InputError(
                    f"{path}: {name} has sha256 {actual[:16]}…, the manifest says {expected[:16]}…; "
                    "the file was changed or damaged, so build or copy the bundle again"
                )
        foreign = sorted(present - set(manifest.files))
        if foreign:
            raise InputError(f"{path}: {foreign[0]} is not in the manifest; remove it from the bundle")
        return cls(path, manifest, digest)

    @property
    def tasks(self) -> list[str]:
        """Experts that can answer."""
        return self.manifest.tasks

    @property
    def carried(self) -> list[str]:
        """All experts whose factors there are, in the order of ``factor_weights``; the shared base may be
        reached through some that answer nobody any more."""
        return list(self.manifest.experts)

    @property
    def base(self) -> Path:
        """The model folder that experts are deltas of."""
        return self.path / "base"

    @property
    def scalings(self) -> dict[str, float] | None:
        """lambda_t where the shared base is reached through the experts; None where base/ is it."""
        return self.manifest.shared.weights if self.manifest.reference == "pretrained" else None

    @property
    def fingerprint(self) -> str:
        """Hash of the shared base, see ``Manifest.fingerprint``."""
        return self.manifest.fingerprint

    def table(self) -> dict[str, Parameter]:
        """The base's parameters."""
        return parameter_table(read_config(str(self.base)))

    def expert(self, task: str, table: dict[str, Parameter]) -> Expert:
        """One expert over the parameters of ``table()``."""
        return Expert(self.path / expert_folder(task), table)

    def bytes(self) -> dict[str, int]:
        """Bytes of weights by part: ``base``, ``experts``, ``router``."""
        sizes = dict.fromkeys(("base", "experts", "router"), 0)
        for path in self.path.rglob("*.safetensors"):
            part = path.relative_to(self.path).parts[0]
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
        return sizes


def expert_folder(task: str) -> str:
    """Where in a bundle the factors of ``task`` are."""
    return SHARED if task == SHARED else f"experts/{task}"


def digest_of(path: Path) -> str:
    """SHA-256 of a bundle's manifest, which has the hashes of all other files: where it is equal, so is all
    that the bundles hold."""
    return _sha256(path / MANIFEST)


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
    except InputError:
        raise
    except ValidationError as error:
        raise InputError(f"{file}: not a bundle manifest: {validation_sentence(error, Manifest)}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{file}: not a bundle manifest: {first_line(error)}") from error


@contextmanager
def create(path: Path) -> Iterator[Path]:
    """A private folder that becomes the bundle ``path`` when ``seal`` was called and nothing failed.

    Raises InputError when ``path`` exists and is not a bundle: it would be overwritten.
    """
    if path.exists():
        _check_replaceable(path)
    with staged(path) as folder:
        yield folder


def _check_replaceable(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        return
    problem = f"{path}: exists and is not a bundle; choose another output folder"
    if not path.is_dir():
        raise InputError(problem)
    try:
        foreign = sorted(set(_listing(path)) - set(read_manifest(path).files))
    except InputError as error:
        raise InputError(problem) from error
    if foreign:
        raise InputError(
            f"{path}: holds {foreign[0]}, which is not part of the bundle there and would be lost; "
            "move it away or choose another output folder"
        )


@contextmanager
def edit(path: Path) -> Iterator[Path]:
    """A private copy (hard links) of bundle ``path`` to change; swapped in with new checksums.

    Files of the copy must be replaced, never written into, and the manifest by ``seal``. The bundle stays
    as it was on any error.
    """
    Bundle.open(path)
    with staged(path) as folder:
        hard_copy(path, folder)
        yield folder
        seal(folder, read_manifest(folder))


def seal(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json with the hash of every file in ``folder``."""
    manifest = manifest.model_copy(
        update={"files": {name: _sha256(folder / name) for name in _listing(folder)}}
    )
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    for name in (*manifest.files, MANIFEST):
        publish(folder / name)
    read_manifest(folder)


def library_versions() -> dict[str, str]:
    """Versions recorded for provenance."""
    return {name: version(name) for name in LIBRARIES}


def _listing(folder: Path) -> list[str]:
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            # What a link leads to can change without any byte here changing.
            raise InputError(f"{folder}: {name} is a link; a bundle holds plain files only")
        if path.is_file() and name != MANIFEST:
            names.append(name)
    return names


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
