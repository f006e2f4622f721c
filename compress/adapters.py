"""PEFT LoRA adapters, read as exact factors; what is not supported is refused by name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor

from compress.checkpoints import Checkpoint
from compress.codes import QUANTISED, read_factors
from compress.errors import InputError
from compress.frontmatter import front_matter
from compress.lowrank import LowRank
from compress.parameters import Kind, Parameter
from compress.recipe import validation_sentence
from compress.tensorfiles import TensorFiles, hash_tensors, open_tensors

PREFIX = "base_model.model."
# File beside an adapter that holds what LoRA cannot: deltas, and factors of tied embeddings.
EXTRA = "extra"
# Settings whose every value is understood, or that say nothing about the weights.
UNDERSTOOD = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision",
    "inference_mode", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias",
    "modules_to_save", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "fan_in_fan_out", "lora_dropout", "megatron_core", "megatron_config", "qalora_group_size",
    "ensure_weight_tying", "runtime_config",
}  # fmt: skip
FLOATS = {"F64", "F32", "F16", "BF16"}
# These initialisations change the base weights, so the factors are no delta to the original base.
BASE_CHANGING_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")


class LoraSettings(BaseModel):
    """What of adapter_config.json decides the weights; types are not guessed."""

    model_config = ConfigDict(strict=True, extra="ignore")
    r: int = Field(ge=1)
    lora_alpha: FiniteFloat
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    use_rslora: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"

    def rank(self, module: str) -> int:
        """The rank that PEFT gives to a module."""
        return int(_patterned(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """The factor on ``B A`` that PEFT applies to a module (rsLoRA: Kalajdzievski 2023)."""
        rank, alpha = self.rank(module), _patterned(self.alpha_pattern, module, self.lora_alpha)
        return float(alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def _patterned(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's own choice among its ``rank_pattern`` or ``alpha_pattern`` for a module."""
    if not patterns:
        return default
    # Seconds and a hundred megabytes, which merges of full checkpoints and plain adapters do without.
    from peft.utils.other import get_pattern_key

    return patterns.get(get_pattern_key(list(patterns), module), default)


