"""What vLLM asks of a LoRA adapter, and the command that serves an exported folder.

Read in vLLM's sources (vllm/lora/peft_helper.py, lora_model.py, utils.py, vllm/config/lora.py):

- Of adapter_config.json it takes ``r`` and ``lora_alpha`` and gives both to every module; ``rank_pattern``
  and ``alpha_pattern`` are dropped without a word, so an adapter with them would answer wrongly. Hence one
  rank, scale 1, shorter factors padded with zeros.
- ``bias`` other than "none", ``modules_to_save`` and DoRA are refused.
- The last part of each tensor's module name must be that of a linear layer of vLLM's model, else the whole
  adapter is refused. Embeddings and output heads count only for model classes with ``embedding_modules``,
  which Llama's has and Qwen2's has not: neither is exported.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from compress.bundle import Bundle
from compress.errors import InputError
from compress.parameters import Kind, empty_model, read_config

# --max-lora-rank takes no other number (MaxLoRARanks; newer versions also know 1).
LARGEST_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def servable(bundle: Bundle) -> set[str]:
    """Names of the parameters that an adapter for vLLM may change.

    Raises InputError for a base that vLLM serves without adapters only.
    """
    config = read_config(str(bundle.base))
    table = bundle.table()
    if any(parameter.kind is Kind.CONV1D for parameter in table.values()):
        # Its GPT2LMHeadModel is none of the classes with SupportsLoRA: it would not start with --enable-lora.
        raise InputError(
            f"{bundle.path}: vLLM serves {config.model_type} without adapters; export it --as peft or merged"
        )
    model = empty_model(config)
    head = model.get_output_embeddings()  # type: ignore[operator]
    return {
        name
        for name, parameter in table.items()
        if parameter.kind is Kind.LINEAR and model.get_submodule(parameter.module) is not head
    }


def largest_rank(name: str, rank: int) -> int:
    """The ``--max-lora-rank`` that the adapter called ``name`` needs.

    Raises InputError where vLLM has none.
    """
    for allowed in LARGEST_RANKS:
        if rank <= allowed:
            return allowed
    raise InputError(
        f"{name}: rank {rank} is above {LARGEST_RANKS[-1]}, the largest that vLLM takes; name the others by "
        "--task, and export this one --as merged"
    )


def serve_command(ranks: Mapping[str, int], base: str) -> str:
    """The shell command, to be run in the exported folder.

    ranks: of the adapters, by name. base: the name that the model without an adapter answers to.
    """
    widest = max(ranks, key=lambda name: ranks[name])
    words = [
        "vllm serve ./base",
        f"--served-model-name {base}",
        "--enable-lora",
        f"--max-lora-rank {largest_rank(widest, ranks[widest])}",
        # Its default is 1: a batch would then hold requests of one adapter only.
        f"--max-loras {len(ranks)}",
        "--lora-modules " + " ".join(shlex.quote(f"{name}=./adapters/{name}") for name in ranks),
    ]
    return " ".join(words)
