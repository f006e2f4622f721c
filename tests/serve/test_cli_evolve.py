"""twinserve evolve on fine-tunes with real skills: what it gains, what it refuses, what it looks at."""

from __future__ import annotations

import json

import pytest
import torch

import serve.evaluate
from compress.checkpoints import Checkpoint
from compress.loading import load_model
from serve.objectives import Exam
from serve.prompts import file_ids
from serve.settings import EngineSettings
from tests import tiny, trained
from tests.bundles import write_recipe
from tests.commands import run
from tests.trained import OPERATIONS


@pytest.fixture(scope="module")
def recipe(trained_zoo, tmp_path_factory):
    return write_recipe(
        tmp_path_factory.mktemp("recipes") / "r.yaml",
        base=str(trained_zoo.base),
        experts=[{"task": task, "checkpoint": str(path)} for task, path in trained_zoo.finetunes.items()],
        shared={"method": "average"},
    )


@pytest.fixture(scope="module")
def splits(trained_zoo):
    """Options that name development and test prompts without a word in both."""
    return "--dev", trained_zoo.data / "router", "--test", trained_zoo.data / "test"


def test_a_short_search_beats_the_average_and_reads_the_test_split_once(
    trained_zoo, recipe, splits, tmp_path, monkeypatch
):
    read, scored = [], []
    read_data, loss, exact_match = serve.evaluate.read_data, Exam.loss, Exam.exact_match
    monkeypatch.setattr(
        serve.evaluate, "read_data", lambda folder, *more: (read.append(folder), read_data(folder, *more))[1]
    )

    def note(name, usual):
        return lambda exam, folder: (scored.append((name, exam.prompts)), usual(exam, folder))[1]

    monkeypatch.setattr(Exam, "loss", note("loss", loss))
    monkeypatch.setattr(Exam, "exact_match", note("exact_match", exact_match))
    done = run(tmp_path, "evolve", recipe, *splits, "-o", "out", "--limit", 20, "--generations", 2)
    assert done.stdout.startswith(
        "13 evaluations of 80 development prompts: 4 fine-tunes, their merge, 2 × 4"
    )
    facts = json.loads((tmp_path / "out" / "evolve.json").read_text())
    scores = {one["name"].partition(":")[0]: one for one in facts["scores"]}
    assert scores["evolved"]["dev"] < scores["average"]["dev"] < scores["best fine-tune"]["dev"]
    assert scores["evolved"]["test"]["loss"] < scores["average"]["test"]["loss"]
    assert f"{scores['evolved']['test']['loss']:.4f}" in done.stdout
    assert read == [trained_zoo.data / "router", trained_zoo.data / "test"]
    # 240 are the test prompts: three models, each by both scores, and no model before the search ended.
    assert scored[:13] == [("loss", 80)] * 13
    assert sorted(one for one in scored if one[1] == 240) == [("exact_match", 240)] * 3 + [("loss", 240)] * 3
    assert load_model(tmp_path / "out", torch.float32).num_parameters() > 0


def test_exact_match_without_a_merge_keeps_the_best_model(recipe, splits, tmp_path):
    words = ("--objective", "exact_match", "--no-merge", "--generations", 1, "--limit", 5)
    run(tmp_path, "evolve", recipe, *splits, "-o", "out", *words, "--strategy", "current-to-best/1")
    facts = json.loads((tmp_path / "out" / "evolve.json").read_text())
    assert len(facts["history"]) == 8 and facts["objective"]["larger_is_better"]
    scores = {one["name"].partition(":")[0]: one for one in facts["scores"]}
    assert scores["evolved"]["dev"] >= scores["best fine-tune"]["dev"] >= 0.2


def test_a_prompt_in_both_splits_is_refused(recipe, trained_zoo, splits, tmp_path):
    test = tmp_path / "test"
    test.mkdir()
    for task in OPERATIONS:
        text = (trained_zoo.data / "test" / f"{task}.jsonl").read_text()
        if task == "rotate":
            text += (trained_zoo.data / "router" / "sort.jsonl").read_text()
        (test / f"{task}.jsonl").write_text(text)
    shared = trained.items("sort", "router", 1)[0].messages[0]["content"]
    done = run(tmp_path, "evolve", recipe, *splits[:2], "--test", test, "-o", "out", code=1)
    assert f"both have '{shared}' (task sort)" in " ".join(done.stderr.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--strategy", "rand/2"), 2, "'blend', 'rand/1' or 'current-to-best/1'"),
        (("--factor", "1.5"), 2, "factor"),
        (("--objective", "bleu"), 2, "loss or exact_match"),
        (("--strategy", "current-to-best/1"), 2, "evolve without a merge"),
        (("-o", "taken"), 1, "exists already"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_read(
    recipe, splits, tmp_path, words, code, sentence
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    done = run(tmp_path, "evolve", recipe, *splits, "-o", "out", *words, code=code)
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_the_loss_is_that_of_each_answer_alone(trained_zoo):
    """Padding changes nothing, and each task weighs the same."""
    base = Checkpoint.open(trained_zoo.base)
    data = {task: trained.items(task, "test", count) for task, count in (("sort", 7), ("shift", 3))}
    model = load_model(trained_zoo.finetunes["sort"], torch.float32).requires_grad_(False)
    tokenizer, means = tiny.tokenizer(), []
    for items in data.values():
        total = count = 0
        for item in items:
            prompt = file_ids(tokenizer, item.messages)
            answer = [*tokenizer(item.answer)["input_ids"], tokenizer.eos_token_id]
            logits = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
            total -= sum(float(logits[len(prompt) - 1 + k, token]) for k, token in enumerate(answer))
            count += len(answer)
        means.append(total / count)
    exam = Exam(data, base, EngineSettings())
    assert exam.loss(trained_zoo.finetunes["sort"]) == pytest.approx(sum(means) / 2, rel=1e-5)
    assert 0.35 < exam.exact_match(trained_zoo.finetunes["sort"]) < 0.7
