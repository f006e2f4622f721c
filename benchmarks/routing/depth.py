"""How deep the router should look, and at which tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.routing.prompts import LOOKALIKES
from benchmarks.routing.quality import Bench
from router.features import Matrix, Pooling
from router.selection import compare
from router.train import fit

LAYERS = (2, 5, 8, 11, 15, 20)
# Deep layers take long: of the prompts to measure with, every third.
STRIDE = 3


def depths(bench: Bench) -> dict[str, dict[str, Any]]:
    """ "layer, pooling" -> log-loss in nats by cross-validation on the training prompts, which is what may be
    chosen by; and the share of other prompts that is right, all and look-alikes."""
    found: dict[str, dict[str, Any]] = {}
    truth = bench.truth[::STRIDE]
    alike = np.isin(truth, [k for k, task in enumerate(bench.tasks) if task in LOOKALIKES])
    for layer in LAYERS:
        bench.step(f"layer {layer}")
        settings = bench.settings.model_copy(
            update={"features": ("hidden",), "classifiers": ("logistic",), "layer": layer, "pooling": "both"}
        )
        looking = replace(bench, settings=settings)
        trained = looking.raw("hidden", bench.texts)
        seen = looking.raw("hidden", [text for _, text in bench.known[::STRIDE]])
        width = trained.shape[1] // 2
        parts: dict[Pooling, slice] = {
            "mean": slice(0, width),
            "last": slice(width, None),
            "both": slice(None),
        }
        for pooling, columns in parts.items():
            own = settings.model_copy(update={"pooling": pooling})
            x: Matrix = trained[:, columns]
            (candidate,) = compare({"hidden": x}, ("logistic",), bench.labels, len(bench.tasks), 0)
            router = fit(x, bench.labels, tuple(bench.tasks), own, "")
            probabilities = router.probabilities(router.scaling.apply(seen[:, columns]))
            right = probabilities.argmax(1) == truth
            found[f"{layer}, {pooling}"] = {
                "log_loss": candidate.log_loss,
                "accuracy": float(right.mean()),
                "look-alikes": float(right[alike].mean()),
            }
    return found
