"""Clients that ask, read, hang up and retry, all at once, and compare every answer with the truth."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.soak.truth import Truth

LIMIT = 12
# Of all requests: read to the end in one piece, streamed to the end, streamed and cut somewhere.
KINDS = {"whole": 0.4, "streamed": 0.35, "cut": 0.25}
CHAT = "/v1/chat/completions"


@dataclass
class Tally:
    """What clients saw. wrong: the first few answers that were not the truth's."""

    outcomes: Counter[str] = field(default_factory=Counter)
    ties: int = 0
    checked: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)
    generations: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)


async def clients(
    url: str, truths: dict[int, Truth], prompts: list[tuple[str, str]], count: int, seconds: float, name: str
) -> Tally:
    """``count`` clients for ``seconds``. truths: by generation; prompts: (task, prompt)."""
    tally, until = Tally(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        await asyncio.gather(
            *(_client(http, tally, truths, prompts, random.Random(n), until, name) for n in range(count))
        )
    return tally


async def _client(
    http: httpx.AsyncClient,
    tally: Tally,
    truths: dict[int, Truth],
    prompts: list[tuple[str, str]],
    chance: random.Random,
    until: float,
    name: str,
) -> None:
    while time.monotonic() < until:
        task, prompt = chance.choice(prompts)
        model = chance.choice([name, name, f"{name}:static", f"{name}:{task}"])
        (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": LIMIT,
            "temperature": 0,
        }
        started = time.monotonic()
        try:
            if kind == "whole":
                await _whole(http, tally, truths, body, prompt)
            else:
                await _streamed(
                    http, tally, truths, body, prompt, chance.randint(0, 6) if kind == "cut" else None
                )
        except httpx.TransportError as error:
            tally.outcomes[type(error).__name__] += 1
            await asyncio.sleep(0.2)
        tally.waits.append(time.monotonic() - started)


async def _whole(
    http: httpx.AsyncClient, tally: Tally, truths: dict[int, Truth], body: dict[str, Any], prompt: str
) -> None:
    response = await http.post(CHAT, json=body)
    if await _refused(response, tally):
        return
    choice = response.json()["choices"][0]
    tally.outcomes[choice["finish_reason"]] += 1
    _check(tally, truths, prompt, choice["routing"], choice["message"]["content"], whole=True)


async def _streamed(
    http: httpx.AsyncClient,
    tally: Tally,
    truths: dict[int, Truth],
    body: dict[str, Any],
    prompt: str,
    cut: int | None,
) -> None:
    """cut: after how many chunks the client hangs up; None = never."""
    text, routing, finish, seen = "", None, None, 0
    async with http.stream("POST", CHAT, json=body | {"stream": True}) as response:
        if await _refused(response, tally):
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                tally.outcomes[f"error in stream: {chunk['error']['code']}"] += 1
                return
            seen += 1
            choice = chunk["choices"][0]
            text += choice["delta"].get("content") or ""
            routing, finish = choice.get("routing") or routing, choice["finish_reason"] or finish
            if cut is not None and seen > cut and finish is None:
                break
    tally.outcomes[finish or "cut"] += 1
    if routing is not None:
        _check(tally, truths, prompt, routing, text, whole=finish is not None)


async def _refused(response: httpx.Response, tally: Tally) -> bool:
    if response.status_code == 200:
        return False
    await response.aread()
    tally.outcomes[f"{response.status_code} {response.json()['error']['code']}"] += 1
    if response.status_code in (429, 503):
        await asyncio.sleep(min(5.0, float(response.headers.get("retry-after", 1))))
    return True


def _check(
    tally: Tally, truths: dict[int, Truth], prompt: str, routing: dict[str, Any], text: str, *, whole: bool
) -> None:
    tally.generations[routing["generation"]] += 1
    truth = truths.get(routing["generation"]) or truths[max(truths)]
    expected, tie = truth.answer(prompt, tuple(sorted(routing["mixture"].items())), LIMIT)
    tally.checked += 1
    if text == expected or (not whole and expected.startswith(text)):
        return
    if tie:
        tally.ties += 1
    elif len(tally.wrong) < 20:
        tally.wrong.append({"prompt": prompt, "routing": routing, "got": text, "expected": expected})
