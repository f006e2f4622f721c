"""The experiments of a running endpoint, asked and changed over its API."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from compress.errors import InputError
from serve.chatclient import connect, gone, reason
from serve.experiments.spec import Experiment

ADMIN = "admin/experiments"


class ExperimentClient:
    """A context manager. Every method raises InputError, in one sentence, when the endpoint refuses or is
    gone.

    key: an admin key, or for ``all`` alone an ordinary one.
    """

    def __init__(self, address: str, key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        self._client = connect(address, key, transport)

    def all(self) -> list[dict[str, Any]]:
        """Every experiment with its counts, as GET /v1/experiments tells it."""
        found: list[dict[str, Any]] = self._ask("GET", "experiments")["data"]
        return found

    def start(self, experiment: Experiment, why: str) -> dict[str, Any]:
        """Begin an experiment; its state."""
        body = {"experiment": experiment.model_dump(mode="json"), "reason": why}
        return self._ask("POST", ADMIN, json=body)

    def stop(self, name: str, why: str) -> dict[str, Any]:
        """End an experiment; its state."""
        return self._ask("DELETE", f"{ADMIN}/{quote(name, safe='')}", params={"reason": why})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, **content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise InputError(gone(self._client, error)) from error
        if response.status_code != 200:
            raise InputError(reason(response))
        found: dict[str, Any] = response.json()
        return found
