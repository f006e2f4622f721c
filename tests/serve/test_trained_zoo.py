"""The product's claim on experts with real skills: static merging interferes, routing does not."""

from __future__ import annotations

import json

import pytest

from tests.bundles import write_recipe
from tests.commands import run
from tests.trained import OPERATIONS

WHOLE = 64  # the model's width: nothing is truncated


@pytest.fixture(scope="module")
def figures(trained_zoo, tmp_path_factory):
    """Figures of `twinserve eval` on bundles of the trained zoo: whole, and cut to rank 1."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, rank in (("whole", WHOLE), ("cut", 1)):
        recipe = write_recipe(
            folder / f"{name}.yaml",
            base=str(trained_zoo.base),
            experts=[{"task": task, "checkpoint": str(path)} for task, path in trained_zoo.finetunes.items()],
            exclusive={"rank": rank, "reference": "pretrained"},
            router={"prompts": str(trained_zoo.data / "router")},
        )
        run(folder, "build", recipe, "-o", name)
    data = trained_zoo.data / "test"
    run(folder, "eval", "whole", "cut", "--data", data, "--threads", "1", "--json", "figures.json")
    return json.loads((folder / "figures.json").read_text()) | {"folder": folder}


def test_each_expert_knows_its_own_task_alone(figures):
    own = figures["whole"]["exact_match"]["own"]
    assert min(own[task] for task in OPERATIONS) >= 0.7 and own["average"] >= 0.9
    assert figures["whole"]["exact_match"]["base"]["average"] <= 0.1


def test_static_merge_of_conflicting_experts_loses_what_they_know(figures):
    match = figures["whole"]["exact_match"]
    assert match["static"]["average"] <= 0.5 * match["own"]["average"]


def test_whole_experts_answer_as_their_fine_tunes(figures):
    match = figures["whole"]["exact_match"]
    assert match["oracle"] == match["own"]


def test_router_tells_look_alike_prompts_apart_by_content(figures):
    whole = figures["whole"]
    assert whole["router_accuracy"] + whole["null_share"] >= 0.97
    assert whole["router_accuracy"] >= 0.85
    assert whole["exact_match"]["dynamic"]["average"] >= 0.85 * whole["exact_match"]["own"]["average"]
    assert whole["dynamic_minus"]["static"]["low"] > 25


def test_cutting_the_experts_costs_quality(figures):
    match = figures["cut"]["exact_match"]
    assert match["oracle"]["average"] < match["own"]["average"] - 0.05
    assert figures["cut"]["storage"]["dynamic"] < figures["whole"]["storage"]["dynamic"]


def test_experts_of_a_bundle_can_be_built_from_again(figures, trained_zoo):
    """An expert folder is a checkpoint like any other: norms and biases beside the adapter included."""
    folder = figures["folder"]
    experts = folder / "whole" / "experts"
    assert (experts / "sort" / "extra.safetensors").is_file()
    recipe = write_recipe(
        folder / "again.yaml",
        base=str(trained_zoo.base),
        experts=[{"task": task, "checkpoint": str(experts / task)} for task in OPERATIONS],
        router={"prompts": str(trained_zoo.data / "router")},
    )
    run(folder, "build", recipe, "-o", "again")
    run(
        folder, "eval", "again", "--data", trained_zoo.data / "test", "--threads", "1", "--json", "again.json"
    )
    again = json.loads((folder / "again.json").read_text())["again"]["exact_match"]
    assert again["own"] == again["oracle"] == figures["whole"]["exact_match"]["own"]
