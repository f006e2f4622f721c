"""A deterministic engine without a model, and a way to ask an app without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import httpx
from fastapi import FastAPI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from compress.errors import InputError
from router import Route
from serve.api.app import create_app
from serve.request import Event, GenerationRequest, Routing
from serve.serversettings import ServerSettings

ANSWER = ("one", " two", " three", " four")
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('a user must begin') }}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Bytes as tokens: ids 0-255, then the end of text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")
    made.chat_template = chat_template
    return made


TOKENIZER = tokenizer()


class StubEngine:
    """Answers every prompt with ANSWER, one word a token, and remembers what it was asked.

    fail: an exception raised instead of event number ``fail_at``. hold_at: the number of the event
    before which it waits for ``release``. A new instance for each test.
    """

    def __init__(self) -> None:
        self.name = "twin"
        self.tasks: list[str] = ["sorting", "sentiment"]
        self.generation = 3
        self.digest = "3" * 64
        self.router: Any = "all that sorts"
        self.max_model_len = 200
        self.tokenizer: Any = TOKENIZER
        self.ready = True
        self.failed = False
        self.refuse: str | None = None
        self.fail: BaseException | None = None
        self.fail_at = 0
        self.hold_at: int | None = None
        self.release = asyncio.Event()
        self.held = asyncio.Event()
        self.requests: list[GenerationRequest] = []
        self.routed: list[list[tuple[str, ...]]] = []
        self.running = 0
        self.peak = 0
        self.cancelled = 0

    def pinned(self, generation: int | None = None) -> AbstractContextManager[StubEngine]:
        return nullcontext(self)

    @property
    def engines(self) -> list[StubEngine]:
        return [self]

    def check(self, request: GenerationRequest) -> None:
        if self.refuse:
            raise InputError(self.refuse)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.requests.append(request)
        self.running += 1
        self.peak = max(self.peak, self.running)
        ended = False
        try:
            routing = self._routing(request)
            await self._step(0)
            ended = not request.params.max_tokens
            yield Event("", (), routing, "length" if ended else None)
            words = ANSWER[: request.params.max_tokens]
            for number, word in enumerate(words, 1):
                await self._step(number)
                finish = None
                if number == len(words):
                    finish = "stop" if len(words) == len(ANSWER) else "length"
                    ended = True
                yield Event(word, (number,), routing, finish)  # type: ignore[arg-type]
        finally:
            self.running -= 1
            self.cancelled += not ended and self.fail is None

    async def route(self, conversations: Sequence[Sequence[str]]) -> Sequence[Route]:
        # A text in place of turns would be taken letter by letter.
        assert not any(isinstance(turns, str) for turns in conversations)
        self.routed.append([tuple(turns) for turns in conversations])
        await self._step(0)
        sure = {"sorting": 0.75, "sentiment": 0.25}
        unsure = {"sorting": 0.5, "sentiment": 0.5}
        return [
            Route(probabilities=sure, confidence=0.75, known=True, mixture={"sorting": 1.0})
            if turns[0].startswith("sort")
            else Route(probabilities=unsure, confidence=0.5, known=False, mixture={})
            for turns in conversations
        ]

    async def _step(self, number: int) -> None:
        await asyncio.sleep(0)
        if self.hold_at == number:
            self.held.set()
            await self.release.wait()
        if self.fail is not None and self.fail_at == number:
            raise self.fail

    def _routing(self, request: GenerationRequest) -> Routing:
        target = request.target
        if target.kind == "dynamic":
            return Routing({"sorting": 1.0}, "router", 0.75, target.label, self.generation)
        if target.kind == "static":
            return Routing({}, "static", None, target.label, self.generation)
        if target.kind == "task":
            return Routing({str(target.task): 1.0}, "model", None, target.label, self.generation)
        return Routing(dict(target.mixture or {}), "request", None, "mixture", self.generation)


def ask(
    engine: StubEngine,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    settings: ServerSettings | None = None,
    **options: Any,
) -> httpx.Response:
    """One response of a new app around ``engine``: POST with a JSON body, GET without."""
    if body is not None:
        # Not httpx's json=: half a surrogate pair can only travel as an escape.
        options["content"] = json.dumps(body)
        options["headers"] = {"content-type": "application/json", **options.get("headers", {})}
    method = method or ("POST" if "content" in options else "GET")

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://twin") as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())


def complete(engine: StubEngine, prompt: Any = "sort these", **fields: Any) -> httpx.Response:
    """POST /v1/completions."""
    return ask(engine, "/v1/completions", {"model": "twin", "prompt": prompt, **fields})


def chat(engine: StubEngine, *contents: Any, **fields: Any) -> httpx.Response:
    """POST /v1/chat/completions with user turns."""
    messages = [{"role": "user", "content": content} for content in contents or ("sort these",)]
    return ask(engine, "/v1/chat/completions", {"model": "twin", "messages": messages, **fields})


def frames(response: httpx.Response) -> list[Any]:
    """The payloads of a stream: objects, and "[DONE]" where it was sent."""
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    lines = response.text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    payloads = [line.removeprefix("data: ") for line in lines]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


class Connection:
    """One request on a bare ASGI connection, which the test can cut."""

    def __init__(self, app: FastAPI, path: str, body: Any, headers: Mapping[str, str] = {}) -> None:
        self.sent: list[Any] = []
        self.progress = asyncio.Event()
        self._cut = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._body: bytes | None = json.dumps(body).encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"content-type", b"application/json"),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def cut(self) -> None:
        """The client hangs up."""
        self._cut.set()

    def block_sending(self) -> None:
        """The client reads no more: sending waits forever."""
        self._open.clear()

    def read_on(self) -> None:
        """The client reads again."""
        self._open.set()

    async def until(self, condition: Callable[[list[Any]], bool]) -> None:
        """Wait for what was sent to fulfil ``condition``."""
        while not condition(self.sent):
            self.progress.clear()
            await self.progress.wait()

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._cut.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        self.progress.set()
        await self._open.wait()
