"""A router for when there are no prompts at all, from the experts' own factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compress.errors import InputError
from compress.experts import Expert
from router.classifiers.dataless import Dataless
from router.features.projection import ProjectionFeatures
from router.router import Router
from router.scaling import Scaling
from router.settings import RouterSettings

# Of a feature's unit, the deviation over random tokens. Nothing can be calibrated without labels;
# with this one prompts of distinct tasks are above the threshold, and prompts of look-alikes are not.
TEMPERATURE = 0.5


def dataless_router(
    model: Any,
    experts: Sequence[Expert],
    tasks: Sequence[str],
    settings: RouterSettings,
    fingerprint: str = "",
) -> tuple[Router, dict[str, Any]]:
    """A router over ``tasks`` from their experts, in the same order, for ``model``, the shared base.

    It tells distinct tasks apart; look-alikes it does not, and its confidence is uncalibrated. Whether any
    expert knows a prompt it cannot say: only ``threshold`` keeps unsure prompts from the experts. Raises
    InputError for experts that change no linear layer among those that are run.
    """
    projection = ProjectionFeatures.fit(model, experts, settings.layer, settings.seed)
    unseen = [task for task, spread in zip(tasks, projection.spread.T, strict=True) if np.isinf(spread).all()]
    if unseen or not projection.directions:
        raise InputError(
            f"the expert of task {(unseen or list(tasks))[0]!r} changes no linear layer among the first "
            f"{projection.layer}, so it cannot be routed to without prompts: give some, or a deeper layer"
        )
    settings = settings.model_copy(
        update={"features": ("projection",), "classifiers": ("dataless",), "layer": projection.layer}
    )
    report = {"reason": "projection features with dataless: no prompts were given", "dataless": True}
    scaling = Scaling(np.ones(len(tasks), dtype=np.float32))
    router = Router(
        tuple(tasks), settings, scaling, Dataless(), TEMPERATURE, None, fingerprint, report, projection
    )
    return router, report
