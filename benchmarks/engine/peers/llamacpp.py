"""llama.cpp through llama-cpp-python's low-level interface. Run by process.py with its own Python:

    python -m venv ENV && ENV/bin/pip install llama-cpp-python

Adapters and their scales are set for a whole context, so only requests of the same mixture share a batch:
those decode together, joined by newcomers of their mixture, and all others wait until they are done.
"""

from __future__ import annotations

import ctypes
from typing import Any

from benchmarks.engine.peers.worker import Run, serve
from benchmarks.engine.protocol import Progress, Request, Result, Workload


class Context:
    """A model with its adapters, and one sequence a slot. options: model, adapters (task -> GGUF file),
    slots, max_len, threads."""

    def __init__(self, options: dict[str, Any]) -> None:
        import llama_cpp as c

        self.c, self.slots = c, int(options["slots"])
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(options["model"].encode(), c.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {options['model']}")
        settings = c.llama_context_default_params()
        settings.n_seq_max = self.slots
        settings.n_ctx = self.slots * int(options["max_len"])
        settings.n_batch = settings.n_ctx
        settings.n_threads = settings.n_threads_batch = int(options["threads"])
        # Float32 as everywhere else; its own default is a float16 cache.
        settings.type_k = settings.type_v = c.GGML_TYPE_F32
        self.context = c.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.adapters = {
            task: c.llama_adapter_lora_init(self.model, path.encode())
            for task, path in options["adapters"].items()
        }
        if missing := [task for task, adapter in self.adapters.items() if not adapter]:
            raise RuntimeError(f"llama.cpp cannot load the adapters {missing}")
        self.vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.batch = c.llama_batch_init(settings.n_batch, 0, 1)

    def mix(self, mixture: dict[str, float]) -> None:
        """Which adapters act from now on."""
        count = len(mixture)
        handles = (self.c.llama_adapter_lora_p_ctypes * count)(*(self.adapters[task] for task in mixture))
        scales = (ctypes.c_float * count)(*mixture.values())
        if self.c.llama_set_adapters_lora(self.context, handles, count, scales):
            raise RuntimeError(f"llama.cpp cannot use the mixture {mixture}")

    def forget(self, slot: int) -> None:
        """Empty a slot's cache."""
        self.c.llama_memory_seq_rm(self.c.llama_get_memory(self.context), slot, -1, -1)

    def step(self, inputs: dict[int, tuple[list[int], int]]) -> dict[int, int]:
        """The greedy next token of each slot. inputs: slot -> its new tokens and the position of the
        first."""
        import numpy as np

        batch, last, size = self.batch, {}, 0
        for slot, (tokens, position) in inputs.items():
            for offset, token in enumerate(tokens):
                batch.token[size], batch.pos[size] = token, position + offset
                batch.n_seq_id[size], batch.seq_id[size][0] = 1, slot
                batch.logits[size] = offset == len(tokens) - 1
                size += 1
            last[slot] = size - 1
        batch.n_tokens = size
        if code := self.c.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        rows = {slot: self.c.llama_get_logits_ith(self.context, index) for slot, index in last.items()}
        return {
            slot: int(np.ctypeslib.as_array(row, (self.vocabulary,)).argmax()) for slot, row in rows.items()
        }


def load(options: dict[str, Any]) -> tuple[Run, str]:
    """See Context."""
    context = Context(options)

    def run(workload: Workload) -> Result:
        progress, waiting = Progress(workload), list(range(len(workload)))
        running: dict[int, int] = {}
        while waiting or running:
            inputs = {
                slot: _continuation(workload[number], progress.outputs[number])
                for slot, number in running.items()
            }
            for number in progress.arrived(waiting):
                if not running:
                    context.mix(workload[number].mixture)
                    mixture = workload[number].mixture
                if len(running) == context.slots or workload[number].mixture != mixture:
                    continue
                slot = next(slot for slot in range(context.slots) if slot not in running)
                context.forget(slot)
                running[slot] = number
                waiting.remove(number)
                inputs[slot] = (workload[number].prompt, 0)
            if not running:
                progress.sleep_until_next(waiting)
                continue
            for slot, token in context.step(inputs).items():
                if progress.take(running[slot], [token]):
                    del running[slot]
        return progress.result()

    return run, f"llama-cpp-python {context.c.__version__}"


def _continuation(request: Request, output: list[int]) -> tuple[list[int], int]:
    return output[-1:], len(request.prompt) + len(output) - 1


if __name__ == "__main__":
    serve(load)
