"""The reference and the model to align to it: opened, and refused unless they are two of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PretrainedConfig

from compress.alignment.architectures import Architecture, Sizes, architecture, sizes
from compress.alignment.calibration import PIECE, Batch, causal_batches, masked_batches
from compress.checkpoints import MEANING
from compress.errors import InputError
from compress.loading import first_line, load_tokenizer
from compress.parameters import read_config
from compress.tensorfiles import open_tensors

# Settings that decide how many units there are.
COUNTS = ("num_hidden_layers", "hidden_size", "intermediate_size", "head_dim", "vocab_size")


@dataclass(frozen=True)
class Pair:
    """Two models of one architecture, in float32, ready to be run."""

    family: Architecture
    sizes: Sizes
    reference: Any
    model: Any

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters of both by name, tied ones once."""
        reference, model = (
            {name: tensor.detach() for name, tensor in one.named_parameters()}
            for one in (self.reference, self.model)
        )
        return reference, model


def open_pair(reference: Path, model: Path) -> Pair:
    """Load two model folders. Raises InputError for the first thing that keeps them from being aligned."""
    if reference.resolve() == model.resolve():
        raise InputError(f"{model}: given both as the reference and as the model to align; give two folders")
    configs = [_config(folder) for folder in (reference, model)]
    families = [architecture(config) for config in configs]
    _check_same(reference, model, *configs)
    for folder in (reference, model):
        for name in open_tensors(folder).files:
            families[0].axes(name)
    if load_tokenizer(reference).get_vocab() != load_tokenizer(model).get_vocab():
        raise InputError(
            f"{model}: its tokenizer numbers tokens otherwise than that of {reference}; "
            "only models with the same vocabulary can be aligned"
        )
    opened = [_load(folder, families[0].masked) for folder in (reference, model)]
    pair = Pair(families[0], sizes(configs[0]), *opened)
    ours, theirs = ({name: tuple(t.shape) for name, t in w.items()} for w in pair.weights())
    for name in ours | theirs:
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"{model}: {name} has shape {theirs.get(name)}, in {reference} {ours.get(name)}; "
                "only models of the same shapes can be aligned"
            )
    return pair


def calibration(folder: Path, config: PretrainedConfig, sequences: Sequence[Sequence[int]]) -> list[Batch]:
    """``sequences`` of token ids as batches for the model of ``folder``. Raises InputError for too few
    tokens, ids that the model has no embedding of, and a masked language model without a mask token."""
    if any(not 0 <= token < config.vocab_size for ids in sequences for token in ids):
        raise InputError(
            f"{folder}: the prompts hold a token id outside 0 to {config.vocab_size - 1}; its tokenizer and "
            "its config.json do not belong together"
        )
    padding = config.pad_token_id or 0
    # RoBERTa counts positions from behind its padding token's.
    taken = padding + 1 if config.model_type == "roberta" else 0
    length = min(PIECE, config.max_position_embeddings - taken)
    if not architecture(config).masked:
        return causal_batches(sequences, padding, length)
    tokenizer = load_tokenizer(folder)
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"{folder}: its tokenizer has no mask token, which a masked language model is asked by"
        )
    return masked_batches(
        sequences, padding, tokenizer.mask_token_id, sorted(set(tokenizer.all_special_ids)), length
    )


def _config(folder: Path) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json here; point to a Hugging Face model folder")
    return read_config(str(folder))


def _check_same(
    reference: Path, model: Path, reference_config: PretrainedConfig, model_config: PretrainedConfig
) -> None:
    for key in dict.fromkeys(("model_type", *COUNTS, *MEANING)):
        ours, theirs = getattr(model_config, key, None), getattr(reference_config, key, None)
        if ours != theirs:
            raise InputError(
                f"{model}: its config.json has {key} = {ours!r}, that of {reference} {theirs!r}; "
                "only models of the same architecture can be aligned"
            )


def _load(folder: Path, masked: bool) -> Any:
    auto: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    try:
        model, info = auto.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # a foreign folder fails in as many ways as there are models
        raise InputError(f"{folder}: cannot be loaded: {first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{folder}: lacks {missing[0]}, without which it predicts nothing; save it with its "
            "language-modelling head"
        )
    model.config.use_cache = False
    return model.eval()
