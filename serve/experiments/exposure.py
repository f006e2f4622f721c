"""Units that were assigned, counted in bounded memory, and whether the arms got as many as they should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from serve.experiments.statistics.mismatch import ALARM, mismatch, p_value

# At most 7 MB for one experiment.
MOST_UNITS = 65_536


class Exposure:
    """Distinct units by arm: all of them while they fit, then a uniform sample of them.

    Adaptive sampling (Wegman; Flajolet 1990, "On adaptive sampling"): once ``most`` units are held, those
    whose hash is odd are let go and never taken again, then those with an odd next digit, and so on. Which
    units are kept does not depend on their arms, so the test of the sample ratio is exact for the sample; a
    sketch such as HyperLogLog would have errors of a percent, which a test on a million units takes for a
    mismatch.
    """

    def __init__(self, most: int = MOST_UNITS) -> None:
        self.most = most
        self.depth = 0
        self._arms: dict[int, str] = {}
        self.responses: Counter[str] = Counter()

    def add(self, unit: str, arm: str) -> None:
        """One more response for a unit, by its pseudonym (hexadecimal)."""
        self.responses[arm] += 1
        number = int(unit[-16:], 16)
        if number & self._mask or number in self._arms:
            return
        self._arms[number] = arm
        while len(self._arms) > self.most:
            self.depth += 1
            self._arms = {unit: arm for unit, arm in self._arms.items() if not unit & self._mask}

    @property
    def sampled(self) -> Counter[str]:
        """Units in the sample, by arm."""
        return Counter(self._arms.values())

    @property
    def units(self) -> dict[str, int]:
        """Distinct units by arm: counted, or, beyond ``most``, estimated from the sample."""
        return {arm: count << self.depth for arm, count in self.sampled.items()}

    def mismatch(self, sizes: Mapping[str, int]) -> float | None:
        """Always-valid p-value of the units seen, against arms of these numbers of buckets, as in reports;
        None where only one arm has any."""
        shares = {arm: size / sum(sizes.values()) for arm, size in sizes.items() if size}
        if len(shares) < 2:
            return None
        sampled = self.sampled
        return p_value(mismatch({arm: sampled[arm] for arm in shares}, shares))

    @property
    def _mask(self) -> int:
        return (1 << self.depth) - 1


@dataclass(frozen=True)
class Ratio:
    """A sample ratio: its p-value, None where only one arm gets units, and whether that is an alarm."""

    p_value: float | None

    @property
    def alarm(self) -> bool:
        return self.p_value is not None and self.p_value < ALARM
