"""Whether an arm keeps what the experiment promised not to worsen by more than a tolerance."""

from __future__ import annotations

import math
from typing import Literal

from serve.experiments.statistics.contrasts import Contrast
from serve.experiments.statistics.sequences import one_sided_multiple

Status = Literal["ok", "broken", "undecided"]


def worsening(found: Contrast, direction: Literal["higher", "lower"]) -> float | None:
    """How much worse the arm is than the control, relative to the control's mean; negative is better. None
    where that mean is zero."""
    if not found.control.mean:
        return None
    return (1 if direction == "lower" else -1) * found.effect / abs(found.control.mean)


def status(found: Contrast, direction: Literal["higher", "lower"], tolerance: float, alpha: float) -> Status:
    """broken: worse by more than ``tolerance``, 0.1 for a tenth of the control's mean; ok: worse by less.

    Each is an always-valid one-sided bound of the linear contrast arm - (1 ± tolerance) · control, so the
    control's mean is estimated and not taken for known. Each errs with probability ``alpha`` at most, over
    all looks.
    """
    sign = 1 if direction == "lower" else -1
    factor = 1 + sign * math.copysign(tolerance, found.control.mean)
    excess = sign * (found.arm.mean - factor * found.control.mean)
    error = math.sqrt(found.arm.variance + factor**2 * found.control.variance)
    reach = one_sided_multiple(found.information, alpha) * error
    if excess - reach > 0:
        return "broken"
    return "ok" if excess + reach < 0 else "undecided"
