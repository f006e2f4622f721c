"""Out of a bundle, into what others read: a plain model, PEFT adapters, a folder for vLLM."""

from compress.export.adapters import Exported, export_adapters
from compress.export.cards import mixture_name
from compress.export.merged import export_merged
from compress.export.vllm import LARGEST_RANKS, serve_command

__all__ = [
    "LARGEST_RANKS",
    "Exported",
    "export_adapters",
    "export_merged",
    "mixture_name",
    "serve_command",
]
