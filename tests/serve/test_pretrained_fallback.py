"""Prompts that no expert is trusted with go to the pretrained base, where the bundle has it."""

from __future__ import annotations

import shutil

import pytest
import torch

from compress.errors import InputError
from serve.engine import Engine
from serve.evaluate import Item, score
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings
from tests import tiny
from tests.serve.packed import COSTS, engine_of
from tests.serve.routed import add_router
from tests.serve.scrape import scrape

UNKNOWN = "QQQQQQ"


@pytest.fixture(scope="module")
def falling(zoo, tmp_path_factory):
    """An engine whose router falls back to the pretrained base, and its zoo."""
    z = zoo("adapter", "llama")
    path = tmp_path_factory.mktemp("falling") / "bundle"
    shutil.copytree(z.bundle.path, path)
    add_router(path, features="embedding", fallback="base")
    engine = Engine.open(path, EngineSettings(threads=1, costs=COSTS), name="tiny")
    yield engine, z
    engine.stop()


def asked(turn, prompt):
    return GenerationRequest(prompt, SamplingParams(6, ignore_eos=True), Target("dynamic"), (turn,))


def test_what_nobody_knows_is_answered_as_by_the_base_alone(falling):
    engine, z = falling
    prompt = tiny.prompt(4, 9)
    unknown, known = engine.generate([asked(UNKNOWN, prompt), asked("5 + 5 =", prompt)])
    assert unknown.routing.mixture == {"base": 1.0} and unknown.routing.experts == {}
    assert known.routing.mixture == known.routing.experts == {"t0": 1.0}
    plain = z.base.generate(
        torch.tensor([prompt]), max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0
    )
    assert list(unknown.token_ids) == plain[0, len(prompt) :].tolist()


def test_it_counts_as_an_abstention_and_as_no_expert(falling):
    engine, _ = falling
    before = scrape(engine)["twinserve_abstentions_total",]
    engine.generate([asked(UNKNOWN, tiny.prompt(5, 4))])
    found = scrape(engine)
    assert found["twinserve_abstentions_total",] == before + 1
    assert ("twinserve_routed_weight_total", "base") not in found
    items = {"t0": [Item([{"role": "user", "content": UNKNOWN}], "x")] * 2}
    scores = score(engine, items, lambda _: Target("dynamic"))
    assert (scores.routed_right, scores.null_share) == (0, 1)


def test_a_bundle_whose_base_is_the_merge_has_none(zoo):
    engine = engine_of(zoo("full", "llama"))
    try:
        for target in (Target("mixture", mixture={"base": 1.0}), Target("task", task="base")):
            with pytest.raises(InputError, match="the pretrained one is not in it; build with"):
                engine.generate([GenerationRequest([5, 6], SamplingParams(2), target)])
    finally:
        engine.stop()
