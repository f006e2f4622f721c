"""The proof, remade step by step: python -m benchmarks.proof [STEP…]

What stands under benchmarks/results is not measured again unless its file is removed; what a cut-off run
left in runs/proof is gone on from. docs/results.md says what the steps measure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import typer

from benchmarks.proof.ablation import ablation
from benchmarks.proof.again import again
from benchmarks.proof.bundles import HEADLINE
from benchmarks.proof.ceiling import ceiling
from benchmarks.proof.headline import costs, headline
from benchmarks.proof.misroutes import misroutes
from benchmarks.proof.number import number
from benchmarks.proof.page import page
from benchmarks.proof.pairs import pairs
from benchmarks.proof.tuning import tune
from benchmarks.proof.unseen import unseen
from benchmarks.proof.zoo import ZOOS, Work, working
from serve.commands.options import Threads, engine_settings

Step = Callable[[Work], object]
STEPS: dict[str, Step] = {
    **{f"{name}-statics": partial(tune, zoo) for name, zoo in ZOOS.items()},
    **{name: partial(headline, name) for name in HEADLINE},
    "again": again,
    "ablation": ablation,
    "number": number,
    "misroutes": misroutes,
    "pairs": pairs,
    "unseen": unseen,
    "ceiling": ceiling,
    **{f"{name}-costs": partial(costs, name) for name in HEADLINE},
}


def main(
    steps: Annotated[list[str] | None, typer.Argument(metavar="[STEP…]", help="Default: all.")] = None,
    threads: Threads = None,
) -> None:
    """Run the steps."""
    if unknown := sorted(set(steps or []) - set(STEPS)):
        raise typer.BadParameter(f"{unknown[0]}: no such step; there are {', '.join(STEPS)}")
    if threads:
        torch.set_num_threads(threads)
    with working(engine_settings(threads=threads)) as work:
        for name in steps or STEPS:
            STEPS[name](work)
            page()


if __name__ == "__main__":
    typer.run(main)
