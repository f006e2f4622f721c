"""Routes of experiments as the page reads them, answering with reports made up for its tests."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.responses import StreamingResponse


def arm(name: str, mean: float, *rest: Any) -> dict[str, Any]:
    """One arm's line of a metric."""
    fields = ("effect", "low", "high", "relative", "always_valid_low", "always_valid_high", "decision")
    return {"arm": name, "mean": mean} | dict(zip(fields, rest or [*[None] * 6, "control"], strict=True))


REPORT: dict[str, Any] = {
    "name": "static-or-dynamic",
    "version": 2,
    "state": "running",
    "arms": [
        {"name": "static", "model": "static", "share": 0.5, "units": 1204, "responses": 3611},
        {"name": "dynamic", "model": "dynamic", "share": 0.5, "units": 1187, "responses": 3580},
    ],
    "control": "static",
    "metrics": [
        {
            "name": "thumbs", "direction": "higher", "guardrail": None, "unit": "", "level": 0.95,
            "arms": [
                arm("static", 0.412),
                arm("dynamic", 0.688, 0.276, 0.237, 0.315, 0.67, 0.219, 0.333, "better"),
            ],
        },
        {
            "name": "latency", "direction": "lower", "guardrail": 0.2, "unit": "s", "level": 0.95,
            "arms": [
                arm("static", 0.84),
                arm("dynamic", 0.91, 0.07, -0.01, 0.15, 0.083, -0.04, 0.18, "undecided"),
            ],
        },
    ],
    "over_time": {
        "thumbs": [
            {"moment": 1_795_600_000 + 3600 * hour, "arm": "dynamic",
             "effect": 0.276 + 0.2 / hour * (-1) ** hour,
             "low": 0.276 - 0.5 / hour**0.5, "high": 0.276 + 0.5 / hour**0.5}
            for hour in range(1, 41)
        ]
    },
    "guardrails": [
        {"metric": "latency", "arm": "dynamic", "status": "undecided", "limit": 0.2, "value": 0.083}
    ],
    "tasks": [
        {"task": "sorting", "arm": "dynamic", "metric": "thumbs", "units": 411, "mean": 0.71, "effect": 0.4,
         "low": 0.33, "high": 0.47},
        {"task": "base", "arm": "dynamic", "metric": "thumbs", "units": 390, "mean": 0.66, "effect": 0.1,
         "low": -0.02, "high": 0.22},
    ],
    "shadow": {
        "arm": "soft", "failed": 2,
        "rows": [
            {"task": None, "pairs": 1204, "agreement": 0.91, "low": 0.892, "high": 0.925, "latency": 0.84,
             "shadow_latency": 0.62},
            {"task": "base", "pairs": 12, "agreement": 1.0, "low": 0.757, "high": 1.0, "latency": 0.8,
             "shadow_latency": None},
        ],
    },
    "canary": "canary: dynamic at 50 % since 14:02 UTC, no step is left",
    "srm": {"p_value": 0.73, "alarm": False},
    "notes": ["Tasks are not corrected for their number."],
    "decision": "dynamic beats static on thumbs by +0.276; latency is within its guardrail so far.",
}  # fmt: skip


class Reports:
    """Experiments to be put into an app: ``routes``. A report given to ``tell`` is sent to all who follow."""

    def __init__(self, *reports: dict[str, Any]) -> None:
        self.reports = {report["name"]: report for report in reports}
        self.told = 0
        self.dropped = 0
        self.followers = 0
        self._lock = threading.Lock()
        self.routes = APIRouter()
        self.routes.get("/v1/experiments")(self._listed)
        self.routes.get("/v1/experiments/{name}")(self._one)
        self.routes.get("/v1/experiments/{name}/events")(self._events)

    def tell(self, report: dict[str, Any]) -> None:
        """Replace a report; may be called from another thread."""
        with self._lock:
            self.reports[report["name"]] = report
            self.told += 1

    def drop(self) -> None:
        """End the streams of all who follow."""
        self.dropped += 1

    async def _listed(self) -> dict[str, Any]:
        short = [
            {key: report[key] for key in ("name", "version", "state")} for report in self.reports.values()
        ]
        return {"object": "list", "data": short}

    async def _one(self, name: str) -> dict[str, Any]:
        return self.reports[name]

    async def _events(self, name: str) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            seen, dropped = self.told, self.dropped
            self.followers += 1
            try:
                yield ": welcome\n\n"
                while dropped == self.dropped:
                    await asyncio.sleep(0.02)
                    if self.told > seen:
                        seen = self.told
                        yield f"event: report\ndata: {json.dumps(self.reports[name])}\n\n"
            finally:
                self.followers -= 1

        return StreamingResponse(lines(), media_type="text/event-stream")
