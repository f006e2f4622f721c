"""PEFT's mixed batch: generate() with one adapter's name a row, and PEFT computes adapter by adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel

from benchmarks.engine import batches
from benchmarks.engine.protocol import Answers, Request, Result, Workload
from compress.bundle import Bundle
from compress.loading import load_model

NO_ADAPTER = "__base__"


class Peft:
    name = "peft"
    answers: Answers = "one expert"

    def __init__(self, bundle: Bundle, slots: int) -> None:
        model: Any = load_model(bundle.base, torch.float32)
        for number, task in enumerate(bundle.tasks):
            folder = str(bundle.path / "experts" / task)
            if number == 0:
                model = PeftModel.from_pretrained(model, folder, adapter_name=task)
            else:
                model.load_adapter(folder, adapter_name=task)
        batches.never_ending(model.get_base_model())
        self.model, self.slots = model.eval(), slots

    def run(self, workload: Workload) -> Result:
        return batches.run(self.model, workload, self.slots, _names)

    def close(self) -> None:
        del self.model


def _names(requests: Sequence[Request]) -> dict[str, Any]:
    return {"adapter_names": [request.task or NO_ADAPTER for request in requests]}
