"""A router on disk: router.json, router.safetensors (never a pickle), and report.html for people."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy import sparse

from compress.errors import InputError
from router.classifiers import classifier_class
from router.features import Matrix, finite
from router.features.projection import DIRECTIONS, ProjectionFeatures
from router.features.tfidf import BUCKETS
from router.novelty import NEIGHBOURS, Novelty
from router.report import page
from router.router import Router
from router.scaling import Scaling
from router.settings import RouterSettings

SCHEMA_VERSION = 2
AGAIN = "train the router again"
SPARSE = ("data", "indices", "indptr")


class _Head(BaseModel):
    """router.json."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    tasks: list[str] = Field(min_length=1)
    settings: RouterSettings
    fingerprint: str
    calibration: float = Field(gt=0, allow_inf_nan=False)
    compared: int | None = Field(default=None, ge=1)
    report: dict[str, Any]


def save_router(router: Router, folder: Path) -> None:
    """Write all files into ``folder``, which is made if missing; each is whole or not there."""
    head = _Head(
        schema_version=SCHEMA_VERSION,
        tasks=list(router.tasks),
        settings=router.settings,
        fingerprint=router.fingerprint,
        calibration=router.calibration,
        compared=None if router.novelty is None else router.novelty.compared,
        report=dict(router.report),
    )
    arrays = {name: np.ascontiguousarray(array) for name, array in _arrays(router).items()}
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "router.safetensors", save(arrays))
    _replace(folder / "report.html", page(router.report, router.tasks).encode())
    _replace(folder / "router.json", (head.model_dump_json(indent=2) + "\n").encode())


def load_router(folder: Path, fingerprint: str | None = None, tasks: Sequence[str] | None = None) -> Router:
    """Read what ``save_router`` wrote.

    fingerprint: of the shared base that it will be asked with; tasks: those that can answer; None where that
    is not known. Raises InputError if files are missing, damaged, of another version, trained on another
    shared base, or name other tasks.
    """
    head = _read_head(folder / "router.json")
    if head.fingerprint and fingerprint not in (None, head.fingerprint):
        raise InputError(
            f"{folder}: the router was trained on another shared base ({head.fingerprint[:12]}… instead of "
            f"{str(fingerprint)[:12]}…), whose features mean something else: {AGAIN}"
        )
    if unknown := sorted(set(head.tasks) - set(head.tasks if tasks is None else tasks)):
        raise InputError(f"{folder}: the router names the task {unknown[0]!r}, which has no expert: {AGAIN}")
    path = folder / "router.safetensors"
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read ({error}): {AGAIN}") from error
    try:
        scaling = _scaling(arrays, hashed=head.settings.features == ("tfidf",))
        classifier = classifier_class(head.settings.classifiers[0]).of(
            {k.removeprefix("classifier."): v for k, v in arrays.items() if k.startswith("classifier.")},
            len(head.tasks),
        )
        # Everything must fit together before the first prompt comes.
        width = len(scaling.weight)
        classifier.logits(np.zeros((1, width), dtype=np.float32))
        novelty = projection = None
        if head.settings.features == ("projection",):
            projection = _projection(arrays, head)
        else:
            novelty = _novelty(arrays, head, width)
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]} is missing: {AGAIN}") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: {error}: {AGAIN}") from error
    router = Router(
        tuple(head.tasks),
        head.settings,
        scaling,
        classifier,
        head.calibration,
        novelty,
        head.fingerprint,
        head.report,
        projection,
    )
    if extra := sorted(set(arrays) - set(_arrays(router))):
        raise InputError(f"{path}: {extra[0]} is no array of such a router: {AGAIN}")
    return router


def _arrays(router: Router) -> dict[str, np.ndarray]:
    arrays = {f"classifier.{name}": array for name, array in router.classifier.arrays().items()}
    arrays["scaling.weight"] = router.scaling.weight
    if router.scaling.columns is not None:
        arrays["scaling.columns"] = router.scaling.columns
    if router.novelty is not None:
        arrays["novelty.owner"] = router.novelty.owner
        arrays["novelty.thresholds"] = router.novelty.thresholds
        arrays |= _stored(router.novelty.references)
    if router.projection is not None:
        arrays |= {
            f"projection.directions.{name}": rows.astype(np.float16)
            for name, rows in router.projection.directions.items()
        }
        arrays |= {
            "projection.centre": router.projection.centre,
            "projection.spread": router.projection.spread,
        }
    return arrays


def _read_head(path: Path) -> _Head:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}): {AGAIN}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version {version!r} is not supported, only {SCHEMA_VERSION}: "
            f"{AGAIN} with this version of twinserve"
        )
    try:
        head = _Head.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}: {first['msg']}: {AGAIN}") from error
    if len(set(head.tasks)) != len(head.tasks):
        raise InputError(f"{path}: tasks: a task is named twice: {AGAIN}")
    for name in ("features", "classifiers"):
        if len(getattr(head.settings, name)) != 1:
            raise InputError(f"{path}: settings.{name}: one is needed: {AGAIN}")
    return head


