"""What a soak has shown, and what of it is a problem."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.soak.clients import Tally

# Of the run, until queues, caches and pools have filled.
WARM_UP = 0.25
# Growth from the second quarter of the run to the last that counts as flat.
FLAT = 0.03
ENDED = "twinserve_requests_total"


def summary(
    tally: Tally, at_rest: Mapping[str, float], counted: Mapping[str, float], sizes: Sequence[float]
) -> dict[str, Any]:
    """Figures and problems. at_rest: requests left in the server; counted: its metrics; sizes: its resident
    megabytes in turn."""
    by_outcome: dict[str, int] = {}
    for key, value in counted.items():
        if key.startswith(ENDED + "{"):
            outcome = key.split("outcome=")[1].rstrip("}")
            by_outcome[outcome] = by_outcome.get(outcome, 0) + int(value)
    received = int(counted["twinserve_requests_received_total"])
    seen = {outcome: tally.outcomes[outcome] for outcome in ("stop", "length")}
    early = sizes[int(len(sizes) * WARM_UP) : len(sizes) // 2] or sizes
    late = sizes[3 * len(sizes) // 4 :] or sizes
    growth = statistics.median(late) / statistics.median(early) - 1
    checks = {
        "wrong answers": not tally.wrong,
        "slots or places left": not any(at_rest.values()),
        "received is not the sum of outcomes": received == sum(by_outcome.values()),
        # A client that hangs up at the very end of an answer may have left it ended or cancelled.
        "ended is not what clients saw": all(by_outcome.get(o, 0) >= n for o, n in seen.items()),
        "failed or late": not by_outcome.get("failed") and not by_outcome.get("deadline"),
        "memory grew": growth <= FLAT,
    }
    return {
        "problems": [name for name, fine in checks.items() if not fine],
        "answers checked": tally.checked,
        "wrong": tally.wrong,
        "ties told apart": tally.ties,
        "clients saw": dict(tally.outcomes),
        "server counted": {"received": received, **by_outcome},
        "at rest": dict(at_rest),
        "generations": {str(key): count for key, count in sorted(tally.generations.items())},
        "seconds a request, median": statistics.median(tally.waits),
        "memory, MB": {
            "first": sizes[0],
            "second quarter": statistics.median(early),
            "last quarter": statistics.median(late),
            "growth": growth,
            "by tenths of the run": [
                statistics.median(sizes[len(sizes) * n // 10 :][: len(sizes) // 10 + 1]) for n in range(10)
            ],
        },
    }
