"""Bundles loaded beside one that serves: what is shared, what is freed, and what is refused."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.bundle import Bundle, read_manifest, seal
from compress.errors import InputError
from serve import hotload
from serve.engine import Engine
from serve.hotload import TooLargeError
from serve.live import Live
from serve.request import GenerationRequest, SamplingParams, Target
from tests import tiny
from tests.bundles import Zoo
from tests.serve.switching import copied, greedy, in_loop, real_live, until, zoos

PROMPT = tiny.prompt(1, 9)
T0 = Target("task", task="t0")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Zoo]:
    return zoos(tmp_path_factory.mktemp("zoos"))


async def answer(live: Live[Engine], target: Target = T0) -> tuple[int, list[int]]:
    """The generation that answers PROMPT, and its tokens."""
    tokens: list[int] = []
    request = GenerationRequest(PROMPT, SamplingParams(max_tokens=8, ignore_eos=True), target)
    async for event in live.stream(request):
        tokens += event.token_ids
    return event.routing.generation, tokens


@in_loop
async def test_generations_share_the_base_and_answer_for_themselves(both: list[Zoo]) -> None:
    live = real_live()
    try:
        for number, zoo in enumerate([both[0], both[1], both[0]]):
            before = live.current.engine if number else None
            await live.switch(zoo.bundle.path, number)
            for target, mixture in ((T0, {"t0": 1.0}), (Target("static"), {})):
                assert await answer(live, target) == (number + 1, greedy(zoo, mixture, PROMPT, 8))
            if before is not None:
                models = [engine.mixture.model for engine in (live.current.engine, before)]
                ours, theirs = (dict(model.named_parameters()) for model in models)
                assert ours.keys() == theirs.keys()
                assert all(ours[name] is theirs[name] for name in ours)
                assert not set(models[0].modules()) & set(models[1].modules())
    finally:
        await live.stop()


@in_loop
async def test_another_base_is_loaded_and_not_shared(both: list[Zoo], tmp_path: Path) -> None:
    from tests.bundles import full_zoo

    other = full_zoo(tmp_path, "llama", tasks=2)
    live = real_live()
    try:
        await live.switch(both[0].bundle.path, 0)
        old = live.current.engine.mixture.base
        await live.switch(other.bundle.path, 1)
        assert live.current.engine.mixture.base is not old
        assert await answer(live) == (2, greedy(other, {"t0": 1.0}, PROMPT, 8))
    finally:
        await live.stop()


@in_loop
async def test_the_old_generation_is_freed_with_its_caches_but_not_the_base(both: list[Zoo]) -> None:
    live = real_live()
    try:
        await live.switch(both[0].bundle.path, 0)
        await answer(live)
        engine = live.current.engine
        base = engine.mixture.base
        held = [weakref.ref(part) for part in (engine, engine.mixture, engine.prefixes, engine.planner)]
        held += [weakref.ref(engine.mixture.banks[0].A), weakref.ref(engine._thread)]  # type: ignore[arg-type]
        pinned: Any = next(iter(engine.planner._pinned.values()))
        held.append(weakref.ref(next(iter(pinned.values()))))
        del engine, pinned
        gc.disable()  # what frees it must be the switch
        try:
            await live.switch(both[1].bundle.path, 1)
            await until(lambda: not any(ref() for ref in held))
        finally:
            gc.enable()
        assert live.current.engine.mixture.base is base
    finally:
        await live.stop()


def rewrite(path: Path, text: bytes) -> None:
    path.unlink()  # never into a file that others link to
    path.write_bytes(text)


def cut_short(bundle: Path) -> None:
    file = next(bundle.glob("experts/*/*.safetensors"))
    rewrite(file, file.read_bytes()[:-100])


def other_format(bundle: Path) -> None:
    text = (bundle / "bundle.json").read_bytes()
    rewrite(bundle / "bundle.json", text.replace(b'"schema_version": 1', b'"schema_version": 99'))


def sealed_nonsense(bundle: Path) -> None:
    file = next(bundle.glob("experts/*/*.safetensors"))
    rewrite(file, b"not a tensor")
    seal(bundle, read_manifest(bundle))


def no_numbers(bundle: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = next(bundle.glob("base/*.safetensors"))
    weights = {name: tensor * torch.nan for name, tensor in load_file(file).items()}
    file.unlink()
    save_file(weights, file, {"format": "pt"})
    seal(bundle, read_manifest(bundle))


@pytest.mark.parametrize("damage", [cut_short, other_format, sealed_nonsense, no_numbers, shutil.rmtree])
@in_loop
async def test_a_bundle_that_cannot_be_used_leaves_the_old_one_serving(
    both: list[Zoo], tmp_path: Path, damage: Any
) -> None:
    bad = copied(both[1].bundle.path, tmp_path / "bad")
    damage(bad)
    live = real_live()
    try:
        await live.switch(both[0].bundle.path, 0)
        with pytest.raises(InputError) as refused:
            await live.switch(bad, 1)
        assert "\n" not in str(refused.value)
        assert str(bad) in str(refused.value) or damage is no_numbers  # the self-check knows no paths
        assert await answer(live) == (1, greedy(both[0], {"t0": 1.0}, PROMPT, 8))
        assert live.loading is None and not live.leaving
        assert await live.switch(both[1].bundle.path, 1) == 2
    finally:
        await live.stop()


def truncate(bundle: Path) -> None:
    """In place, as a copy that is still going on leaves its files."""
    for file in bundle.rglob("*.safetensors"):
        with file.open("r+b") as stream:
            stream.truncate(10)


@in_loop
async def test_a_file_truncated_between_its_check_and_its_use_is_told(
    both: list[Zoo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = copied(both[1].bundle.path, tmp_path / "bad")
    live = real_live()
    try:
        await live.switch(both[0].bundle.path, 0)
        monkeypatch.setattr("serve.engine.check_memory", lambda *_, **__: truncate(bad))
        with pytest.raises(InputError, match="changed while it was read"):
            await live.switch(bad, 1)
        assert await answer(live) == (1, greedy(both[0], {"t0": 1.0}, PROMPT, 8))
    finally:
        await live.stop()


@in_loop
async def test_a_file_truncated_while_its_weights_are_read_does_no_harm(
    both: list[Zoo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads a memory map of a file cut short is killed: this would end the test run."""
    bad = copied(both[1].bundle.path, tmp_path / "bad")
    live = real_live()
    try:
        await live.switch(both[0].bundle.path, 0)
        opened = Engine._of
        monkeypatch.setattr(Engine, "_of", lambda *given: (truncate(bad), opened(*given))[1])
        await live.switch(bad, 1)
        assert await answer(live) == (2, greedy(both[1], {"t0": 1.0}, PROMPT, 8))
    finally:
        await live.stop()


