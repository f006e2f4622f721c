"""Evolver: greedy selection by one score, any merge, honest test scores, refusals."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from pydantic import ValidationError

from compress.errors import InputError
from compress.evolve import EvolveSettings, steps
from compress.mutation import STRATEGIES
from compress.recipe import SharedRecipe, read_recipe
from tests import tiny
from tests.evolving import MERGED, Distance, make_models, recipe, run, weights


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("merge", [None, MERGED])
@pytest.mark.parametrize(("factor", "crossover"), [(0.0, 0.5), (0.5, 0.0)])
def test_without_mutation_or_crossover_nothing_changes(models, tmp_path, merge, factor, crossover):
    evolved = run(
        recipe(models, tmp_path / "r.yaml"),
        tmp_path / "out",
        Distance(models),
        factor=factor,
        crossover=crossover,
        merge=merge,
    )
    assert not any(one.kept for one in evolved.history if one.generation)
    found = weights(tmp_path / "out")
    parents = [weights(models / f"m{i}") for i in range(4)]
    for name, weight in found.items():
        expected = parents[0][name] if merge is None else np.mean([p[name] for p in parents], axis=0)
        np.testing.assert_allclose(weight, expected, rtol=0, atol=0 if merge is None else 1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_only_improve_and_the_result_is_the_best_of_all(models, tmp_path, strategy):
    distance = Distance(models)
    best, seen = [], []

    def notify(evaluation, standing, done, total):
        best.append(min(standing.scores))
        seen.append((done, total))

    out = tmp_path / "out"
    evolved = run(
        recipe(models, tmp_path / "r.yaml"), out, distance, notify=notify, strategy=strategy, crossover=0.9
    )
    assert all(later <= earlier for earlier, later in itertools.pairwise(best))
    assert seen == [(i + 1, 4 + 4 * 3) for i in range(4 + 4 * 3)]
    # Beside the budget: the average and the evolved model, for the report.
    assert distance.calls == 16 + 2
    scores = {one.name.partition(":")[0]: one.dev for one in evolved.scored}
    assert scores["evolved"] == min(one.score for one in evolved.history) == distance(out)
    assert scores["evolved"] < scores["best fine-tune"]
    assert scores["best fine-tune"] == pytest.approx(distance(models / "m0"))


def test_a_merge_is_scored_with_the_offspring_in_place(models, tmp_path):
    distance, seen = Distance(models), []

    def measure(folder):
        seen.append(weights(folder))
        return distance(folder)

    out = tmp_path / "out"
    evolved = run(
        recipe(models, tmp_path / "r.yaml"),
        out,
        measure,
        generations=1,
        crossover=1.0,
        merge=MERGED,
    )
    assert [one.individual for one in evolved.history[:5]] == [0, 1, 2, 3, None]
    living = [weights(models / f"m{i}") for i in range(4)]
    merged = distance(models / "m0")
    for one, tensors in zip(evolved.history[4:], seen[4:], strict=False):
        trial = list(living)
        if one.individual is not None:
            (name,) = one.references
            reference = living[int(name[1])]
            trial[one.individual] = {n: (w + reference[n]) / 2 for n, w in trial[one.individual].items()}
        for name, tensor in tensors.items():
            np.testing.assert_allclose(tensor, np.mean([t[name] for t in trial], axis=0), rtol=0, atol=1e-5)
        assert one.kept == (one.individual is None or one.score < merged)
        if one.kept:
            living, merged = trial, one.score
    assert merged == evolved.scored[-1].dev < evolved.history[4].score
    assert [one.name for one in evolved.scored] == ["best fine-tune: m0", "average", "evolved"]


@pytest.mark.parametrize(
    "shared",
    [
        {"method": "task_arithmetic", "scaling": 0.4},
        {"method": "ties"},
        {"method": "dare"},
        {"method": "tsv"},
        {"method": "fisher", "prompts": "given"},
        {"method": "regmean", "prompts": "given"},
    ],
    ids=lambda shared: shared["method"],
)
def test_any_merge_can_be_scored(models, tmp_path, shared):
    """Also those that read of the fine-tunes' own prompts what they weigh by."""
    path = recipe(models, tmp_path / "r.yaml", ("m0", "m1", "m2"), **shared)
    calibration = {f"m{i}": [tiny.prompt(i, 20), tiny.prompt(i + 5, 15)] for i in range(3)}
    evolved = run(
        path,
        tmp_path / "out",
        Distance(models),
        merge=read_recipe(path).shared,
        generations=1,
        calibration=calibration,
    )
    assert len(evolved.scored) == 4
    assert evolved.scored[-1].dev <= evolved.scored[-2].dev == evolved.history[3].score


