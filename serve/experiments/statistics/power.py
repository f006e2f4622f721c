"""How many units an experiment needs, and what it can find with as many as it has."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from compress.errors import InputError
from serve.experiments.statistics.sequences import mixing, multiple

LEAST_UNITS, MOST = 2, 1e12


def units_needed(
    effect: float,
    deviations: tuple[float, float],
    *,
    share: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
    always_valid: bool = True,
) -> int:
    """Units of control and arm together that find a true ``effect`` with probability ``power``.

    deviations: standard deviation of a unit's mean in control and arm; share: of the units in the arm.
    Raises InputError for an effect of zero, deviations that are not positive and for shares and powers out of
    range.
    """
    if not math.isfinite(effect) or effect == 0:
        raise InputError(f"effect is {effect:g}; give the smallest difference worth finding, and not zero")
    if not all(math.isfinite(one) and one > 0 for one in deviations):
        raise InputError(
            f"standard deviations are {deviations[0]:g} and {deviations[1]:g}; they must be above 0"
        )
    for name, value in (("share", share), ("alpha", alpha), ("power", power)):
        if not 0 < value < 1:
            raise InputError(f"{name} is {value:g}; it must lie between 0 and 1")
    each = deviations[0] ** 2 / (1 - share) + deviations[1] ** 2 / share  # error² · units

    def lacking(units: float) -> float:
        return _power(effect, each, units, alpha, always_valid) - power

    if lacking(MOST) < 0:
        raise InputError(f"an effect of {effect:g} is too small: more than {MOST:.0e} units would be needed")
    return (
        math.ceil(brentq(lacking, LEAST_UNITS, MOST, rtol=1e-9)) if lacking(LEAST_UNITS) < 0 else LEAST_UNITS
    )


def detectable(
    units: int,
    deviations: tuple[float, float],
    *,
    share: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
    always_valid: bool = True,
) -> float:
    """The smallest effect that ``units`` of control and arm together find with probability ``power``."""
    each = deviations[0] ** 2 / (1 - share) + deviations[1] ** 2 / share
    # Twenty standard errors are found whatever else is asked for.
    most = 20 * math.sqrt(each / units)
    return float(brentq(lambda effect: _power(effect, each, units, alpha, always_valid) - power, 0.0, most))


def _power(effect: float, each: float, units: float, alpha: float, always_valid: bool) -> float:
    """Probability that ``effect`` is found by ``units``. each: its variance times the units.

    One look: Φ(effect / error - z₁₋α/₂). Always-valid: that a Brownian motion with the effect's drift has
    crossed the boundary by then. The boundary is concave, so its tangent at the end lies above it and gives a
    lower bound in closed form (Bachelier-Lévy; Siegmund 1985, Sequential Analysis, equation 3.15). Arms of
    other shares than halves come a little later to the information of halves, which is left out.
    """
    drift, root = abs(effect) / math.sqrt(each), math.sqrt(units)
    if not always_valid:
        return float(ndtr(drift * root - ndtri(1 - alpha / 2)))
    height = multiple(units, alpha) * root
    slope = (math.log((1 + units * mixing(alpha)) / alpha**2) + 1) / (2 * height)
    start, net = height - slope * units, drift - slope
    crossed = ndtr((net * units - start) / root)
    returned = 2 * net * start + log_ndtr((-net * units - start) / root)
    return float(crossed + math.exp(min(0.0, returned)))


def still_needed(effect: float, error: float, information: float, alpha: float) -> float | None:
    """How many times the present information lets the always-valid interval leave out zero, if the effect
    stays what it looks like now; 1 where it does already, None beyond ten thousand times."""

    def lacking(times: float) -> float:
        return multiple(information * times, alpha) * error / math.sqrt(times) - abs(effect)

    if lacking(1) <= 0:
        return 1.0
    return None if lacking(1e4) > 0 else float(brentq(lacking, 1, 1e4))
