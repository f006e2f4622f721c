"""The proof's own arithmetic: shortcuts that its figures rest on, and its tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.proof import plots, tables
from benchmarks.proof.ablation import _without_shared, differences
from benchmarks.proof.misroutes import ERRORS, WEIGHTS, _compared
from benchmarks.proof.page import filled
from benchmarks.proof.pairs import _facts, stands_in, two_at_once
from benchmarks.proof.tuning import GRID, _scaled
from compress.errors import InputError
from compress.loading import load_model
from compress.mergedmodel import merge_model
from compress.recipe import Recipe
from compress.workspace import Workspace
from serve.evaluate import Item, Scores
from serve.request import Target
from tests import tiny
from tests.bundles import silent


@pytest.mark.parametrize("method", [name for name, (_, scalings) in GRID.items() if scalings])
def test_one_merge_serves_all_scalings(tmp_path, method):
    base = tiny.save_base(tmp_path / "base")
    for seed in range(3):
        tiny.save_finetune(tmp_path / f"t{seed}", base, seed)
    variant = GRID[method][0][0]

    def merged(scaling):
        recipe = Recipe.model_validate(
            {
                "base": str(tmp_path / "base"),
                "experts": [{"task": f"t{n}", "checkpoint": str(tmp_path / f"t{n}")} for n in range(3)],
                "shared": {"method": method, **variant, "scaling": scaling},
            }
        )
        folder = tmp_path / f"at {scaling}"
        folder.mkdir()
        merge_model(recipe, folder, Workspace(tmp_path / f"work {scaling}"), progress=silent)
        return folder

    whole = merged(1.0)
    scaled = _scaled(whole, tmp_path / "base", 0.3).state_dict()
    for name, weight in load_model(merged(0.3), torch.float32).state_dict().items():
        torch.testing.assert_close(scaled[name], weight, atol=1e-5, rtol=1e-4)


def test_without_a_shared_base_only_unrouted_prompts_change():
    routed = Scores({"a": np.array([1.0, 0.0]), "b": np.array([1.0, 1.0, 0.0])})
    base = Scores({"a": np.array([0.0, 1.0]), "b": np.array([0.0, 0.0, 1.0])})
    expert, nobody = Target("mixture", mixture={"a": 1.0}), Target("mixture", mixture={})
    found = _without_shared(routed, [expert, nobody, expert, nobody, nobody], base)
    assert {task: hits.tolist() for task, hits in found.hits.items()} == {"a": [1, 1], "b": [1, 0, 1]}


def test_hard_against_soft_by_hand():
    curve = {weight: {"all": 100 * weight**2} for weight in WEIGHTS}
    found = _compared(curve)["all"]
    assert set(found) == {"0.5", "0.625", "0.75", "0.875"} and set(found["0.5"]) == set(map(str, ERRORS))
    # A right first choice: 100 against 56.25; a wrong one: 0 against 6.25.
    assert found["0.75"]["0.0"] == pytest.approx(43.75)
    assert found["0.75"]["0.2"] == pytest.approx(0.8 * 43.75 - 0.2 * 6.25)


@pytest.mark.parametrize(
    ("expected", "text", "stands"),
    [
        ("fresh", "It is Fresh.", True),
        ("fresh", "refreshing", False),
        ("17", "117", False),
        ("-17", "= -17", True),
        ("an, state", "an, state, problem", True),
        ("a.b", "axb", False),
        ("wife", "", False),
    ],
)
def test_answers_stand_as_whole_words(expected, text, stands):
    assert stands_in(expected, text) is stands


def test_two_questions_are_of_two_tasks_and_the_same_every_time():
    items = {
        task: [Item([{"role": "user", "content": f"{task} {n}?"}], str(n)) for n in range(5)]
        for task in ("reversal", "family", "arithmetic", "recall", "movies")
    }
    asked = two_at_once(items, 30)
    assert asked == two_at_once(items, 30)
    for text, both in asked:
        assert len({task for task, _ in both}) == 2
        assert all(item.messages[0]["content"] in text for _, item in both)


def test_shares_of_answers_given():
    found = _facts(np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert found["answers"][0] == 75 and found["both"][0] == 50
    assert found["first"] == [100, 100, 100] and found["second"][1] == 0


def test_tables_are_put_between_their_marks(tmp_path):
    text = "a\n<!-- table: costs -->\nold | x\n<!-- end of table -->\nb\n"
    made = {"costs": "| new |"}
    once = filled(text, made, tmp_path)
    assert once == "a\n<!-- table: costs -->\n| new |\n<!-- end of table -->\nb\n"
    assert filled(once, made, tmp_path) == once
    with pytest.raises(InputError, match="no result for the table 'costs'; run its step first"):
        filled(text, {}, tmp_path)


def test_a_table_has_a_cell_for_every_head():
    facts = {
        "curve": {"0.0": {"all": 1.0, "templates": 2.0}, "1.0": {"all": 50.0, "templates": 60.0}},
        "hard minus soft": {"look-alikes": {"0.5": {"0.0": 40.0, "0.5": -2.0}}},
    }
    assert tables.misroutes(facts).splitlines() == [
        "| weight of the right expert | 0 | 1 |",
        "|---|---:|---:|",
        "| all | 1 | 50 |",
        "| templates | 2 | 60 |",
    ]
    assert tables.hard_or_soft(facts).splitlines()[2] == "| 0.5 | +40.0 | -2.0 |"


def test_the_ablation_has_a_line_a_size_the_smallest_first():
    rows = [
        {
            "reference": r,
            "size": s,
            "dtype": "int8",
            "policy": p,
            "kept": 0.5,
            "normalised": [n, n - 1, n + 1],
        }
        for s, n in (("1.25x", 97), ("1.1x", 90), ("1.03x", 80))
        for p in ("top-1", "soft")
        for r in ("pretrained", "no split")
    ]
    rows.append(rows[-4] | {"reference": "shared", "normalised": [70, 60, 75]})
    assert tables.ablation({"rows": rows}).splitlines()[2:] == [
        "| 1.03 × | int8 | 50 | 80.0 [79.0, 81.0] | 80.0 [79.0, 81.0] | 70.0 [60.0, 75.0] |",
        "| 1.1 × | int8 | 50 | 90.0 [89.0, 91.0] | 90.0 [89.0, 91.0] |  |",
        "| 1.25 × | int8 | 50 | 97.0 [96.0, 98.0] | 97.0 [96.0, 98.0] |  |",
    ]
    gains = [
        {"size": size, "dtype": dtype, "policy": "top-1", "points": [value, value - 1, value + 1]}
        for size, dtype, value in (("1.1x", "int8", -1), ("1.03x", "int8", 2), ("1.03x", "mixed", 3))
    ]
    assert tables.shared_gain({"shared minus pretrained": gains}).splitlines()[2:] == [
        "| 1.03 × | +2.0 [+1.0, +3.0] | +3.0 [+2.0, +4.0] |",
        "| 1.1 × | -1.0 [-2.0, +0.0] |  |",
    ]
    assert tables.blends({"rows": rows}).splitlines()[::2] == [
        "| base and experts | factors | pretrained, top-1 | pretrained, soft | shared, top-1 |",
        "| 1.03 × | int8 | 80.0 | 80.0 | 70.0 |",
        "| 1.25 × | int8 | 97.0 | 97.0 |  |",
    ]


def test_a_shared_base_is_compared_prompt_by_prompt():
    def row(reference, size, marks):
        return {
            "reference": reference,
            "size": size,
            "dtype": "int8",
            "policy": "soft",
            "hits": {"movies": marks},
        }

    rows = [row("pretrained", "1.1x", "0011"), row("shared", "1.1x", "1111"), row("no split", "1.1x", "0000")]
    (found,) = differences([*rows, row("pretrained", "2x", "0011")])
    assert (found["size"], found["dtype"], found["policy"]) == ("1.1x", "int8", "soft")
    # Two prompts of four are gained; none is lost in any resample.
    value, low, high = found["points"]
    assert value == 50 and 0 <= low < 50 < high <= 100


def shares(value):
    return {"value": value, "low": value - 3, "high": value + 3}


def test_plots_are_drawn_of_what_there_is_and_come_out_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "RESULTS", tmp_path)
    monkeypatch.setattr(plots, "IMAGES", tmp_path / "images")
    plots.draw_all()
    assert not (tmp_path / "images").exists()
    arms = {"dynamic": 97.0, "oracle": 99.0, **dict.fromkeys(tables.STATICS, 30.0)}
    bundle = {
        "storage": {arm: 1.2 for arm in arms},
        "normalised": {arm: shares(value) for arm, value in arms.items()},
        "exact_match": {arm: {"average": value / 100} for arm, value in arms.items()},
    }
    rows = [
        {"reference": r, "dtype": d, "policy": "top-1", "storage": s, "normalised": [90, 88, 92]}
        for r in ("pretrained", "no split", "shared") for d in plots.DTYPES for s in (1.1, 1.5)
    ]  # fmt: skip
    number = {n: {arm: {"normalised": [50, 40, 60]} for arm in ("dynamic", "static")} for n in ("2", "4")}
    curve = {
        weight: {kind: 50.0 for kind in ("look-alikes", "templates", "all")} for weight in ("0.0", "1.0")
    }
    for name, facts in {
        "lora-exact": bundle, "ablation": {"rows": rows}, "number": number, "misroutes": {"curve": curve}
    }.items():  # fmt: skip
        (tmp_path / f"proof_{name}.json").write_text(json.dumps(facts))
    plots.draw_all()
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert set(drawn) == {f"results-{name}.svg" for name in ("sizes", "ablation", "number", "misroutes")}
    assert b"against the shared base, mixed" in drawn["results-ablation.svg"]
    assert b"no split" not in drawn["results-ablation.svg"]
    plots.draw_all()
    assert {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()} == drawn
