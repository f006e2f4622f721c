"""Training: what is read, what is refused, what is reported; the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import InputError
from router import Prompt, Router, RouterSettings, read_prompts, train_router
from tests import tiny
from tests.router.prompts import ALPHABETS, prompts

TASKS = list(ALPHABETS)


def train(labelled: list[Prompt], tasks: list[str], **settings: Any) -> tuple[Router, dict[str, Any]]:
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    return train_router(model, tokenizer, labelled, tasks, RouterSettings(**settings))


@pytest.mark.parametrize("tasks", [TASKS, TASKS[:2], TASKS[:1]])
def test_a_router_learns_and_reports(tasks: list[str]) -> None:
    router, report = train(prompts(tasks, 60), tasks)
    assert router.tasks == tuple(tasks) and router.settings.layer == 1
    assert report["accuracy"] >= 0.95 and report["ece"] <= 0.1 and report["nll"] <= 0.2
    assert report["false_rejection"] <= 0.1
    assert set(report["false_rejection_by_task"]) == set(tasks)
    assert report["counts"] == {
        "train": dict.fromkeys(tasks, 42),
        "validation": dict.fromkeys(tasks, 9),
        "test": dict.fromkeys(tasks, 9),
    }
    assert np.array(report["confusion"]).sum(axis=1).tolist() == [9] * len(tasks)
    assert router.report == report


def test_equal_seeds_give_equal_routers_and_others_do_not() -> None:
    labelled = prompts(TASKS, 30)
    first, second, other = (train(labelled, TASKS, seed=seed)[0] for seed in (5, 5, 6))
    assert first.report == second.report
    assert first.novelty.threshold == second.novelty.threshold
    np.testing.assert_array_equal(first.classifier.coef, second.classifier.coef)
    np.testing.assert_array_equal(first.novelty.references, second.novelty.references)
    assert not np.array_equal(first.classifier.mean, other.classifier.mean)


def test_labels_follow_the_given_order_of_tasks() -> None:
    labelled = prompts(TASKS, 30)
    tasks = TASKS[::-1]
    router, report = train(labelled, tasks)
    assert router.tasks == tuple(tasks)
    assert report["accuracy"] >= 0.9


def test_duplicates_count_once_and_conflicts_not_at_all() -> None:
    labelled = prompts(TASKS, 20)
    contested = Prompt("talking", labelled[0].text)
    _, report = train([*labelled, labelled[25], contested], TASKS)
    assert report["dropped"] == {"duplicates": 2, "conflicts": 1}
    totals = [sum(split[task] for split in report["counts"].values()) for task in TASKS]
    assert totals == [19, 20, 20]


def test_the_fewest_prompts_that_do_fill_every_split() -> None:
    _, report = train(prompts(TASKS, 10), TASKS)
    assert report["counts"]["train"] == dict.fromkeys(TASKS, 6)
    assert report["counts"]["validation"] == dict.fromkeys(TASKS, 2)


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    train_router(
        tiny.model("llama"),
        tiny.tokenizer(),
        prompts(TASKS[:2], 20),
        TASKS[:2],
        RouterSettings(),
        lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (40, 40) and sorted(seen) == seen


def test_refusals() -> None:
    labelled = prompts(TASKS, 12)
    with pytest.raises(InputError, match="names the task 'talking'; known: counting, shouting"):
        train(labelled, TASKS[:2])
    with pytest.raises(InputError, match=r"task 'poetry' has 0 distinct prompts.*at least 10"):
        train(labelled, [*TASKS, "poetry"])
    same = [Prompt("counting", "1")] * 50
    with pytest.raises(InputError, match="task 'counting' has 1 distinct prompts"):
        train(same, ["counting"])
    with pytest.raises(InputError, match="layer 9 does not exist"):
        train(labelled, TASKS, layer=9)
    with pytest.raises(InputError, match="has no tokens"):
        # A tokenizer may drop what a string holds.
        model = tiny.model("llama")
        train_router(model, lambda *_, **__: {"input_ids": []}, labelled, TASKS, RouterSettings())


def test_hidden_states_that_overflow_are_refused() -> None:
    model = tiny.model("llama")
    model.get_input_embeddings().weight.data[20:] = float("inf")
    with pytest.raises(InputError, match="not finite"):
        train_router(model, tiny.tokenizer(), prompts(TASKS, 12), TASKS, RouterSettings())


def test_read_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = [
        '{"task": "a", "prompt": " one "}',
        "",
        '{"task": "b", "messages": [{"role": "user", "content": "two"}], "source": "kept apart"}\r',
        '{"task": "a", "prompt": "line\u2028separator"}',
    ]
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n \n")
    assert read_prompts(file, ["a"]) == [
        Prompt("a", "one"),
        Prompt("b", "two"),
        Prompt("a", "line\u2028separator"),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("not json", "not valid JSON"),
        ('{"task": "a", "prompt": "x"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"prompt": "x"}', '"task" must be'),
        ('{"task": 3, "prompt": "x"}', '"task" must be'),
        ('{"task": "", "prompt": "x"}', '"task" must be'),
        ('{"task": "a"}', 'either "prompt" or "messages"'),
        ('{"task": "a", "prompt": "x", "messages": []}', 'either "prompt" or "messages"'),
        ('{"task": "a", "prompt": 3}', '"prompt" must be a string'),
        ('{"task": "a", "prompt": null}', '"prompt" must be a string'),
        ('{"task": "a", "messages": "x"}', '"messages" must be a list'),
        ('{"task": "a", "messages": ["x"]}', r"messages\[0\] must be"),
        ('{"task": "a", "messages": []}', '"messages" has no text'),
        ('{"task": "a", "prompt": "  "}', '"prompt" has no text'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"task": "a", "prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=rf"prompts\.jsonl:3: .*{sentence}"):
        read_prompts(file, ["a"])


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "missing.jsonl", ["a"])
    (tmp_path / "latin.jsonl").write_bytes(b'{"task": "a", "prompt": "caf\xe9"}')
    with pytest.raises(InputError, match="UTF-8"):
        read_prompts(tmp_path / "latin.jsonl", ["a"])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.jsonl", ["a"])


def test_a_folder_holds_a_file_a_task_and_only_the_asked_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"prompt": "two"}\n')
    (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n{"task": "a", "prompt": "more"}\n')
    (tmp_path / "c.jsonl").write_text("not read")
    assert read_prompts(tmp_path, ["b", "a"]) == [Prompt("b", "two"), Prompt("a", "one"), Prompt("a", "more")]
    with pytest.raises(InputError, match=r"d\.jsonl"):
        read_prompts(tmp_path, ["a", "d"])
    (tmp_path / "d.jsonl").write_text('{"prompt": "one"}\n{"task": "a", "prompt": "other"}\n')
    with pytest.raises(InputError, match=r"d\.jsonl:2: \"task\" is 'a' in the file of 'd'"):
        read_prompts(tmp_path, ["d"])
