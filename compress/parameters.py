"""What a model is made of: every parameter by its canonical name, and how a delta acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from compress.errors import InputError
from compress.loading import first_line


class Kind(StrEnum):
    """How a parameter acts on its input; decides how its delta is stored and served."""

    LINEAR = "linear"  # weight [d_out, d_in]
    CONV1D = "conv1d"  # GPT-2's transposed linear, weight [d_in, d_out]
    EMBEDDING = "embedding"  # weight [vocabulary, width]: a linear map from one-hot ids
    VECTOR = "vector"  # norm weights and biases, one dimension


@dataclass(frozen=True)
class Parameter:
    """One trainable tensor of a model.

    ``name`` is the name in ``model.named_parameters()``; ``module`` the owner's name; ``tied_head``
    names the output head when this embedding's weight is also the head's.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    module: str
    tied_head: str | None = None

    @property
    def is_matrix(self) -> bool:
        return self.kind is not Kind.VECTOR

    @property
    def sides(self) -> tuple[int, int]:
        """(d_out, d_in) of a matrix as a linear map."""
        rows, columns = self.shape
        return (columns, rows) if self.kind in (Kind.CONV1D, Kind.EMBEDDING) else (rows, columns)

    def to_map(self, weight: Tensor) -> Tensor:
        """A weight (or delta) of this parameter as a linear map [d_out, d_in], and back: its own inverse."""
        return weight.T if self.kind in (Kind.CONV1D, Kind.EMBEDDING) else weight


def empty_model(config: PretrainedConfig) -> nn.Module:
    """The model of ``config`` without memory for its weights (meta device).

    Raises InputError when transformers has no causal language model for this configuration.
    """
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # a foreign config.json fails in as many ways as there are models
        raise InputError(
            f"model type {config.model_type!r} with this config.json is not a causal language model "
            f"that this transformers can make: {first_line(error)}"
        ) from error
    return model


def parameter_table(config: PretrainedConfig) -> dict[str, Parameter]:
    """Every parameter of the model of ``config``, in the model's own order, tied ones once.

    Raises InputError naming the first parameter that experts cannot carry.
    """
    model: Any = empty_model(config)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    names = {id(module): name for name, module in model.named_modules()}
    table: dict[str, Parameter] = {}
    for name, tensor in model.named_parameters():
        module_name, _, leaf = name.rpartition(".")
        module = model.get_submodule(module_name)
        tied_head = names[id(head)] if tied and tensor is embedding.weight else None
        kind = _kind(name, leaf, module, tensor)
        table[name] = Parameter(name, tuple(tensor.shape), kind, module_name, tied_head)
    return table


def _kind(name: str, leaf: str, module: nn.Module, tensor: Tensor) -> Kind:
    if tensor.dim() == 1:
        return Kind.VECTOR
    if leaf == "weight" and tensor.dim() == 2:
        if isinstance(module, nn.Linear):
            return Kind.LINEAR
        if isinstance(module, Conv1D):
            return Kind.CONV1D
        if isinstance(module, nn.Embedding):
            return Kind.EMBEDDING
    raise InputError(
        f"parameter {name} of shape {tuple(tensor.shape)} belongs to a {type(module).__name__}, "
        f"which is not supported yet; supported are linear layers, Conv1D, embeddings, norms and biases"
    )


def read_config(folder: str) -> PretrainedConfig:
    """The configuration of a model folder.

    Raises InputError when it is missing, unreadable, or asks for code from the folder to be run.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as above
        raise InputError(f"{folder}: its config.json cannot be used: {first_line(error)}") from error
