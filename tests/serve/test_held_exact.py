"""Arms of two generations on real engines: every answer is that of its own bundle, and what goes is freed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.api.app import create_app
from serve.experiments.definitions import parsed
from serve.live import Live
from serve.serversettings import ServerSettings
from tests import tiny
from tests.bundles import Zoo
from tests.serve.routed import WORDS, add_router
from tests.serve.switching import copied, greedy, in_loop, real_live, until, zoos

TOKENS = 8
CLIENTS = 12
METRICS = [{"name": "correct"}]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Zoo]:
    return zoos(tmp_path_factory.mktemp("held"))


def text(zoo: Zoo, mixture: dict[str, float], prompt: list[int]) -> str:
    tokens = greedy(zoo, mixture, prompt, TOKENS)
    return str(tiny.tokenizer().decode(tokens, skip_special_tokens=True))


def app_of(live: Live[Any]) -> Any:
    return create_app(live, ServerSettings.model_construct())


def asked(user: str, prompt: Any) -> dict[str, Any]:
    return {
        "model": "tiny", "prompt": prompt, "user": user, "max_tokens": TOKENS, "temperature": 0,
        "ignore_eos": True,
    }  # fmt: skip


@in_loop
async def test_arms_of_two_generations_are_exact_under_load_and_switches(both: list[Zoo], long: bool) -> None:
    rounds, pause = (6, 0.4) if long else (1, 0.05)
    digests = [zoo.bundle.digest for zoo in both]
    arms = [
        {"name": "one", "model": "t0", "digest": digests[0], "share": 0.25},
        {"name": "two", "model": "t0", "digest": digests[1], "share": 0.25},
        {"name": "merged", "model": "static", "digest": digests[1], "share": 0.25},
        {"name": "now", "model": "t1", "share": 0.25},
    ]
    prompts = [tiny.prompt(seed, 5 + seed) for seed in range(3)]
    fixed = {"one": (0, {"t0": 1.0}), "two": (1, {"t0": 1.0}), "merged": (1, {})}
    expected = {
        (which, str(mixture), number): text(both[which], mixture, prompt)
        for which, mixture in [*fixed.values(), (0, {"t1": 1.0}), (1, {"t1": 1.0})]
        for number, prompt in enumerate(prompts)
    }
    live = real_live()
    await live.switch(both[0].bundle.path, 0)
    await live.switch(both[1].bundle.path, 1, serve=False)
    bundle_of = {1: 0, 2: 1}
    app = app_of(live)
    board, answered = app.state.trials.board, set[tuple[str, int]]()
    await board.start(parsed({"name": "trial", "arms": arms, "metrics": METRICS}), "begin")
    running = True

    async def client(number: int) -> None:
        case = number
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tiny") as http:
            while running:
                which = case % len(prompts)
                response = await http.post("/v1/completions", json=asked(f"user-{case}", prompts[which]))
                assert response.status_code == 200, response.text
                (choice,) = response.json()["choices"]
                arm, generation = response.headers["x-twinserve-arm"], choice["routing"]["generation"]
                bundle, mixture = fixed.get(arm, (bundle_of[generation], {"t1": 1.0}))
                assert bundle_of[generation] == bundle
                assert choice["text"] == expected[bundle, str(mixture), which]
                answered.add((arm, generation))
                case += CLIENTS

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    try:
        engines = []
        for _ in range(rounds):
            # To the one that is held, then to a new one of the first bundle, and by that the old one goes.
            second = next(one.number for one in live.held if bundle_of[one.number] == 1)
            await asyncio.sleep(pause)
            live.promote(second, live.generation)
            await asyncio.sleep(pause)
            bundle_of[live.upcoming] = 0
            engines += [weakref.ref(one.engine) for one in live.held]
            await live.switch(both[0].bundle.path, second)
            assert [bundle_of[one.number] for one in live.held] == [1]
        await until(lambda: {arm for arm, _ in answered} == {"one", "two", "merged", "now"})
        await until(lambda: {("now", 1), ("now", 2), ("now", live.generation)} <= answered)
        running = False
        await asyncio.gather(*clients)
        assert [one.leases for one in live.loaded] == [0, 0]
        engines.append(weakref.ref(live.held[0].engine))
        await board.stop("trial", "done")
        await until(lambda: not live.held and not live.leaving)
        gc.collect()
        assert not any(ref() for ref in engines)
        assert not board.passed, "nobody was left out at any moment"
    finally:
        running = False
        await live.stop()


@in_loop
async def test_what_is_let_go_is_freed_but_not_the_base(both: list[Zoo]) -> None:
    live = real_live()
    try:
        await live.switch(both[0].bundle.path, 0)
        await live.switch(both[1].bundle.path, 1, serve=False)
        engine = live.held[0].engine
        base = live.current.engine.mixture.base
        assert engine.mixture.base is base and engine.observer is live.current.engine.observer
        freed: list[Any] = [
            weakref.ref(part)
            for part in (engine, engine.mixture, engine.prefixes, engine.planner, engine.mixture.banks[0].A)
        ]
        with live.pinned(2) as pinned:
            assert pinned is engine
        del engine, pinned
        gc.disable()  # what frees it must be the release
        try:
            live.release(2)
            await until(lambda: not any(ref() for ref in freed))
        finally:
            gc.enable()
        assert live.current.engine.mixture.base is base
    finally:
        await live.stop()


@in_loop
async def test_two_routers_over_the_same_experts_share_them_and_choose_for_themselves(
    both: list[Zoo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = {"t0": WORDS["t1"], "t1": WORDS["t0"], "t2": WORDS["t2"]}
    paths = []
    for name, words in (("straight", WORDS), ("turned", turned)):
        paths.append(copied(both[0].bundle.path, tmp_path / name))
        add_router(paths[-1], words, features="embedding")
    live = real_live()
    try:
        await live.switch(paths[0], 0)
        # Neither base nor experts take memory again.
        monkeypatch.setattr("serve.hotload._free_memory", lambda device: 0)
        await live.switch(paths[1], 1, serve=False)
        ours, theirs = (one.engine.mixture for one in live.loaded)
        assert len(ours.banks) == len(theirs.banks) > 0
        assert all(mine is other for mine, other in zip(ours.banks, theirs.banks, strict=True))
        assert not set(ours.model.modules()) & set(theirs.model.modules())
        app = app_of(live)
        arms = [
            {"name": "straight", "digest": live.current.digest, "share": 0.5},
            {"name": "turned", "digest": live.held[0].digest, "share": 0.5},
        ]
        await app.state.trials.board.start(parsed({"name": "t", "arms": arms, "metrics": METRICS}), "begin")
        prompt, found = WORDS["t0"].format(77, 5), set()
        ids = tiny.tokenizer().encode(prompt)
        chosen = {"straight": {"t0": 1.0}, "turned": {"t1": 1.0}}
        expected = {arm: text(both[0], mixture, ids) for arm, mixture in chosen.items()}
        assert expected["straight"] != expected["turned"]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tiny") as http:
            for user in range(12):
                response = await http.post("/v1/completions", json=asked(f"user-{user}", prompt))
                (choice,) = response.json()["choices"]
                arm = response.headers["x-twinserve-arm"]
                assert choice["routing"]["mixture"] == chosen[arm] and choice["text"] == expected[arm]
                found.add(arm)
        assert found == set(chosen)
        # The factors outlive the model that they were read for.
        await app.state.trials.board.stop("t", "done")
        live.promote(2, 1)
        await until(lambda: not live.leaving)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tiny") as http:
            last = (await http.post("/v1/completions", json=asked("ann", prompt))).json()["choices"][0]
        assert (last["text"], last["routing"]["generation"]) == (expected["turned"], 2)
    finally:
        await live.stop()


@in_loop
async def test_a_bundle_too_large_for_the_memory_left_is_not_held(
    both: list[Zoo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.hotload import TooLargeError

    live = real_live()
    try:
        await live.switch(both[0].bundle.path, 0)
        monkeypatch.setattr("serve.hotload._free_memory", lambda device: 100)
        with pytest.raises(TooLargeError):
            await live.switch(both[1].bundle.path, 1, serve=False)
        assert not live.held and live.loading is None
    finally:
        await live.stop()
