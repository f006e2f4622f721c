"""Whether other forms of weights pay on this processor: products of a decode step, and of a prefill, in
float32, with weights packed for its matrix kernels, in bfloat16 and with int8 weights.

    python -m benchmarks.engine.weights

int8 is torch's own weight-only kernel (``_weight_int8pack_mm``), the one that torchao's int8 weights reach
on a CPU without a compiler. Packed weights are those of torch's oneDNN kernel, which needs no other copy, and
of its MKL kernel, which takes the plain weights along.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

RESULT = Path("benchmarks/results/engine_weights.json")
# One layer of SmolLM2-135M has three such matrices; so many that they fit into no cache.
WIDTH, INNER, MATRICES = 576, 1536, 60
DTYPES = (torch.float32, torch.bfloat16)
# oneDNN chooses the layout for a number of rows and then takes any; MKL's holds for one number only.
PACKED_FOR = 16


def main(
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=2)] = 7,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Print times as multiples of float32's, and errors relative to its products."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    weights = [torch.randn(INNER, WIDTH) / WIDTH**0.5 for _ in range(MATRICES)]
    rows = []
    with torch.inference_mode():
        for tokens in (1, 4, 16, 64, 256):
            row = _measure(weights, torch.randn(tokens, WIDTH), rounds)
            rows.append({"rows": tokens, **row})
            cells = "  ".join(
                f"{name} {one['times_float32']:.2f}x (error {one['error']:.4f})" for name, one in row.items()
            )
            Console(highlight=False).print(f"{tokens:>3} rows: {cells}")
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({"threads": threads, "rows": rows}, indent=2) + "\n")


def _measure(weights: list[Tensor], x: Tensor, rounds: int) -> dict[str, Any]:
    ways: dict[str, Callable[[], list[Tensor]]] = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        cast = x.to(dtype)
        ways[name] = partial(_plain, cast, [weight.to(dtype) for weight in weights])
        ways[f"int8 of {name}"] = partial(_int8, cast, [_quantised(weight, dtype) for weight in weights])
    if torch.backends.mkldnn.is_available():
        packed = [torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR) for weight in weights]
        ways["packed for oneDNN"] = partial(_onednn, x, packed)
    if torch.backends.mkl.is_available():
        pairs = [(torch.ops.mkl._mkl_reorder_linear_weight(weight, len(x)), weight) for weight in weights]
        ways["packed for MKL"] = partial(_mkl, x, pairs)
    truth = ways["float32"]()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds["float32"])
    return {
        name: {
            "times_float32": statistics.median(values) / base,
            "error": float(
                statistics.fmean(
                    ((found.float() - true).norm() / true.norm()).item()
                    for found, true in zip(ways[name](), truth, strict=True)
                )
            ),
        }
        for name, values in seconds.items()
    }


def _plain(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    return [F.linear(x, weight) for weight in weights]


def _onednn(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    return [torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "") for weight in weights]


def _mkl(x: Tensor, weights: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [torch.ops.mkl._mkl_linear(x, packed, weight, None, len(x)) for packed, weight in weights]


def _int8(x: Tensor, weights: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [torch._weight_int8pack_mm(x, *weight) for weight in weights]


def _quantised(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """int8 [d_out, d_in] and one scale a row."""
    scale = weight.abs().amax(1) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale.to(dtype)


if __name__ == "__main__":
    typer.run(main)
