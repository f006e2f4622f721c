"""Experiments and records in the process's memory: for an endpoint without a store, and gone with it."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from prometheus_client import CollectorRegistry

from serve.experiments.records import Change, Feedback, Routed, Served

# Responses whose feedback can still be matched; about a kilobyte each.
MOST_REMEMBERED = 20_000


class Memory:
    """A Storage. most: responses that are remembered; the oldest go first, feedback with them."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self.most = most
        self._key = secrets.token_bytes(32)
        self.metrics = CollectorRegistry()
        self._history: dict[str, dict[int, Change]] = {}
        self._served: OrderedDict[str, Served] = OrderedDict()
        self._feedback: dict[str, dict[str, Feedback]] = {}

    def experiments(self) -> list[Change]:
        return [list(versions.values())[-1] for versions in self._history.values()]

    def history(self, experiment: str) -> list[Change]:
        """All versions of one experiment, the first one first."""
        return list(self._history.get(experiment, {}).values())

    def save_experiment(self, change: Change) -> None:
        self._history.setdefault(change.name, {})[change.version] = change

    def put(self, record: Served | Routed) -> None:
        if isinstance(record, Routed):
            if (known := self._served.get(record.response)) is not None and known.task is None:
                self._served[record.response] = replace(known, task=record.task)
            return
        self._served[record.response] = record
        while len(self._served) > self.most:
            forgotten, _ = self._served.popitem(last=False)
            self._feedback.pop(forgotten, None)

    async def put_durably(self, record: Feedback) -> None:
        self._feedback.setdefault(record.response, {})[record.key] = record

    def find(self, response_id: str) -> Served | None:
        return self._served.get(response_id)

    def fingerprint(self, prompt: str) -> str:
        return hmac.digest(self._key, prompt.encode("utf-8", "surrogatepass"), "sha256").hex()

    def served(self, experiment: str, version: int | None = None) -> Iterator[Served]:
        """Responses of one experiment, of one version or of all, oldest first."""
        for record in list(self._served.values()):
            if record.experiment == experiment and version in (None, record.version):
                yield record

    def outcomes(self, experiment: str) -> Iterator[Feedback]:
        """What was said of the experiment's responses."""
        for record in self.served(experiment):
            yield from list(self._feedback.get(record.response, {}).values())
