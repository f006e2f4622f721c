"""How deep the router should look, and at which tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.routing.prompts import LOOKALIKES, kinds
from benchmarks.routing.quality import Bench
from router import Router
from router.features import Matrix, Pooling
from router.selection import compare
from router.train import fit

LAYERS = (2, 5, 8, 11, 15, 20)
# Deep layers take long: of the prompts to measure with, every third.
STRIDE = 3
# Shares of a task's prompts that may be taken for unknown.
RATES = (0.015, 0.005)


def depths(bench: Bench) -> dict[str, dict[str, Any]]:
    """ "layer, pooling" -> log-loss in nats by cross-validation on the training prompts, which is what may be
    chosen by; and the share of other prompts that is right, all and look-alikes. By rate of false rejection:
    the shares of these prompts and of foreign ones that are taken for unknown."""
    found: dict[str, dict[str, Any]] = {}
    truth = bench.truth[::STRIDE]
    strange = [
        text
        for name, own in kinds(bench.data, bench.tasks).items()
        if name.startswith("foreign")
        for _, text in own
    ][::STRIDE]
    alike = np.isin(truth, [k for k, task in enumerate(bench.tasks) if task in LOOKALIKES])
    for layer in LAYERS:
        bench.step(f"layer {layer}")
        settings = bench.settings.model_copy(
            update={"features": ("hidden",), "classifiers": ("logistic",), "layer": layer, "pooling": "both"}
        )
        looking = replace(bench, settings=settings)
        trained = looking.raw("hidden", bench.texts)
        seen = looking.raw("hidden", [text for _, text in bench.known[::STRIDE]])
        foreign = looking.raw("hidden", strange)
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
            unknown: dict[str, dict[str, float]] = {}
            for rate in RATES:
                careful = own.model_copy(update={"false_rejection": rate})
                router = fit(x, bench.labels, tuple(bench.tasks), careful, "")
                unknown[str(rate)] = {
                    "known": _turned_away(router, seen[:, columns]),
                    "foreign": _turned_away(router, foreign[:, columns]),
                }
            right = router.probabilities(router.scaling.apply(seen[:, columns])).argmax(1) == truth
            found[f"{layer}, {pooling}"] = {
                "log_loss": candidate.log_loss,
                "accuracy": float(right.mean()),
                "look-alikes": float(right[alike].mean()),
                "taken for unknown": unknown,
            }
    return found


def _turned_away(router: Router, raw: Matrix) -> float:
    """The share of unscaled features that the router takes for unknown."""
    x = router.scaling.apply(raw)
    return 1 - float(router.known(x, router.probabilities(x)).mean())