class Adapter:
    """One LoRA adapter over ``base``: factors by parameter name, and replaced tensors beside them.

    Supported: different ranks, ``rank_pattern``, ``alpha_pattern``, rsLoRA, ``modules_to_save``,
    ``bias``; linear layers, Conv1D and embeddings; and what experts of bundles have beside them.
    """

    def __init__(self, folder: Path, table: dict[str, Parameter]) -> None:
        """Read the adapter in ``folder`` against the base's parameter ``table``.

        Raises InputError when files are missing or broken, a feature is not supported, or a tensor
        does not fit the base.
        """
        self.folder, self.table = folder, table
        self.settings = _read_settings(folder)
        has_codes = (folder / f"{QUANTISED}.safetensors").is_file()
        self.codes = open_tensors(folder, QUANTISED) if has_codes else None
        self.tensors = _adapter_tensors(folder, optional=has_codes)
        has_extra = (folder / f"{EXTRA}.safetensors").is_file()
        self.extra: TensorFiles | None = open_tensors(folder, EXTRA) if has_extra else None
        self._by_module = {p.module: p for p in table.values() if p.is_matrix}
        self._factors: dict[str, dict[str, str]] = {}  # parameter -> {"A": key, "B": key}
        self._replaced: dict[str, str] = {}  # parameter -> key of its full new value
        for key in self.tensors.files:
            self._place(key)
        if not self._factors and not self._replaced and self.codes is None:
            raise InputError(f"{folder}: the adapter has no tensors; save it again")
        for name, pair in self._factors.items():
            self._check_pair(name, pair)
        self._check_tied()
        self._check_extra()

    def low_rank(self, name: str) -> LowRank | None:
        """The factors of one parameter in their stored dtype, unchanged, or None; of codes, float32."""
        if self.codes is not None and self.table[name].is_matrix:
            factors = read_factors(self.codes, name, self.table[name].sides)
            if factors is not None:
                return factors
        if self.extra is not None and f"{name}.A" in self.extra.files:
            return LowRank(A=self.extra.read(f"{name}.A"), B=self.extra.read(f"{name}.B"))
        pair = self._factors.get(name)
        if pair is None:
            return None
        a, b = self.tensors.read(pair["A"]), self.tensors.read(pair["B"])
        return LowRank(A=a, B=b, scale=self.settings.scale(self.table[name].module))

    def dense(self, name: str, base: Checkpoint, rows: slice | None = None) -> Tensor | None:
        """What is changed about one parameter, or some of its rows, without factors (``modules_to_save``,
        ``bias``, a delta beside the adapter), in float32, or None."""
        if self.extra is not None and name in self.extra.files:
            return self.extra.read(name, rows).to(torch.float32)
        key = self._replaced.get(name)
        if key is None:
            return None
        return self.tensors.read(key, rows).to(torch.float32) - base.weight(name, rows)

    def sha256(self) -> str:
        """Hash of the adapter's tensors, of those beside it, and of the settings that scale them."""
        stores = [store for store in (self.tensors, self.extra, self.codes) if store is not None]
        tensors = ((key, store.read(key)) for store in stores for key in sorted(store.files))
        return hash_tensors(tensors, self.settings.model_dump_json())

    def _place(self, key: str) -> None:
        path = key.removeprefix(PREFIX)
        self._check_float(key, self.tensors)
        match = re.fullmatch(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?", path)
        if match:
            parameter = self._by_module.get(match[1])
            self._refuse_tied_head(match[1])
            if parameter is None:
                raise InputError(
                    f"{self.folder}: {key} adapts {match[1]!r}, which the base does not have; "
                    "the adapter belongs to another model"
                )
            if (parameter.kind is Kind.EMBEDDING) != bool(match[2]):
                raise InputError(f"{self.folder}: {key} does not fit the base's {parameter.kind} layer")
            if match[3] in self._factors.setdefault(parameter.name, {}):
                raise InputError(f"{self.folder}: the factors of {parameter.name} are stored twice")
            self._factors[parameter.name][match[3]] = key
            return
        name = path.replace(".base_layer.", ".")
        self._refuse_tied_head(name.rpartition(".")[0])
        if name not in self.table:
            raise InputError(
                f"{self.folder}: tensor {key} is not supported yet, or the base has no parameter {name}"
            )
        if self.tensors.shapes[key] != self.table[name].shape:
            raise InputError(
                f"{self.folder}: {key} has shape {self.tensors.shapes[key]}, the base has "
                f"{self.table[name].shape}; the adapter belongs to another model"
            )
        if name in self._replaced:
            raise InputError(f"{self.folder}: {name} is stored twice")
        # Beside an adapted embedding PEFT stores the frozen base layer itself; build.py proves that
        # it equals the base's, because then the entry is a zero delta.
        self._replaced[name] = key

    def _check_pair(self, name: str, pair: dict[str, str]) -> None:
        if set(pair) != {"A", "B"}:
            raise InputError(f"{self.folder}: {name} has only one of its two LoRA factors")
        a, b = self.tensors.shapes[pair["A"]], self.tensors.shapes[pair["B"]]
        self._check_fit(name, a, b)
        rank = self.settings.rank(self.table[name].module)
        if a[0] != rank:
            raise InputError(
                f"{self.folder}: the factors of {name} have rank {a[0]}, its configuration says {rank}; "
                "the two files do not belong together"
            )

    def _check_tied(self) -> None:
        for name in (*self._factors, *self._replaced):
            if self.table[name].tied_head:
                self._refuse_tied(self.table[name])

    def _check_extra(self) -> None:
        if self.extra is None:
            return
        for key, shape in self.extra.shapes.items():
            name, factor = (key[:-2], key[-1]) if key[-2:] in (".A", ".B") else (key, "")
            self._check_float(key, self.extra)
            twice = name in self._factors or name in self._replaced or (factor and name in self.extra.files)
            if name not in self.table or twice or (factor and not self.table[name].is_matrix):
                raise InputError(
                    f"{self.folder}: {EXTRA}.safetensors has {key}, which does not belong to the base or is "
                    "stored twice; the files of the expert do not belong together"
                )
            if factor:
                self._check_extra_pair(name, self.extra.shapes)
            elif shape != self.table[name].shape:
                raise InputError(
                    f"{self.folder}: {EXTRA}.safetensors has {key} of shape {shape}, the base has "
                    f"{self.table[name].shape}; the expert belongs to another model"
                )

    def _check_extra_pair(self, name: str, shapes: dict[str, tuple[int, ...]]) -> None:
        a, b = shapes.get(f"{name}.A"), shapes.get(f"{name}.B")
        if a is None or b is None:
            raise InputError(f"{self.folder}: {EXTRA}.safetensors has only one of its two factors of {name}")
        self._check_fit(name, a, b)

    def _check_float(self, key: str, tensors: TensorFiles) -> None:
        if tensors.dtypes[key] not in FLOATS:
            raise InputError(f"{self.folder}: {key} is {tensors.dtypes[key]}, not a float tensor")

    def _check_fit(self, name: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
        d_out, d_in = self.table[name].sides
        if len(a) != 2 or len(b) != 2 or a[1] != d_in or b[0] != d_out or a[0] != b[1]:
            raise InputError(
                f"{self.folder}: LoRA factors of {name} have shapes {a} and {b}, the base's layer maps "
                f"{d_in} to {d_out}; the adapter belongs to another model"
            )

    def _refuse_tied_head(self, module: str) -> None:
        for parameter in self.table.values():
            if parameter.tied_head == module:
                self._refuse_tied(parameter)

    def _refuse_tied(self, parameter: Parameter) -> None:
        raise InputError(
            f"{self.folder}: the adapter changes {parameter.module} or {parameter.tied_head}, whose "
            "weight the base ties; adapters that untie them are not supported yet"
        )


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` is a PEFT adapter and not a full checkpoint."""
    return (folder / "adapter_config.json").is_file()


def recorded_base_hash(folder: Path) -> str | None:
    """The ``base_weights_sha256`` of an adapter's model card (README.md front matter), if it has one."""
    value = front_matter(folder).get("base_weights_sha256")
    return str(value) if value else None


def _adapter_tensors(folder: Path, *, optional: bool) -> TensorFiles:
    """adapter_model.safetensors; where it is optional and not there, no tensors."""
    if optional and not (folder / "adapter_model.safetensors").is_file():
        return TensorFiles(folder)
    return open_tensors(folder, "adapter_model")


def _read_settings(folder: Path) -> LoraSettings:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise InputError(f"{path}: peft_type {kind!r} is not supported yet; only LORA adapters are")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(BASE_CHANGING_INITS):
        raise InputError(
            f"{path}: init_lora_weights {init!r} changes the base weights; save the adapter with "
            "path_initial_model_for_weight_conversion first, which makes an ordinary LoRA of it"
        )
    for key, value in config.items():
        if key not in UNDERSTOOD and key != "init_lora_weights" and value:
            raise InputError(f"{path}: {key} = {value!r} is not supported yet")
    try:
        settings = LoraSettings.model_validate(config)
        for key in (*(settings.rank_pattern or {}), *(settings.alpha_pattern or {})):
            re.compile(key)
    except ValidationError as error:
        raise InputError(f"{path}: {validation_sentence(error, LoraSettings)}") from error
    except re.error as error:
        raise InputError(f"{path}: a pattern is no regular expression: {error}") from error
    return settings
