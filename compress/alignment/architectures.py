"""Which axis of which parameter belongs to which set of interchangeable units, by architecture, as data.

A *space* is a set of units that one permutation may reorder in every parameter that touches it without
changing what the model computes: the residual stream (one for the whole model), and in each layer the hidden
units of the feed-forward network and the rows of the attention matrices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from transformers import PretrainedConfig

from compress.errors import InputError

RESIDUAL = "residual"
FFN = "layers.{layer}.ffn"
# Query rows, key rows, value rows, and columns of the output matrix. Four spaces, but not four free
# permutations: ``heads.py`` says which together are a symmetry.
QUERY, KEY = "layers.{layer}.query", "layers.{layer}.key"
VALUE, OUTPUT = "layers.{layer}.value", "layers.{layer}.output"

# One space a dimension of the tensor; None for what never moves (tokens, positions, a head's units).
Axes = tuple[str | None, ...]
Part = Literal["ffn", "attention", "residual"]
PARTS: tuple[Part, ...] = ("ffn", "attention", "residual")


def part_of(space: str) -> Part:
    """The part of a model that a space belongs to."""
    if space == RESIDUAL:
        return "residual"
    return "ffn" if space.endswith(".ffn") else "attention"


@dataclass(frozen=True)
class Tap:
    """Where units can be watched: the input or output [tokens, units] of the module of this name."""

    module: str
    side: Literal["input", "output"]


@dataclass(frozen=True)
class Architecture:
    """One family of models.

    ``masked``: a masked language model, else a causal one. ``parameters``: pattern of a name -> its axes;
    a ``{layer}`` in an axis is the pattern's group of that name. Taps: where a space's units are watched,
    ``stream`` once a model, the others once a layer. ``keyed``: query and key, or None where positions
    rotate them, so that their units cannot change places inside a head.
    """

    masked: bool
    parameters: dict[str, Axes]
    stream: tuple[Tap, ...]
    layer_stream: tuple[Tap, ...]
    ffn: Tap
    value: Tap
    output: Tap
    keyed: tuple[Tap, Tap] | None

    @property
    def rotary(self) -> bool:
        return self.keyed is None

    def axes(self, name: str) -> Axes:
        """The spaces of a parameter's dimensions. Raises InputError for a name this family lacks."""
        for pattern, axes in self.parameters.items():
            if match := re.fullmatch(pattern, name):
                return tuple(axis and axis.format(**match.groupdict()) for axis in axes)
        raise InputError(
            f"parameter {name}: this architecture is not known to have it, so alignment could not keep what "
            "the model computes; save the model without it"
        )


@dataclass(frozen=True)
class Sizes:
    """Units of one model: ``groups`` of ``members`` query heads each share a key and value head."""

    layers: int
    hidden: int
    ffn: int
    groups: int
    members: int
    width: int

    def spaces(self) -> dict[str, int]:
        """Every space with its number of units."""
        found = {RESIDUAL: self.hidden}
        few, many = self.groups * self.width, self.groups * self.members * self.width
        for layer in range(self.layers):
            sizes = {FFN: self.ffn, QUERY: many, KEY: few, VALUE: few, OUTPUT: many}
            found |= {space.format(layer=layer): size for space, size in sizes.items()}
        return found


