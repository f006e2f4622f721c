"""Full checkpoints, lazily read by the base model's own parameter names."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compress.errors import InputError
from compress.lowrank import LowRank
from compress.parameters import Parameter, empty_model, parameter_table, read_config
from compress.tensorfiles import TensorFiles, hash_parts, open_tensors, stretches

# Settings that change what the same weights compute.
MEANING = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "rope_parameters",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "layer_norm_eps",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "sliding_window",
    "layer_types",
    "tie_word_embeddings",
)
# Constants that older checkpoints store beside the weights.
BUFFERS = re.compile(r"(attn\.(masked_)?bias|crossattention\.(masked_)?bias|rotary_emb\.inv_freq)$")


class Checkpoint:
    """A model folder: ``table`` of its parameters and one tensor at a time.

    ``table``: canonical name -> Parameter. For a fine-tune it is the base's table, so that every
    difference in names or shapes is found before any weight is read.
    """

    def __init__(
        self,
        folder: Path,
        config: PretrainedConfig,
        table: dict[str, Parameter],
        tensors: TensorFiles,
        prefix: str,
    ) -> None:
        self.folder, self.config, self.table = folder, config, table
        self.tensors, self._prefix = tensors, prefix
        self._keys = _match(folder, table, tensors, prefix)
        self._sha256: str | None = None

    @classmethod
    def open(cls, folder: Path, base: Checkpoint | None = None) -> Checkpoint:
        """Open a model folder; with ``base``, as a fine-tune of it.

        Raises InputError when files are missing or broken, or names or shapes differ from the base's.
        """
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: no config.json here; point to a Hugging Face model folder")
        config = read_config(str(folder))
        if base is None:
            table = parameter_table(config)
            prefix = getattr(empty_model(config), "base_model_prefix", "") + "."
        else:
            _check_same_model(folder, config, base.config)
            table, prefix = base.table, base._prefix
        checkpoint = cls(folder, config, table, open_tensors(folder), prefix)
        checkpoint._check_tied_heads()
        return checkpoint

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """A parameter, or some of its rows, in its stored dtype, shaped as in the table."""
        return self.tensors.read(self._keys[name], rows)

    def weight(self, name: str, rows: slice | None = None) -> Tensor:
        """A parameter, or some of its rows, in float32."""
        return self.read(name, rows).to(torch.float32)

    def low_rank(self, name: str) -> LowRank | None:
        """A full checkpoint knows no exact factors of its task vectors."""
        return None

    def dense(self, name: str, base: Checkpoint, rows: slice | None = None) -> Tensor | None:
        """The task vector ``W_t - W_0`` of one parameter, or of some of its rows, in float32."""
        return self.weight(name, rows) - base.weight(name, rows)

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(torch.Size(parameter.shape).numel() for parameter in self.table.values())

    def sha256(self) -> str:
        """Hash of all weights: names, dtypes, shapes and bytes, however they are sharded; read once."""
        if self._sha256 is None:
            self._sha256 = hash_parts(
                (name, shape, (self.read(name, rows) for _, rows in stretches(shape)))
                for name in sorted(self.table)
                for shape in [self.table[name].shape]
            )
        return self._sha256

    def _check_tied_heads(self) -> None:
        for parameter in self.table.values():
            head = f"{parameter.tied_head}.weight"
            if (
                parameter.tied_head
                and head in self.tensors.files
                and not torch.equal(self.tensors.read(head), self.read(parameter.name))
            ):
                raise InputError(
                    f"{self.folder}: {head} differs from {parameter.name}, but the base ties the two; "
                    "untied fine-tunes of a tied base are not supported yet"
                )


def _check_same_model(folder: Path, config: PretrainedConfig, base: PretrainedConfig) -> None:
    for key in MEANING:
        ours, theirs = getattr(config, key, None), getattr(base, key, None)
        if ours != theirs:
            raise InputError(
                f"{folder}: its config.json has {key} = {ours!r}, the base {theirs!r}: the same weights "
                "would compute something else; only fine-tunes that keep the base's architecture can be used"
            )


def _match(folder: Path, table: dict[str, Parameter], tensors: TensorFiles, prefix: str) -> dict[str, str]:
    """Canonical name -> name in the file. Files may lack or add the model's ``prefix`` (``transformer.``)."""
    keys: dict[str, str] = {}
    unknown: list[str] = []
    heads = {f"{p.tied_head}.weight" for p in table.values() if p.tied_head}
    for key in tensors.files:
        names = (key, prefix + key, key.removeprefix(prefix))
        name = next((name for name in names if name in table), None)
        if name is not None:
            keys[name] = key
        elif key not in heads and not BUFFERS.search(key):
            unknown.append(key)
    missing = [name for name in table if name not in keys]
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which the base lacks"
        more = len(missing) + len(unknown) - 1
        raise InputError(
            f"{folder}: its parameters are not those of the base: it {what}"
            + (f" ({more} more differences)" if more else "")
            + "; all checkpoints must be fine-tunes of one base model, and a base must fit its config.json"
        )
    for name, parameter in table.items():
        shape = tensors.shapes[keys[name]]
        if shape != parameter.shape:
            raise InputError(f"{folder}: {_shape_sentence(parameter, shape)}")
    return keys


def _shape_sentence(parameter: Parameter, shape: tuple[int, ...]) -> str:
    sentence = f"{parameter.name} has shape {shape}, the base has {parameter.shape}"
    if parameter.tied_head or "embed" in parameter.name or "wte" in parameter.name:
        return (
            f"{sentence}: another vocabulary ({shape[0]} tokens against {parameter.shape[0]}); "
            "only fine-tunes that keep the base's tokenizer can be used"
        )
    return f"{sentence}; only fine-tunes of the same architecture can be used"
