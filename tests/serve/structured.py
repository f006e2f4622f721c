"""A tiny engine whose byte-level tokenizer can write JSON, some of it in tokens that cross its boundaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from serve.engine import Engine
from serve.mixture import MixtureModel
from serve.settings import EngineSettings
from tests.bundles import full_zoo
from tests.serve.packed import COSTS
from tests.tiny import CHAT_TEMPLATE

# In pairs, as byte-level BPE learns them; "Ġ" is a space.
MERGES = [
    '{ "',
    '" :',
    '": Ġ',
    '" ,',
    '", Ġ',
    '", "',
    '" }',
    "] }",
    "] ,",
    "t r",
    "tr u",
    "tru e",
    "true }",
    "1 2",
]
# More logits than tokens, as models padded to a round size have.
VOCABULARY = 320


def tokenizer(without: str = "") -> PreTrainedTokenizerFast:
    """Bytes, merges and an end of text; ``without`` some letters, which then no token writes."""
    letters = [letter for letter in sorted(pre_tokenizers.ByteLevel.alphabet()) if letter not in without]
    merges = [(a, b) for a, b in (merge.split(" ") for merge in MERGES) if not set(a + b) & set(without)]
    pieces = [*letters, *(a + b for a, b in merges)]
    raw = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")
    made.chat_template = CHAT_TEMPLATE
    return made


def engine_of_json(folder: Path, tokens: PreTrainedTokenizerFast | None = None, **settings: Any) -> Engine:
    """A running engine with three experts, to be stopped by whoever asks for it."""
    tokens = tokens or tokenizer()
    end = tokens.eos_token_id
    # Room for the longest answer to a small schema, all white space that it allows included.
    changes = {"vocab_size": VOCABULARY, "eos_token_id": end, "max_position_embeddings": 1024}
    zoo = full_zoo(folder, "llama", changes=changes)
    chosen = EngineSettings(**{"threads": 1, "costs": COSTS, **settings})

    def make() -> Engine:
        mixture = MixtureModel.load(zoo.bundle, dtype=torch.float32)
        return Engine(mixture, tokens, chosen, name="tiny", scalings=zoo.bundle.scalings)

    return Engine.launch(make, chosen.threads)
