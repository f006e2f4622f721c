"""Contenders of this environment, each in a process of its own: several models in one process slow each
other down, which none of them would do where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.engine.ours import Ours
from benchmarks.engine.peers.generate import Generate
from benchmarks.engine.peers.peft import Peft
from benchmarks.engine.peers.reference import Reference
from benchmarks.engine.peers.worker import Run, preload, serve
from benchmarks.engine.protocol import Contender
from compress.bundle import Bundle


def load(options: dict[str, Any]) -> tuple[Run, str]:
    """The contender that the options name."""
    torch.set_num_threads(options["threads"])
    bundle, slots = Bundle.open(Path(options["bundle"])), options["slots"]
    made: Contender
    match options["contender"]:
        case "twinserve":
            made = Ours(bundle, slots, options["threads"], options["max_len"])
        case "generate":
            made = Generate(bundle, slots)
        case "peft":
            made = Peft(bundle, slots)
        case _:
            made = Reference(bundle, slots)
    return made.run, f"torch {torch.__version__}, transformers {transformers.__version__}"


if __name__ == "__main__":
    preload("benchmarks.engine.peers.own")
    serve(load)