def architecture(config: PretrainedConfig) -> Architecture:
    """The family of a configuration. Raises InputError for a model type that is not described here."""
    if config.model_type not in ARCHITECTURES:
        raise InputError(
            f"model type {config.model_type!r} cannot be aligned: its symmetries are not described; "
            f"known are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[config.model_type]


def sizes(config: PretrainedConfig) -> Sizes:
    """The units that a configuration of a known family has."""
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Sizes(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        groups=groups,
        members=heads // groups,
        width=width,
    )


def _bert(prefix: str, head: str, norm: str, others: dict[str, Axes]) -> Architecture:
    """``head``: the part of the masked-LM head before the decoder; ``norm``: its LayerNorm's name."""
    affine = r"\.(weight|bias|gamma|beta)"
    start, layer = rf"({prefix}\.)?", rf"({prefix}\.)?encoder\.layer\.(?P<layer>\d+)\."
    parameters: dict[str, Axes] = {
        rf"{start}embeddings\.(word|position|token_type)_embeddings\.weight": (None, RESIDUAL),
        rf"{start}embeddings\.LayerNorm{affine}": (RESIDUAL,),
        rf"{start}embeddings\.(position|token_type)_ids": (None, None),
        rf"{layer}attention\.self\.query\.weight": (QUERY, RESIDUAL),
        rf"{layer}attention\.self\.query\.bias": (QUERY,),
        rf"{layer}attention\.self\.key\.weight": (KEY, RESIDUAL),
        rf"{layer}attention\.self\.key\.bias": (KEY,),
        rf"{layer}attention\.self\.value\.weight": (VALUE, RESIDUAL),
        rf"{layer}attention\.self\.value\.bias": (VALUE,),
        rf"{layer}attention\.output\.dense\.weight": (RESIDUAL, OUTPUT),
        rf"{layer}attention\.output\.dense\.bias": (RESIDUAL,),
        rf"{layer}intermediate\.dense\.weight": (FFN, RESIDUAL),
        rf"{layer}intermediate\.dense\.bias": (FFN,),
        rf"{layer}output\.dense\.weight": (RESIDUAL, FFN),
        rf"{layer}output\.dense\.bias": (RESIDUAL,),
        rf"{layer}(attention\.)?output\.LayerNorm{affine}": (RESIDUAL,),
        # The pooler's units are nobody's but its classifier's: they stay.
        rf"{start}pooler\.dense\.weight": (None, RESIDUAL),
        rf"{start}pooler\.dense\.bias": (None,),
        # A tied decoder reads the transform's units by the embeddings' columns, so they are the stream's.
        rf"{head}dense\.weight": (RESIDUAL, RESIDUAL),
        rf"{head}dense\.bias": (RESIDUAL,),
        rf"{head}{norm}{affine}": (RESIDUAL,),
    }
    self_attention = f"{prefix}.encoder.layer.{{layer}}.attention.self"
    return Architecture(
        masked=True,
        parameters=parameters | others,
        stream=(
            Tap(f"{prefix}.embeddings.LayerNorm", "output"),
            Tap((head + norm).replace("\\", ""), "output"),
        ),
        layer_stream=(
            Tap(f"{prefix}.encoder.layer.{{layer}}.attention.output.LayerNorm", "output"),
            Tap(f"{prefix}.encoder.layer.{{layer}}.output.LayerNorm", "output"),
        ),
        ffn=Tap(f"{prefix}.encoder.layer.{{layer}}.output.dense", "input"),
        value=Tap(f"{self_attention}.value", "output"),
        output=Tap(f"{prefix}.encoder.layer.{{layer}}.attention.output.dense", "input"),
        keyed=(Tap(f"{self_attention}.query", "output"), Tap(f"{self_attention}.key", "output")),
    )


def _llama() -> Architecture:
    layer, prefix = r"(model\.)?layers\.(?P<layer>\d+)\.", "model.layers.{layer}"
    parameters: dict[str, Axes] = {
        r"(model\.)?embed_tokens\.weight": (None, RESIDUAL),
        rf"{layer}(input|post_attention)_layernorm\.weight": (RESIDUAL,),
        rf"{layer}self_attn\.q_proj\.weight": (QUERY, RESIDUAL),
        rf"{layer}self_attn\.q_proj\.bias": (QUERY,),
        rf"{layer}self_attn\.k_proj\.weight": (KEY, RESIDUAL),
        rf"{layer}self_attn\.k_proj\.bias": (KEY,),
        rf"{layer}self_attn\.v_proj\.weight": (VALUE, RESIDUAL),
        rf"{layer}self_attn\.v_proj\.bias": (VALUE,),
        rf"{layer}self_attn\.o_proj\.weight": (RESIDUAL, OUTPUT),
        rf"{layer}self_attn\.o_proj\.bias": (RESIDUAL,),
        # One norm for all heads, over a head's units, which rotation keeps in their places anyway.
        rf"{layer}self_attn\.[qk]_norm\.weight": (None,),
        rf"{layer}self_attn\.rotary_emb\.inv_freq": (None,),
        rf"{layer}mlp\.(gate|up)_proj\.weight": (FFN, RESIDUAL),
        rf"{layer}mlp\.(gate|up)_proj\.bias": (FFN,),
        rf"{layer}mlp\.down_proj\.weight": (RESIDUAL, FFN),
        rf"{layer}mlp\.down_proj\.bias": (RESIDUAL,),
        r"(model\.)?norm\.weight": (RESIDUAL,),
        r"lm_head\.weight": (None, RESIDUAL),
    }
    return Architecture(
        masked=False,
        parameters=parameters,
        stream=(Tap("model.norm", "output"),),
        layer_stream=(
            Tap(f"{prefix}.input_layernorm", "output"),
            Tap(f"{prefix}.post_attention_layernorm", "output"),
        ),
        ffn=Tap(f"{prefix}.mlp.down_proj", "input"),
        value=Tap(f"{prefix}.self_attn.v_proj", "output"),
        output=Tap(f"{prefix}.self_attn.o_proj", "input"),
        keyed=None,
    )


_LLAMA = _llama()
ARCHITECTURES = {
    "bert": _bert(
        "bert",
        r"cls\.predictions\.transform\.",
        "LayerNorm",
        {
            r"cls\.predictions\.decoder\.weight": (None, RESIDUAL),
            r"cls\.predictions\.(decoder\.)?bias": (None,),
            r"cls\.seq_relationship\.weight": (None, None),
            r"cls\.seq_relationship\.bias": (None,),
        },
    ),
    "roberta": _bert(
        "roberta",
        r"lm_head\.",
        "layer_norm",
        {r"lm_head\.decoder\.weight": (None, RESIDUAL), r"lm_head\.(decoder\.)?bias": (None,)},
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
