"""What lm_eval's numbers are held against: likelihoods of dense weights, and the very same tokens."""

from __future__ import annotations

import json
import math

import pytest
import torch
import typer

from benchmarks.proof.likelihood import Choices, likelihoods
from benchmarks.proof.lmeval import check_ids, compared, recorded
from serve.evaluate import Item
from tests import tiny

MESSAGES = [{"role": "user", "content": "spell 7 then 5"}]


def test_likelihoods_are_those_of_the_checkpoints_themselves(zoo):
    made = zoo("adapter", "llama")
    mixtures = [{"t1": 1.0}, {}, {"t1": 1.0}, {"t0": 0.5, "t2": 0.25}]
    answers = ("75", "no")
    found = likelihoods(made.bundle, [Choices(MESSAGES, answers)] * 4, mixtures)
    tokenizer = tiny.tokenizer()
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    for mixture, each in zip(mixtures, found, strict=True):
        reference = made.reference(mixture)
        for answer, total in zip(answers, each, strict=True):
            # One token at a time, from the template's last white space on.
            text, expected = prompt.rstrip(), 0.0
            for character in prompt[len(text) :] + answer:
                with torch.no_grad():
                    logits = reference(input_ids=torch.tensor([tokenizer.encode(text)])).logits[0, -1]
                expected += math.log(float(logits.softmax(-1)[tokenizer.encode(character)[0]]))
                text += character
            assert total == pytest.approx(expected, abs=1e-4)


def test_other_tokens_or_another_order_are_no_comparison():
    tokenizer = tiny.tokenizer()
    context = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    items = [Item(MESSAGES, "75")]
    check_ids(tokenizer, "letters", [{"context": context, "answer": "75"}], items)
    for sample in ({"context": f"<bos>{context}", "answer": "75"}, {"context": context, "answer": "no"}):
        with pytest.raises(typer.BadParameter, match="letters: prompt 1 has other tokens"):
            check_ids(tokenizer, "letters", [sample], items)


def test_a_row_counts_verdicts_that_differ():
    theirs = [{"right": True, "likelihoods": [-1.0, -2.0]}, {"right": False, "likelihoods": [-3.0, -1.0]}]
    ours = [{"right": True, "likelihoods": [-1.0, -2.5]}, {"right": True, "likelihoods": [-3.0, -1.0]}]
    row = compared("expert", "movies", theirs, ours)
    assert (row["model"], row["lm_eval"], row["ours"], row["equal_verdicts"]) == ("zoo:movies", 0.5, 1.0, 1)
    assert row["largest_difference"] == 0.5
    assert compared("static", "recall", theirs, ours)["model"] == "zoo:static"


def test_records_of_tasks_whose_names_begin_alike_are_kept_apart(tmp_path):
    for task, verdicts in (("movies", {"acc": 1.0}), ("movies_said", {"exact_match": 0.0})):
        lines = [
            {
                "doc_id": number,
                "doc": {"answer": f"{task} {number}"},
                "arguments": {"gen_args_0": {"arg_0": "context"}},
                "resps": [[["-1.5", "True"]], [["-2.5", "False"]]],
                **verdicts,
            }
            for number in (1, 0)
        ]
        (tmp_path / "zoo__x").mkdir(exist_ok=True)
        path = tmp_path / "zoo__x" / f"samples_zoo_{task}_2026-01-02T03-04-05.6.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    chosen, said = recorded(tmp_path, "movies"), recorded(tmp_path, "movies_said")
    assert [sample["answer"] for sample in chosen] == ["movies 0", "movies 1"]
    assert chosen[0]["likelihoods"] == [-1.5, -2.5] and chosen[0]["right"]
    assert [sample["answer"] for sample in said] == ["movies_said 0", "movies_said 1"]
    assert "likelihoods" not in said[0] and not said[0]["right"]
