"""Are quantised experts faster used as codes, or dequantised once when the bundle is opened?

    python -m benchmarks.codes

One expert's share of one matrix, y += B (A x), for a decode step, a full batch of them and a prompt: with
float32 factors, with torch's kernel for int8 weights, and with factors dequantised for every pass, which is
what 4- and 2-bit codes would need. Writes benchmarks/results/codes.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer

from compress.codes import QuantisedFactors
from compress.quantize import quantise

RESULT = Path("benchmarks/results/codes.json")
SIDES = ((576, 1536), (4096, 11008))
RANK = 64
TOKENS = (1, 16, 256)


def main(
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Measure."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows = []
    for d_in, d_out in SIDES:
        for tokens in TOKENS:
            ways = contenders(torch.randn(tokens, d_in), d_out)
            row: dict[str, Any] = {"matrix": f"{d_out} × {d_in}", "tokens": tokens}
            for _ in range(2):  # the first round warms up
                row |= {name: seconds(way, threads) for name, way in ways.items()}
            rows.append(row)
    facts = {"rank": RANK, "threads": threads, "rows": rows}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    show(facts, Console())


def contenders(x: Tensor, d_out: int) -> dict[str, Callable[[], Tensor]]:
    """The same product in each way, of int8 codes and, for the last, of 4-bit ones."""
    a, b = torch.randn(RANK, x.shape[1]), torch.randn(RANK, d_out)
    by_bits = {bits: QuantisedFactors({bits: (quantise(a, bits), quantise(b, bits))}) for bits in (8, 4)}
    factors = by_bits[8].dequantised()
    ((codes_a, codes_b),) = by_bits[8].groups.values()
    # Levels are -127 to 127 over 127, as numbers from 0.
    int8_a, int8_b = ((codes.codes.int() - 127).to(torch.int8) for codes in (codes_a, codes_b))
    scale_a, scale_b = (codes.scales.float() / 127 for codes in (codes_a, codes_b))
    int8_b, ones = int8_b.T.contiguous(), torch.ones(d_out)

    def dequantised_once() -> Tensor:
        return (x @ factors.A.T) @ factors.B.T

    def int8_kernel() -> Tensor:
        hidden = torch._weight_int8pack_mm(x, int8_a, scale_a) * scale_b
        return torch._weight_int8pack_mm(hidden, int8_b, ones)

    def every_pass() -> Tensor:
        made = by_bits[4].dequantised()
        return (x @ made.A.T) @ made.B.T

    torch.testing.assert_close(int8_kernel(), dequantised_once(), rtol=1e-3, atol=1e-2)
    return {
        "dequantised once": dequantised_once,
        "int8 kernel": int8_kernel,
        "4 bits, dequantised every pass": every_pass,
    }


def seconds(way: Callable[[], Tensor], threads: int) -> float:
    """Median time of one product."""
    timer = Timer("way()", globals={"way": way}, num_threads=threads)
    return float(timer.blocked_autorange(min_run_time=0.5).median)


def show(facts: dict[str, Any], console: Console) -> None:
    """The figures as a table, in microseconds."""
    table = Table(title=f"rank {facts['rank']}, microseconds", title_justify="left")
    names = list(facts["rows"][0])
    for name in names:
        table.add_column(name, justify="left" if name == "matrix" else "right")
    for row in facts["rows"]:
        times = (f"{1e6 * row[name]:.0f}" for name in names[2:])
        table.add_row(row["matrix"], str(row["tokens"]), *times)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
