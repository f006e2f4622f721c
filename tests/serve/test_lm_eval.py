"""EleutherAI's lm_eval against the endpoint: its numbers are those of the dense models.

Needs ``pip install "lm_eval[api]"``, which is no part of the dev extra: it brings thirty packages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from serve.engine import Engine
from serve.settings import EngineSettings
from tests import tiny
from tests.bundles import Zoo, adapter_zoo
from tests.serve.routed import add_router
from tests.serve.server import serving

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("tenacity", reason="lm_eval's API models need lm_eval[api]")

TOKENIZER = tiny.tokenizer()
QUESTIONS = ["5 + 4 =", "spell 7 then 5", "PAINT 3 OVER 4", "9 + 9 =", "a", "spell 1 then 2"]
CHOICES = ["9", "75 and more", "no"]
LENGTH = 6
NEAR = 1e-4


@pytest.fixture(scope="module")
def zoo_with_router(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    made = adapter_zoo(tmp_path_factory.mktemp("lm_eval"), "llama")
    add_router(made.bundle.path, features="hidden")
    return made


@pytest.fixture(scope="module")
def address(zoo_with_router: Zoo) -> Iterator[str]:
    engine = Engine.open(zoo_with_router.bundle.path, EngineSettings(slots=4), name="tiny")
    try:
        with serving(engine) as url:
            yield url
    finally:
        engine.stop()


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Tasks over local questions: by log-likelihood of choices and of whole texts, and by generation."""
    lines = (
        json.dumps({"question": q, "choices": CHOICES, "answer": i % 3}) for i, q in enumerate(QUESTIONS)
    )
    (tmp_path / "questions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "questions.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    choose = {
        "task": "choose",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    say = {
        "task": "say",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {
            "until": ["\n", "<", ">", "|", "~"],
            "max_gen_toks": LENGTH,
            "do_sample": False,
        },
        "metric_list": [{"metric": "exact_match"}],
    }
    read = {
        "task": "read",
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    }
    for task in (choose, say, read):
        (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump(common | task))
    return tmp_path


def run(
    address: str, zoo: Zoo, tasks: Path, task: str, model: str, chat: bool = False, **more: Any
) -> list[Any]:
    """lm_eval's own record of each question, in their order. chat: it fills in the chat template."""
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": model,
            "base_url": f"{address}/completions",
            "tokenizer": str(zoo.bundle.base),
            "tokenizer_backend": "huggingface",
            "tokenized_requests": True,
            "max_length": 200,
            "max_retries": 1,
            **more,
        },
        tasks=[task],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=chat,
    )
    return sorted(found["samples"][task], key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize(
    ("model", "mixture", "more"),
    [
        ("tiny:t1", {"t1": 1.0}, {"batch_size": 1}),
        ("tiny:static", {}, {"batch_size": 4}),
        ("tiny:t0", {"t0": 1.0}, {"batch_size": 2, "num_concurrent": 3}),
    ],
)
def test_log_likelihoods_are_those_of_the_dense_model(address, zoo_with_router, tasks, model, mixture, more):
    samples = run(address, zoo_with_router, tasks, "choose", model, **more)
    reference = zoo_with_router.reference(mixture)
    assert [sample["doc"]["question"] for sample in samples] == QUESTIONS
    for sample in samples:
        question = sample["doc"]["question"]
        likelihoods = []
        for choice, ((found, greedy),) in zip(CHOICES, sample["resps"], strict=True):
            ids = TOKENIZER.encode(f"{question} {choice}")
            with torch.no_grad():
                every = reference(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            own = list(zip(every, ids[1:], strict=True))[len(question) - 1 :]
            likelihoods.append(sum(float(row[token]) for row, token in own))
            assert float(found) == pytest.approx(likelihoods[-1], abs=len(own) * NEAR)
            assert str(greedy) == str(all(int(row.argmax()) == token for row, token in own))
        best = max(range(3), key=likelihoods.__getitem__)
        assert sample["acc"] == float(best == sample["doc"]["answer"])


def test_the_likelihood_of_a_whole_text_begins_with_its_first_token(address, zoo_with_router, tasks):
    """lm_eval puts the beginning of text before it, as what the first token follows."""
    samples = run(address, zoo_with_router, tasks, "read", "tiny:t1")
    reference = zoo_with_router.reference({"t1": 1.0})
    for sample in samples:
        ids = [TOKENIZER.bos_token_id, *TOKENIZER.encode(sample["doc"]["question"])]
        with torch.no_grad():
            every = reference(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        total = sum(float(row[token]) for row, token in zip(every, ids[1:], strict=True))
        assert float(sample["resps"][0][0]) == pytest.approx(total, abs=len(ids) * NEAR)


def test_generated_answers_are_those_of_the_dense_models(address, zoo_with_router, tasks):
    """Also of the dynamic model, each question by its own expert."""
    routes = httpx.post(f"{address}/route", json={"input": QUESTIONS}).json()["data"]
    routed = [route["mixture"] for route in routes]
    assert all(mixture in routed for mixture in ({"t0": 1.0}, {"t1": 1.0}, {"t2": 1.0}))
    for model, mixtures in (("tiny:t2", [{"t2": 1.0}] * 6), ("tiny", routed)):
        samples = run(address, zoo_with_router, tasks, "say", model, batch_size=3)
        for sample, mixture in zip(samples, mixtures, strict=True):
            reference, ids = zoo_with_router.reference(mixture), TOKENIZER.encode(sample["doc"]["question"])
            out: list[int] = []
            for _ in range(LENGTH):
                with torch.no_grad():
                    out.append(int(reference(input_ids=torch.tensor([ids + out])).logits[0, -1].argmax()))
                if out[-1] == TOKENIZER.eos_token_id:
                    break
            text = TOKENIZER.decode(out, skip_special_tokens=True)
            for stop in "\n<>|~":
                text = text.split(stop)[0]
            assert sample["resps"] == [[text]], sample["doc"]


def test_likelihoods_of_the_dynamic_model_are_those_of_the_routed_chat(address, zoo_with_router, tasks):
    """With the chat template filled in, the router reads the question and none of the choices."""
    routes = httpx.post(f"{address}/route", json={"input": QUESTIONS}).json()["data"]
    samples = run(address, zoo_with_router, tasks, "choose", "tiny", chat=True, batch_size=2)
    for sample, route in zip(samples, routes, strict=True):
        reference = zoo_with_router.reference(route["mixture"])
        messages = [{"role": "user", "content": sample["doc"]["question"]}]
        prompt = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        for choice, ((found, _),) in zip(CHOICES, sample["resps"], strict=True):
            ids = TOKENIZER.encode(prompt + choice)
            with torch.no_grad():
                every = reference(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            # lm_eval counts the white space at the template's end to the choice.
            own = list(zip(every, ids[1:], strict=True))[len(prompt.rstrip()) - 1 :]
            total = sum(float(row[token]) for row, token in own)
            assert float(found) == pytest.approx(total, abs=len(own) * NEAR)
