"""The command line from checkpoints to answers on a tiny zoo, and its bad usage."""

from __future__ import annotations

import json

import pytest

from serve.engine import Engine
from serve.settings import EngineSettings
from tests import tiny
from tests.bundles import write_recipe
from tests.commands import run
from tests.serve.packed import COSTS

WORDS = {"sums": "{} + {} =", "letters": "spell {} then {}", "colours": "paint {} over {}"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Checkpoints, prompts and a recipe."""
    folder = tmp_path_factory.mktemp("workshop")
    base = tiny.save_base(folder / "base")
    for i, task in enumerate(WORDS):
        if i < 2:
            tiny.save_adapter(folder / task, base, i, target_modules="all-linear")
        else:
            tiny.save_finetune(folder / task, base, i)
    prompts = [
        {"task": task, "prompt": words.format(i, i * 7 % 50)}
        for task, words in WORDS.items()
        for i in range(30)
    ]
    (folder / "router.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    (folder / "data").mkdir()
    for task, words in WORDS.items():
        lines = [{"prompt": words.format(i, i + 1), "answer": "ok"} for i in range(90, 94)]
        (folder / "data" / f"{task}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_recipe(
        folder / "recipe.yaml",
        base="base",
        experts=[{"task": task, "checkpoint": task} for task in WORDS],
        exclusive={"rank": 8},
        router={"prompts": "router.jsonl", "layer": 1},
    )
    return folder


@pytest.fixture(scope="module")
def built(workshop):
    return run(workshop, "build", "recipe.yaml", "-o", "bundle")


def test_build_shows_what_it_made(workshop, built):
    assert "sums" in built.stdout and "adapter, exact" in built.stdout
    assert "cross-validated" in built.stdout and "held-out prompts: accuracy" in built.stdout
    report = json.loads((workshop / "bundle" / "report.json").read_text())
    assert report["router"]["accuracy"] > 0.9
    assert (workshop / "bundle" / "router" / "router.safetensors").is_file()


def test_inspect_verifies(workshop, built):
    assert "files verified" in run(workshop, "inspect", "bundle").stdout


def test_inspect_shows_how_kindred_the_fine_tunes_are(workshop, built):
    shown = run(workshop, "inspect", "bundle").stdout
    kinship = json.loads((workshop / "bundle" / "report.json").read_text())["kinship"]
    for number, (task, row) in enumerate(zip(kinship["tasks"], kinship["cosine"], strict=True), start=1):
        (line,) = [line for line in shown.splitlines() if f"│ {number} {task}" in line]
        assert line.replace("│", "").split() == [str(number), task, *(f"{value:z.2f}" for value in row)]
    worst = kinship["interference"][0]
    assert f"conflict most: {' and '.join(worst['tasks'])}, {100 * worst['conflict']:.1f} %" in shown


def test_a_merge_beside_its_experts_is_called_that(workshop, tmp_path):
    write_recipe(
        tmp_path / "recipe.yaml",
        base=str(workshop / "base"),
        experts=[{"task": task, "checkpoint": str(workshop / task)} for task in WORDS],
        shared={"method": "ties"},
    )
    run(tmp_path, "compress", "recipe.yaml", "-o", "ties")
    rows = [line for line in run(tmp_path, "inspect", "ties").stdout.splitlines() if "shared" in line]
    assert "the merge itself" in rows[0] and rows[-1].rstrip() == "shared  ties"
    assert "the merge itself" in (tmp_path / "ties" / "report.html").read_text()
    assert json.loads((tmp_path / "ties" / "report.json").read_text())["kinship"]["tasks"] == list(WORDS)


def test_generate_and_route(workshop, built):
    done = run(workshop, "generate", "bundle", "3 + 4 =", "--max-tokens", 5)
    assert "by router" in done.stderr and done.stdout.strip()
    static = run(workshop, "generate", "bundle", "3 + 4 =", "--model", "static", "--max-tokens", 5)
    assert "shared base (by static)" in static.stderr
    routed = run(workshop, "route", "bundle", stdin="3 + 4 =\n\nspell a then b\n")
    lines = [json.loads(line) for line in routed.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == ["3 + 4 =", "spell a then b"]
    assert [max(line["probabilities"], key=line["probabilities"].get) for line in lines] == [
        "sums",
        "letters",
    ]
    engine = Engine.open(workshop / "bundle", EngineSettings(threads=1, costs=COSTS))
    try:
        for line, one in zip(lines, engine.route_now([(line["prompt"],) for line in lines]), strict=True):
            assert line["probabilities"] == pytest.approx(one.probabilities, abs=1e-3)
            assert line["mixture"] == one.mixture
    finally:
        engine.stop()


def test_eval_prints_every_arm_and_writes_the_figures(workshop, built):
    run(workshop, "export", "bundle", "-o", "merged", "--as", "merged")
    words = ("eval", "bundle", "--data", "data", "--dev", "data", "--static", "other=merged", "--cost")
    done = run(workshop, *words, "--json", "out/figures.json", "--answers", "out/answers.jsonl")
    arms = ["base", "static", "other", "random", "dynamic", "top-2", "soft", "oracle", "own"]
    for word in (*arms, "average", "recovered", "tokens/s", "dynamic minus it", *WORDS):
        assert word in done.stdout
    figures = json.loads((workshop / "out" / "figures.json").read_text())["bundle"]
    assert list(figures["exact_match"]) == list(figures["storage"]) == arms
    assert set(figures["dynamic_minus"]["own"]) == {"value", "low", "high"}
    assert figures["static_scaling"] in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    assert figures["storage"]["dynamic"] > figures["storage"]["static"] == figures["storage"]["base"]
    assert set(figures["costs"]) == {"base", "static", "dynamic", "own"}
    for cost in figures["costs"].values():
        assert cost["tokens_per_second"] > 0 and len(cost["rounds"]) == 3 and cost["peak_bytes"] > 10**7
    known = (workshop / "out" / "answers.jsonl").read_bytes()
    again = run(workshop, *words[:-1], "--json", "out/again.json", "--answers", "out/answers.jsonl")
    assert "other" in again.stdout and (workshop / "out" / "answers.jsonl").read_bytes() == known
    repeated = json.loads((workshop / "out" / "again.json").read_text())["bundle"]
    assert repeated == figures | {"costs": {}}


def test_the_two_halves_equal_the_whole(workshop, built):
    run(workshop, "compress", "recipe.yaml", "-o", "halves")
    assert "none" in run(workshop, "inspect", "halves").stdout
    refused = run(workshop, "generate", "halves", "3 + 4 =", code=1)
    assert "has no router; train one with twinserve train-router" in refused.stderr
    run(workshop, "train-router", "halves", "--prompts", "router.jsonl", "--layer", 1)
    for name in ("router/router.safetensors", "experts/sums/adapter_model.safetensors", "bundle.json"):
        assert (workshop / "halves" / name).read_bytes() == (workshop / "bundle" / name).read_bytes()
    otherwise = ("--layer", 1, "--pooling", "both", "--false-rejection", 0.2)
    run(workshop, "train-router", "halves", "--prompts", "router.jsonl", *otherwise)
    settings = json.loads((workshop / "halves" / "router" / "router.json").read_text())["settings"]
    assert (settings["pooling"], settings["false_rejection"]) == ("both", 0.2)


def test_a_base_that_changed_since_is_not_evaluated_against(workshop, built, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(workshop, tmp_path / "copy")
    path = tmp_path / "copy" / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    refused = run(tmp_path / "copy", "eval", "bundle", "--data", "data", code=1)
    assert "its weights are not the ones that bundle was built from" in refused.stderr


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["build", "none.yaml", "-o", "x"], 1, "the recipe cannot be read"),
        (["build", "recipe.yaml"], 2, "--output"),
        (["inspect", "base"], 1, "not a bundle"),
        (["inspect", "no-such-folder"], 1, "not a bundle"),
        (["generate", "bundle", "  "], 1, "the prompt is empty"),
        (["generate", "bundle", "hi", "--model", "cooking"], 1, "unknown task 'cooking'"),
        (["generate", "bundle", "hi", "--max-tokens", "0"], 2, "max-tokens"),
        (["generate", "bundle", "hi", "--max-tokens", "100000"], 1, "exceed the context"),
        (["eval", "bundle", "--data", "base"], 1, "every task needs its held-out prompts"),
        (["eval", "bundle", "--data", "data", "--reference", "sums"], 2, "give TASK=CHECKPOINT"),
        (["eval", "bundle", "--data", "data", "--reference", "x=y"], 2, "is no task of"),
        (["eval", "bundle", "--data", "data", "--static", "ties"], 2, "give NAME=FOLDER"),
        (["eval", "bundle", "--data", "data", "--static", "soft=base"], 2, "name of an arm"),
        (["eval", "bundle", "--data", "data", "--static", "ties=no-such"], 1, "no-such"),
        (["eval", "bundle", "--data", "data", "--answers", "router.jsonl"], 1, "not a line of answers"),
        (["train-router", "bundle", "--prompts", "none.jsonl"], 1, "none.jsonl"),
        (["serve", "base"], 1, "not a bundle"),
        (["serve", "bundle", "--device", "banana"], 2, "'banana' is no device of this machine"),
        (["eval", "bundle", "../bundle/bundle", "--data", "data"], 2, "same folder name"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_bad_usage_is_one_sentence_and_the_right_exit_code(workshop, built, words, code, sentence):
    done = run(workshop, *words, code=code)
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_a_task_without_prompts_is_refused_before_anything_is_built(workshop, tmp_path):
    lines = [line for line in (workshop / "router.jsonl").read_text().splitlines() if '"sums"' not in line]
    (tmp_path / "router.jsonl").write_text("\n".join(lines))
    recipe = (workshop / "recipe.yaml").read_text().replace("router.jsonl", str(tmp_path / "router.jsonl"))
    (workshop / "poor.yaml").write_text(recipe)
    refused = run(workshop, "build", "poor.yaml", "-o", "poor", code=1)
    assert "task 'sums' has 0 distinct prompts" in refused.stderr
    assert not (workshop / "poor").exists()


@pytest.mark.parametrize(("key", "near"), [("toppk", "top_k"), ("promts", "prompts")])
def test_unknown_router_keys_name_the_nearest(workshop, key, near):
    recipe = (workshop / "recipe.yaml").read_text().replace("  layer: 1", f"  {key}: 1\n  layer: 1")
    (workshop / "typo.yaml").write_text(recipe)
    refused = run(workshop, "build", "typo.yaml", "-o", "typo", code=1)
    assert f"did you mean '{near}'?" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    "command", ["build", "compress", "train-router", "inspect", "eval", "serve", "generate", "route"]
)
def test_every_command_has_help_with_an_example(workshop, command):
    assert "Example: twinserve " + command in run(workshop, command, "--help").stdout