@in_loop
async def test_a_bundle_too_large_for_the_memory_left_is_refused(
    both: list[Zoo], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = real_live()
    try:
        await live.switch(both[0].bundle.path, 0)
        monkeypatch.setattr(hotload, "_free_memory", lambda device: 100)
        with pytest.raises(TooLargeError, match=r"0\.00 GB are free"):
            await live.switch(both[1].bundle.path, 1)
        monkeypatch.undo()

        def full(*_: Any, **__: Any) -> torch.Tensor:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")

        monkeypatch.setattr("serve.mixture._Attachment.attach", full)
        with pytest.raises(TooLargeError, match="ran out"):
            await live.switch(both[1].bundle.path, 1)
        assert await answer(live) == (1, greedy(both[0], {"t0": 1.0}, PROMPT, 8))
    finally:
        await live.stop()


def test_a_limit_of_the_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "memory.max": "1000000\n",
        "memory.current": "900000\n",
        "memory.stat": "anon 1\ninactive_file 50000\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(hotload, "CGROUP", tmp_path)
    assert hotload._free_memory("cpu") == 150000
    (tmp_path / "memory.max").write_text("max\n")
    assert hotload._free_memory("cpu") > 10**6


def test_the_private_copy_leaves_out_what_is_in_memory(both: list[Zoo]) -> None:
    bundle = Bundle.open(both[0].bundle.path)
    with hotload.private_copy(bundle, without_base=True) as copy:
        assert not list(copy.base.glob("*.safetensors")) and (copy.base / "config.json").is_file()
        assert list(copy.path.glob("experts/*/*.safetensors"))
    assert not copy.path.exists()
