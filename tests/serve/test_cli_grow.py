"""The command line adds an expert to a bundle and takes one out; the engine answers as before."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest

from compress.bundle import Bundle, read_manifest
from compress.errors import InputError
from router import load_router
from serve.engine import Engine
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings
from tests import tiny
from tests.bundles import write_recipe
from tests.commands import run
from tests.growing import hashes
from tests.serve.packed import COSTS
from tests.serve.routed import shared_base

WORDS = {"sums": "{} + {} =", "letters": "spell {} then {}", "colours": "PAINT {} OVER {}"}
OLD, NEW = ["sums", "letters"], "colours"
ASKED = [(words.format(i, i + 7),) for words in WORDS.values() for i in range(50, 56)]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Checkpoints, prompts, and bundles of two experts: with a router, without prompts, with none, and with
    experts of the shared base."""
    folder = tmp_path_factory.mktemp("workshop")
    base = tiny.save_base(folder / "base")
    tiny.save_adapter(folder / "sums", base, 1, target_modules="all-linear")
    tiny.save_finetune(folder / "letters", base, 2)
    tiny.save_adapter(folder / NEW, base, 3, target_modules="all-linear")
    tiny.save_finetune(folder / "full", base, 4)
    (folder / "prompts").mkdir()
    for task, words in WORDS.items():
        lines = [{"prompt": words.format(i, i * 7 % 50)} for i in range(30)]
        (folder / "prompts" / f"{task}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    learnt = {"prompts": "prompts", "features": "embedding", "classifiers": "logistic"}
    for name, command, reference, sources, router in (
        ("bundle", "build", "pretrained", OLD, learnt),
        ("dataless", "build", "pretrained", OLD, {"layer": 1}),
        ("bare", "compress", "pretrained", OLD, None),
        ("shared", "compress", "shared", ["full", "letters"], None),
    ):
        write_recipe(
            folder / "recipe.yaml",
            base="base",
            experts=[{"task": t, "checkpoint": c} for t, c in zip(OLD, sources, strict=True)],
            exclusive={"rank": 8, "reference": reference},
            router=router,
        )
        run(folder, command, "recipe.yaml", "-o", name)
    return folder


@pytest.fixture
def copy(workshop, tmp_path):
    """``copy(name)``: a bundle to be changed; commands run in the workshop."""

    def get(name):
        shutil.copytree(workshop / name, tmp_path / name)
        return tmp_path / name

    return get


@contextmanager
def opened(path):
    engine = Engine.open(path, EngineSettings(threads=1, costs=COSTS))
    try:
        yield engine
    finally:
        engine.stop()


def answers(path, tasks):
    """Greedy answers of the static model, of each task's, and of a blend."""
    targets = [Target("static"), *(Target("task", task=task) for task in tasks)]
    targets.append(Target("mixture", mixture={tasks[0]: 0.5, tasks[-1]: 0.25}))
    with opened(path) as engine:
        assert engine.tasks == read_manifest(path).tasks
        made = [GenerationRequest(tiny.prompt(5, 9), SamplingParams(12), target) for target in targets]
        return [answer.text for answer in engine.generate(made)]


def routes(path):
    with opened(path) as engine:
        return engine.route_now(ASKED)


def test_add_fits_an_expert_and_its_routes_into_a_bundle(workshop, copy):
    path = copy("bundle")
    before, routed = answers(path, OLD), routes(path)
    done = run(workshop, "add", path, f"{NEW}={NEW}", "--prompts", "prompts")
    assert "colours: adapter, rank at most 4" in done.stdout
    assert "held-out prompts of colours find it" in " ".join(done.stdout.split())
    manifest = Bundle.open(path).manifest
    assert manifest.tasks == [*OLD, NEW] and manifest.shared.weights[NEW] == 0.0
    assert answers(path, OLD) == before and len(set(before)) == 4
    for old, new in zip(routed, routes(path), strict=True):
        ratio = [new.probabilities[task] / old.probabilities[task] for task in OLD]
        assert ratio[0] == pytest.approx(ratio[1], rel=1e-4)
    found = [max(new.probabilities, key=new.probabilities.get) for new in routes(path)]
    assert found == [task for task in WORDS for _ in range(6)]
    report = json.loads((path / "report.json").read_text())
    assert list(report["experts"]) == [*OLD, NEW] and NEW in (path / "report.html").read_text()
    assert report["kinship"]["tasks"] == [*OLD, NEW]
    (row,) = report["router"]["added"]
    assert row["task"] == NEW and row["prompts"] == {"train": 26, "test": 4}
    assert load_router(path / "router", manifest.fingerprint, manifest.tasks).report == report["router"]


def test_remove_retires_an_expert_and_its_routes(workshop, copy):
    path = copy("bundle")
    before = answers(path, ["letters"])
    done = run(workshop, "remove", path, "sums")
    assert "sums answers nobody any more (its factors stay" in " ".join(done.stdout.split())
    manifest = Bundle.open(path).manifest
    assert (manifest.tasks, manifest.retired) == (["letters"], ["sums"])
    assert answers(path, ["letters"]) == before
    with opened(path) as engine:
        for target in (Target("task", task="sums"), Target("mixture", mixture={"sums": 1.0})):
            request = GenerationRequest([5, 6], SamplingParams(2), target)
            with pytest.raises(InputError) as refused:
                engine.generate([request])
            assert str(refused.value) == "mixture: unknown task 'sums'; known: letters"
        for route in engine.route_now(ASKED):
            assert route.probabilities == {"letters": 1.0}
    assert json.loads((path / "report.json").read_text())["router"]["removed"] == ["sums"]
    again = run(workshop, "remove", path, "sums", code=1)
    assert "'sums' is no expert of this bundle; it has letters" in " ".join(again.stderr.split())


def test_an_expert_that_came_and_goes_leaves_everything_as_it_was(workshop, copy):
    path = copy("bundle")
    before, routed = read_manifest(path), routes(path)
    run(workshop, "add", path, f"{NEW}={NEW}", "--prompts", "prompts")
    done = run(workshop, "remove", path, NEW)
    assert "left: sums, letters" in done.stdout and "factors stay" not in done.stdout
    after = Bundle.open(path).manifest
    assert after.tasks == OLD and after.fingerprint == before.fingerprint
    report = json.loads((path / "report.json").read_text())
    assert list(report["experts"]) == OLD and report["router"]["removed"] == [NEW]
    assert report["kinship"]["tasks"] == OLD
    for old, new in zip(routed, routes(path), strict=True):
        assert new.probabilities == pytest.approx(old.probabilities, rel=1e-6)
        assert (new.known, new.mixture) == (old.known, old.mixture)


def test_a_dataless_router_grows_without_prompts(workshop, copy):
    path = copy("dataless")
    run(workshop, "add", path, f"{NEW}={NEW}")
    bundle = Bundle.open(path)
    router = load_router(path / "router", bundle.fingerprint, bundle.tasks)
    assert router.tasks == (*OLD, NEW) and router.projection is not None
    queries = [router.query(tiny.tokenizer(), turns) for turns in ASKED]
    wanted = router.route(shared_base(bundle), queries)
    for found, expected in zip(routes(path), wanted, strict=True):
        assert found.probabilities == pytest.approx(expected.probabilities, abs=2e-3)
    assert len({round(route.probabilities[NEW], 2) for route in wanted}) > 3


def test_remerge_moves_the_shared_base_and_trains_the_router_anew(workshop, copy):
    path = copy("bundle")
    before, fingerprint = answers(path, OLD), read_manifest(path).fingerprint
    kinship = json.loads((path / "report.json").read_text())["kinship"]
    run(workshop, "add", path, f"{NEW}={NEW}", "--prompts", "prompts", "--remerge")
    bundle = Bundle.open(path)
    assert bundle.scalings == dict.fromkeys([*OLD, NEW], 0.3)
    assert bundle.fingerprint != fingerprint
    router = load_router(path / "router", bundle.fingerprint, bundle.tasks)
    assert router.fingerprint == bundle.fingerprint and "added" not in router.report
    assert router.report["counts"]["train"] == dict.fromkeys([*OLD, NEW], 26)
    after = answers(path, OLD)
    assert after[0] != before[0] and after[1:3] == before[1:3], "experts alone are what they were"
    anew = json.loads((path / "report.json").read_text())["kinship"]
    assert anew["cosine"][0][1] == pytest.approx(kinship["cosine"][0][1], abs=0.02)
    assert all(anew["loss"][task]["static"] > kinship["loss"][task]["static"] for task in OLD)


def test_without_a_router_an_expert_is_asked_for_by_name(workshop, copy):
    path = copy("bare")
    done = run(workshop, "add", path, f"{NEW}={NEW}")
    assert f"no router: ask for bare:{NEW}" in done.stdout
    assert not (path / "router").exists() and len(set(answers(path, [*OLD, NEW]))) == 5
    assert "left: letters, colours" in run(workshop, "remove", path, "sums").stdout


REFUSED = {
    "no prompts where there is a router": (
        ["add", "bundle", "colours=colours"],
        1,
        "the bundle's router learns from prompts: give --prompts with those of 'colours'",
    ),
    "no prompts for a new shared base": (
        ["add", "bundle", "colours=colours", "--remerge"],
        1,
        "give --prompts with those of all tasks, for another shared base needs another router",
    ),
    "no such prompts": (
        ["add", "bundle", "colours=colours", "--prompts", "none"],
        1,
        "cannot be read as UTF-8",
    ),
    "none of its prompts": (
        ["add", "bundle", "colours=colours", "--prompts", "prompts/sums.jsonl"],
        1,
        '"task" must be the name of a task',
    ),
    "no such checkpoint": (["add", "bare", "colours=./none"], 1, "no such model folder"),
    "no checkpoint": (["add", "bare", "colours"], 2, "colours: give TASK=CHECKPOINT"),
    "no task": (["add", "bare", "=colours"], 2, "give TASK=CHECKPOINT"),
    "a task that is there": (
        ["add", "bare", "sums=colours"],
        1,
        "'sums' is already an expert of this bundle",
    ),
    "a task that cannot be": (["add", "bare", "a/b=colours"], 1, "task name 'a/b' cannot be used"),
    "an adapter among full ones": (["add", "shared", "colours=colours"], 1, "give the full checkpoint"),
    "merging full ones anew": (["add", "shared", "more=full", "--remerge"], 1, "only from the checkpoints"),
    "nobody": (["remove", "bundle", "cooking"], 1, "'cooking' is no expert of this bundle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_every_byte(workshop, name):
    words, code, sentence = REFUSED[name]
    before = hashes(workshop)
    done = run(workshop, *words, code=code)
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert hashes(workshop) == before


@pytest.mark.parametrize("command", ["add", "remove"])
def test_help_has_an_example(workshop, command):
    assert "Example: twinserve " + command in run(workshop, command, "--help").stdout
    assert "not a bundle" in run(workshop, command, "base", "x=y", code=1).stderr
