"""``twinserve eval --report``: the router's page with its effect on answers."""

from __future__ import annotations

import json
import re

import pytest

from tests import tiny
from tests.bundles import write_recipe
from tests.commands import run
from tests.serve.packed import COSTS

WORDS = {"sums": "{} + {} =", "letters": "spell {} then {}"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A bundle of two experts with a router of their factors, the same without one, and data."""
    folder = tmp_path_factory.mktemp("workshop")
    base = tiny.save_base(folder / "base")
    (folder / "data").mkdir()
    for i, (task, words) in enumerate(WORDS.items()):
        tiny.save_adapter(folder / task, base, i, target_modules="all-linear")
        lines = [{"prompt": words.format(i, i + 1), "answer": "ok"} for i in range(90, 92)]
        (folder / "data" / f"{task}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_recipe(
        folder / "recipe.yaml",
        base="base",
        experts=[{"task": task, "checkpoint": task} for task in WORDS],
        router={"layer": 1},
    )
    run(folder, "build", "recipe.yaml", "-o", "bundle")
    run(folder, "compress", "recipe.yaml", "-o", "bare")
    return folder


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch):
    monkeypatch.setenv("TWINSERVE_COSTS", COSTS.model_dump_json())


def test_eval_writes_the_page_with_every_arm(workshop):
    run(workshop, "eval", "bundle", "--data", "data", "--report", "out/page.html", "--json", "out/f.json")
    html = (workshop / "out" / "page.html").read_text(encoding="utf-8")
    found = json.loads((workshop / "out" / "f.json").read_text())["bundle"]
    match, loss = found["exact_match"], found["loss"]["tasks"]
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", html, re.S)]
    assert cells[0] == ["exact match, %", *match]
    assert set(match) >= {"base", "static", "random", "dynamic", "soft", "oracle", "own"}
    assert cells[1:4] == [
        [task, *(f"{100 * match[arm][task]:.1f}" for arm in cells[0][1:])] for task in (*WORDS, "average")
    ]
    assert cells[4] == ["static instead of own", "predicted by weights", "measured, points"]
    assert cells[5:] == [
        [task, f"{row['predicted']:.3f}", f"{100 * row['measured']:.1f}"] for task, row in loss.items()
    ]
    kinship = json.loads((workshop / "bundle" / "report.json").read_text())["kinship"]
    for task in WORDS:
        assert loss[task]["predicted"] == kinship["loss"][task]["static"] > 0
        assert loss[task]["measured"] == match["own"][task] - match["static"][task]
    assert found["loss"]["spearman"] is None and "Too few tasks" in html
    assert re.search(r"Routing 1,000 of these prompts took \d+\.\d s", html)
    assert "no prompts were given" in html and "<script" not in html


def test_without_a_router_nothing_is_asked(workshop):
    done = run(workshop, "eval", "bare", "--data", "data", "--answers", "bare.jsonl", code=1)
    assert "bundle bare has no router: train one with twinserve train-router" in done.stderr
    assert (workshop / "bare.jsonl").read_text() == ""


@pytest.mark.parametrize("bundles", [["bare"], ["bundle", "bare"]])
def test_a_page_is_about_the_router_of_one_bundle(workshop, bundles):
    done = run(workshop, "eval", *bundles, "--data", "data", "--report", "none.html", code=2)
    assert "--report is about the router of one bundle" in " ".join(done.stderr.replace("│", " ").split())
    assert not (workshop / "none.html").exists()
