"""Which units take part in an experiment and which arm they get: by hashing, with nothing to look up.

A unit's id is hashed twice, with different salts. The first hash, salted by the layer, says whether the unit
lies in the experiment's share of the layer's traffic; the second, salted by the experiment, gives its arm. So
what one layer decides is independent of what another does, and an experiment's arms do not depend on which
traffic it took (Tang, Agarwal, O'Brien, Meyer 2010, "Overlapping Experiment Infrastructure").

The hash is HMAC-SHA256 (RFC 2104), its first 8 bytes taken modulo 10,000. GrowthBook's Python SDK, which was
looked at, takes FNV-1a of 32 bits twice. That is fast and portable between languages, but anybody who has the
stored hash finds the id again by trying ids; here what assigns is also what is stored, so it is keyed and
one-way. It also lays arms out as ranges in order of their weights, so that a change of one weight shifts the
ranges of arms whose own weight stays. Here an allocation is made from the one before it.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

# As fine as shares can be told apart: one hundredth of a percent.
BUCKETS = 10_000
# The label of buckets that belong to nobody; no arm or experiment can have this name.
FREE = ""


def pseudonym(salt: str, unit: str) -> str:
    """What is stored in place of a unit's id: 32 hexadecimal digits, which only the salt links to it."""
    return _digest(salt, "unit", unit)[:16].hex()


def layer_bucket(layer: str, unit: str) -> int:
    """The unit's place in a layer's traffic, in [0, BUCKETS)."""
    return _bucket(_digest(layer, "layer", unit))


def arm_bucket(salt: str, unit: str) -> int:
    """The unit's place among an experiment's arms, in [0, BUCKETS)."""
    return _bucket(_digest(salt, "arm", unit))


@dataclass(frozen=True)
class Allocation:
    """Whose each bucket is. runs: labels and how many buckets in a row have them, BUCKETS in all."""

    runs: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if any(count < 1 for _, count in self.runs) or sum(count for _, count in self.runs) != BUCKETS:
            raise ValueError(f"an allocation has {BUCKETS} buckets in runs of at least 1")

    @classmethod
    def of(cls, labels: Iterable[str]) -> Allocation:
        """From the label of every bucket in turn."""
        return cls(tuple((label, len(list(run))) for label, run in groupby(labels)))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The label of every bucket."""
        return tuple(label for label, count in self.runs for _ in range(count))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many buckets each label has."""
        found: dict[str, int] = {}
        for label, count in self.runs:
            found[label] = found.get(label, 0) + count
        return found


def buckets(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares that sum to 1 as whole numbers of buckets, which sum to BUCKETS: each rounded down, and what is
    missing given to the largest remainders (Hamilton's method), the first named first."""
    exact = {label: share * BUCKETS for label, share in shares.items()}
    # 0.3 * 10,000 is a little less than 3,000, and must not lose a bucket to another arm.
    floors = {label: math.floor(value + 1e-6) for label, value in exact.items()}
    missing = BUCKETS - sum(floors.values())
    for label in sorted(exact, key=lambda label: floors[label] - exact[label])[:missing]:
        floors[label] += 1
    return floors


def allocate(sizes: Mapping[str, int], before: Allocation | None = None) -> Allocation:
    """Buckets for labels, as many each as ``sizes`` says (BUCKETS in all).

    A label that does not shrink keeps all buckets that it had ``before``, one that shrinks gives up its last
    ones, and labels that ``sizes`` does not name give up all. Fewer buckets than those cannot change hands.
    """
    if before is None:
        return Allocation.of(label for label, count in sizes.items() for _ in range(count))
    left = dict(sizes)
    kept: list[str | None] = []
    for label in before.labels:
        stays = left.get(label, 0) > 0
        kept.append(label if stays else None)
        if stays:
            left[label] -= 1
    fresh = (label for label, count in left.items() for _ in range(count))
    return Allocation.of(next(fresh) if label is None else label for label in kept)


def claim(
    name: str, count: int, taken: Sequence[bool], before: Allocation | None = None
) -> Allocation | None:
    """``count`` buckets of a layer for ``name``, the rest FREE; None where the layer has not as many.

    taken: for each bucket, whether another experiment has it. What ``name`` had ``before`` it keeps, as far
    as that is not taken.
    """
    own = [False] * BUCKETS if before is None else [label == name for label in before.labels]
    order = sorted(range(BUCKETS), key=lambda bucket: not own[bucket])
    chosen = [bucket for bucket in order if not taken[bucket]][:count]
    if len(chosen) < count:
        return None
    mine = set(chosen)
    return Allocation.of(name if bucket in mine else FREE for bucket in range(BUCKETS))


def _digest(salt: str, purpose: str, unit: str) -> bytes:
    # A zero byte ends the purpose: no two pairs of purpose and unit are the same message.
    message = f"{purpose}\0{unit}".encode("utf-8", "surrogatepass")
    return hmac.digest(salt.encode("utf-8", "surrogatepass"), message, "sha256")


def _bucket(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big") % BUCKETS