def test_test_scores_come_once_a_model_and_after_the_search(models, tmp_path):
    distance, examined = Distance(models), []

    def examine(folder):
        examined.append(distance.calls)
        return {"right": 0.5, "lost": float("inf")}

    evolved = run(
        recipe(models, tmp_path / "r.yaml", method="ties"),
        tmp_path / "out",
        distance,
        examine,
        merge=SharedRecipe(method="ties"),
    )
    assert len(examined) == len(evolved.scored) == 4 and min(examined) == len(evolved.history)
    facts = json.loads((tmp_path / "out" / "evolve.json").read_text())
    assert facts["scores"][0]["test"] == {"right": 0.5, "lost": None}
    assert facts["settings"]["merge"]["method"] == "ties"
    assert {"seed", "generation", "individual", "score"} <= facts["history"][-1].keys()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "arxiv.org/abs/2406.12208" in card and "| evolved |" in card


def test_a_score_that_is_no_number_is_the_worst(models, tmp_path):
    distance = Distance(models)

    def measure(folder):
        score = distance(folder)
        return float("nan") if distance.calls in (1, 6, 7) else score

    evolved = run(recipe(models, tmp_path / "r.yaml"), tmp_path / "out", measure)
    nameless = [one for one in evolved.history if one.score is None]
    assert len(nameless) == 3 and not any(one.kept for one in nameless if one.generation)
    assert len([note for note in evolved.notes if "no finite number" in note]) == 3
    # Whatever is a number is better than a fine-tune without one.
    successor = next(o for o in evolved.history[4:] if o.individual == 0 and o.score is not None)
    assert successor.kept
    with pytest.raises(InputError, match="no finite number for any of the fine-tunes"):
        run(recipe(models, tmp_path / "r.yaml"), tmp_path / "none", lambda _: float("nan"))


def test_the_budget_is_known_before(models):
    for merge in (None, MERGED):
        planned = steps(4, EvolveSettings(generations=7, seed=3, merge=merge))
        assert len(planned) == 4 + 4 * 7 + bool(merge)
        rounds = [[i for t, i in planned if t == generation] for generation in range(1, 8)]
        assert all(sorted(order) == [0, 1, 2, 3] for order in rounds) and len(set(map(tuple, rounds))) > 1


@pytest.mark.parametrize(
    ("names", "settings", "sentence"),
    [
        (("m0",), {}, "at least 2 fine-tunes, not 1"),
        (
            ("m0", "m1", "m2"),
            {"strategy": "rand/1"},
            "at least 4 fine-tunes, and there are 3: use blend or current-to-best/1",
        ),
        (("m0", "m1", "m2"), {"strategy": "rand/1", "merge": MERGED}, "there are 3: use blend$"),
        (("m0", "m1"), {"strategy": "current-to-best/1"}, "there are 2: use blend$"),
    ],
)
def test_too_few_models_are_refused(models, tmp_path, names, settings, sentence):
    distance = Distance(models)
    with pytest.raises(InputError, match=sentence):
        run(recipe(models, tmp_path / "r.yaml", names), tmp_path / "out", distance, **settings)
    assert distance.calls == 0 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "best/2"},
        {"factor": 1.1},
        {"crossover": float("nan")},
        {"generations": 0},
        {"strategy": "current-to-best/1", "merge": MERGED},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        EvolveSettings(**wrong)
