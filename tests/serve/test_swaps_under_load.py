"""Swaps while many clients ask: nobody fails, and every answer is that of the generation it names."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from serve.api.app import create_app
from tests import tiny
from tests.bundles import Zoo
from tests.serve.switching import greedy, in_loop, real_live, until, zoos

CLIENTS = 16
TOKENS = 12
CASES: list[tuple[str, dict[str, float]]] = [
    ("tiny:t0", {"t0": 1.0}),
    ("tiny:t1", {"t1": 1.0}),
    ("tiny:t2", {"t2": 1.0}),
    ("tiny:static", {}),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Zoo]:
    return zoos(tmp_path_factory.mktemp("load"))


@in_loop
async def test_a_swap_every_half_second_under_load(both: list[Zoo], long: bool) -> None:
    swaps, pause = (20, 0.5) if long else (4, 0.1)
    prompts = [tiny.prompt(seed, 5 + seed) for seed in range(4)]
    tokenizer = tiny.tokenizer()
    expected = {
        (which, model, number): tokenizer.decode(
            greedy(zoo, mixture, prompt, TOKENS), skip_special_tokens=True
        )
        for which, zoo in enumerate(both)
        for model, mixture in CASES
        for number, prompt in enumerate(prompts)
    }
    live = real_live()
    await live.switch(both[0].bundle.path, 0)
    answered: list[int] = []
    running = True
    transport = httpx.ASGITransport(create_app(live))

    async def client(number: int) -> None:
        case = number
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as http:
            while running:
                model, which = CASES[case % len(CASES)][0], case // len(CASES) % len(prompts)
                body = {"model": model, "prompt": prompts[which], "max_tokens": TOKENS, "temperature": 0}
                body["ignore_eos"] = True
                response = await http.post("/v1/completions", json=body, timeout=30)
                assert response.status_code == 200, response.text
                (choice,) = response.json()["choices"]
                generation = choice["routing"]["generation"]
                assert choice["text"] == expected[(generation - 1) % 2, model, which]
                answered.append(generation)
                case += 1

    engines: list[weakref.ref[Any]] = [weakref.ref(live.current.engine)]
    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    try:
        for number in range(1, swaps + 1):
            await asyncio.sleep(pause)
            await live.switch(both[number % 2].bundle.path, number)
            engines.append(weakref.ref(live.current.engine))
        await until(lambda: swaps + 1 in answered)
        running = False
        await asyncio.gather(*clients)
        assert set(answered) == set(range(1, swaps + 2)), "some generation answered nobody"
        await until(lambda: not live.leaving)
        gc.collect()
        assert [ref() for ref in engines] == [*[None] * swaps, live.current.engine]
    finally:
        running = False
        await live.stop()


@in_loop
async def test_memory_does_not_grow_with_swaps(both: list[Zoo], tmp_path: Path) -> None:
    """Of tensors alive, which is what a leak would be; the process's own size depends on the allocator."""

    def alive() -> int:
        gc.collect()
        tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
        return sum(
            {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values()
        )

    live = real_live()
    try:
        sizes = []
        for number in range(4):
            await live.switch(both[number % 2].bundle.path, number)
            await until(lambda: not live.leaving)
            sizes.append(alive())
        # A generation that stays costs more than its composed copy of the shared base, twice here.
        assert sizes[3] - sizes[1] < live.current.engine.mixture.parameter_bytes
    finally:
        await live.stop()
