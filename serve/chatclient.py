"""One conversation with an endpoint by its OpenAI API: what was said, and the answers as they come."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import httpx

from compress.errors import InputError


class Piece(NamedTuple):
    """What one chunk of an answer brings. routing: with the first and the last only."""

    text: str
    routing: dict[str, Any] | None


def connect(address: str, key: str | None, transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """A client of the endpoint at ``address``, with or without its ``/v1``; ``key`` as OpenAI's is sent."""
    base = address.rstrip("/").removesuffix("/v1") + "/v1/"
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    # An answer's first token can take long, behind others' prompts.
    return httpx.Client(
        base_url=base, headers=headers, timeout=httpx.Timeout(600, connect=10), transport=transport
    )


class Conversation:
    """Turns so far. Every method raises InputError, in one sentence, when the endpoint refuses or is gone.

    options: fields of the request, as ``max_tokens``. system: said before the first turn.
    """

    def __init__(self, client: httpx.Client, options: dict[str, Any], system: str | None = None) -> None:
        self._client, self._options = client, options
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._opening)
        self.models = self._known_models()
        self.model = self.models[0]

    def choose(self, name: str) -> None:
        """Go on with another model: its id, or what stands behind the colon of one."""
        found = [one for one in self.models if name in (one, one.partition(":")[2])]
        if not found:
            raise InputError(f"there is no model {name!r}; the models are {', '.join(self.models)}")
        self.model = found[0]

    def clear(self) -> None:
        """Forget all turns."""
        self.messages = list(self._opening)

    def say(self, words: str) -> Generator[Piece, None, None]:
        """The answer to ``words``. The turn is kept with as much of the answer as was taken; not at all
        when the endpoint fails."""
        asked = [*self.messages, {"role": "user", "content": words}]
        body = {"model": self.model, "messages": asked, "stream": True, **self._options}
        answer = ""
        try:
            with self._client.stream("POST", "chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise InputError(reason(response))
                for chunk in _chunks(response):
                    for choice in chunk["choices"]:
                        text = choice["delta"].get("content") or ""
                        answer += text
                        yield Piece(text, choice.get("routing"))
        except httpx.HTTPError as error:
            raise InputError(gone(self._client, error)) from error
        except GeneratorExit:
            self._keep(asked, answer)
            raise
        self._keep(asked, answer)

    def _keep(self, asked: list[dict[str, str]], answer: str) -> None:
        self.messages = [*asked, {"role": "assistant", "content": answer}]

    def _known_models(self) -> list[str]:
        try:
            response = self._client.get("models")
            if response.status_code != 200:
                raise InputError(reason(response))
            return [model["id"] for model in response.json()["data"]]
        except httpx.HTTPError as error:
            raise InputError(gone(self._client, error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._client.base_url} is no OpenAI endpoint: it lists no models") from error


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        data = line.removeprefix("data: ")
        if data == line or data == "[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise InputError(chunk["error"]["message"])
        yield chunk


def reason(response: httpx.Response) -> str:
    """Why the endpoint refused, in its own words where it has some."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answers with status {response.status_code}"


def gone(client: httpx.Client, error: Exception) -> str:
    """What to tell of an endpoint that cannot be talked to."""
    return f"{client.base_url} cannot be reached ({error}); check the address, and that the server runs"