def _scaling(arrays: dict[str, np.ndarray], *, hashed: bool) -> Scaling:
    weight = arrays["scaling.weight"]
    columns = arrays.get("scaling.columns")
    if hashed != (columns is not None):
        raise ValueError(f"scaling.columns {'is missing' if hashed else 'belongs to hashed features'}")
    if columns is not None and columns.size and not (0 <= columns.min() <= columns.max() < 2 * BUCKETS):
        raise ValueError(f"scaling.columns names n-grams beyond the {2 * BUCKETS} that there are")
    if weight.ndim != 1 or weight.dtype != np.float32 or not (np.isfinite(weight) & (weight > 0)).all():
        raise ValueError("scaling.weight holds unusable numbers")
    if columns is not None and (columns.shape != weight.shape or columns.dtype != np.int32):
        raise ValueError(
            f"scaling.columns is {columns.dtype} {columns.shape} instead of int32 {weight.shape}"
        )
    return Scaling(weight, columns)


def _projection(arrays: dict[str, np.ndarray], head: _Head) -> ProjectionFeatures:
    prefix = "projection.directions."
    # As saved: safetensors gives names sorted, and so did fitting.
    directions = {
        name.removeprefix(prefix): array.astype(np.float32)
        for name, array in sorted(arrays.items())
        if name.startswith(prefix)
    }
    experts = len(head.tasks)
    centre, spread = arrays["projection.centre"], arrays["projection.spread"]
    for name, array in (("centre", centre), ("spread", spread)):
        if array.shape != (len(directions), experts) or array.dtype != np.float32 or np.isnan(array).any():
            raise ValueError(f"projection.{name} is {array.dtype} {array.shape}, or holds unusable numbers")
    for name, rows in directions.items():
        if (
            rows.ndim != 2
            or len(rows) != experts * DIRECTIONS
            or not np.isfinite(rows).all()
            or not rows.size
        ):
            raise ValueError(f"{prefix}{name} is {rows.shape}, or holds unusable numbers")
    if not np.isfinite(centre).all() or np.isinf(spread).all(0).any():
        raise ValueError("projection.centre or .spread hold unusable numbers")
    if arrays["scaling.weight"].shape != (experts,):
        raise ValueError(f"scaling.weight is {arrays['scaling.weight'].shape} instead of ({experts},)")
    if not (spread > 0).all() or head.settings.layer is None:
        raise ValueError("projection.spread holds unusable numbers, or settings.layer is missing")
    return ProjectionFeatures(head.settings.layer, directions, centre, spread)


def _novelty(arrays: dict[str, np.ndarray], head: _Head, width: int) -> Novelty:
    tasks = len(head.tasks)
    owner = arrays["novelty.owner"]
    references = _restored(arrays, width)
    if references.shape[1] != width:
        raise ValueError(f"novelty.references are {references.shape[1]} wide instead of {width}")
    thresholds = arrays["novelty.thresholds"]
    if thresholds.shape != (tasks,) or thresholds.dtype != np.float64 or not (thresholds >= 0).all():
        raise ValueError(
            f"novelty.thresholds is {thresholds.dtype} {thresholds.shape}, or holds unusable numbers"
        )
    if owner.shape != (references.shape[0],) or owner.dtype != np.int32 or len(owner) < NEIGHBOURS:
        raise ValueError(f"novelty.owner is {owner.dtype} {owner.shape}, beside {references.shape[0]} rows")
    if not ((owner >= 0) & (owner < tasks)).all():
        raise ValueError(f"novelty.owner names tasks beyond the {tasks} of router.json")
    if not finite(references):
        raise ValueError("novelty.references holds unusable numbers")
    if head.compared is not None and head.compared > width:
        raise ValueError(f"router.json compares {head.compared} features of {width}")
    return Novelty(references, owner, thresholds, head.compared)


def _stored(references: Matrix) -> dict[str, np.ndarray]:
    if not sparse.issparse(references):
        return {"novelty.references": references.astype(np.float16)}
    return {
        "novelty.references.data": references.data.astype(np.float16),
        "novelty.references.indices": references.indices.astype(np.int32),
        "novelty.references.indptr": references.indptr.astype(np.int32),
    }


def _restored(arrays: dict[str, np.ndarray], width: int) -> Matrix:
    if "novelty.references" in arrays:
        dense = arrays["novelty.references"]
        if dense.ndim != 2 or dense.dtype != np.float16:
            raise ValueError(
                f"novelty.references is {dense.dtype} {dense.shape} instead of float16 (any, any)"
            )
        return dense.astype(np.float32)
    data, indices, indptr = (arrays[f"novelty.references.{part}"] for part in SPARSE)
    matrix = sparse.csr_matrix((data.astype(np.float32), indices, indptr), (len(indptr) - 1, width))
    matrix.check_format()
    return matrix


def _replace(path: Path, content: bytes) -> None:
    # The old file may be a hard link shared with another bundle: it must not be written into.
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
