"""The scripts that users copy, run as they stand on a tiny zoo with a router."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest

from compress.bundle import Bundle
from examples import own_adapters, static_vs_dynamic, without_http
from serve.engine import Engine
from serve.request import SamplingParams, Target
from serve.settings import EngineSettings
from tests.bundles import adapter_zoo
from tests.commands import run
from tests.serve.routed import WORDS, add_router
from tests.serve.server import serving


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Base, adapters, a bundle of them with a router, and prompts by task."""
    folder = tmp_path_factory.mktemp("scripts")
    adapter_zoo(folder, "llama")
    add_router(folder / "bundle", features="hidden")
    for split, numbers in (("router", range(40)), ("test", range(40, 52))):
        (folder / split).mkdir()
        for task, words in WORDS.items():
            lines = [json.dumps({"prompt": words.format(i, i + 3), "answer": "no"}) for i in numbers]
            (folder / split / f"{task}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def engine(workshop):
    made = Engine.open(workshop / "bundle", EngineSettings(threads=1), name="tiny")
    yield made
    made.stop()


def test_own_adapters_become_a_bundle_that_answers_each_task_by_its_expert(workshop):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = run(
        workshop,
        *("--base", "base", "--prompts", "router", "--questions", "test", "--out", "own", "--port", port),
        *(f"{task}={task}" for task in WORDS),
        program=own_adapters.main,
    )
    assert Bundle.open(workshop / "own").tasks == list(WORDS)
    answers = [line for line in done.stdout.splitlines() if line.startswith("→ ")]
    assert [line.rsplit(" by ", 1)[1] for line in answers] == [f"{{'{task}': 1.0}}" for task in WORDS]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server outlives the script"


def test_a_word_that_names_no_adapter_is_refused(workshop):
    done = run(workshop, "movies", program=own_adapters.main, code=2)
    assert "'movies' must be TASK=ADAPTER" in done.stderr


def test_without_http_prints_the_engines_own_answers_and_routing(workshop, engine):
    prompt = WORDS["t1"].format(7, 5)
    done = run(workshop, "bundle", "--prompt", prompt, "--task", "t2", program=without_http.main)
    targets = [Target("dynamic"), Target("static")]
    targets.append(Target("mixture", mixture={"t2": 0.5}))
    texts = [a.text for a in engine.generate([without_http.request(engine, prompt, t) for t in targets])]
    dynamic, static, mixture, streamed = done.stdout.splitlines()
    assert dynamic.startswith(f"dynamic: {texts[0]!r} by {{'t1': 1.0}} (router, confidence ")
    assert static == f"static: {texts[1]!r} by the shared base (static)"
    assert mixture == f"mixture: {texts[2]!r} by {{'t2': 0.5}} (request)"
    assert streamed == f"streamed: {texts[0]}"


def test_every_user_is_asked_in_one_arm_and_right_answers_are_counted(workshop, engine, tmp_path):
    """Half of the references are what the arm answers, half are not."""
    expected = {"static": [0, 0], "dynamic": [0, 0]}
    for task, words in WORDS.items():
        lines = []
        for number in range(12):
            prompt, arm = words.format(number, number), static_vs_dynamic.arm_of(f"{task}-{number}")
            asked = without_http.request(engine, prompt, Target(arm))
            # The endpoint's own limit, which answers of an untrained model always reach.
            (answer,) = engine.generate([replace(asked, params=SamplingParams(max_tokens=48))])
            right = number % 2 == 0
            expected[arm][0] += right
            expected[arm][1] += 1
            lines.append({"prompt": prompt, "answer": answer.text if right else answer.text + "no"})
        (tmp_path / f"{task}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with serving(engine) as address:
        words = ["--model", "tiny", "--url", address, "--data", tmp_path, *WORDS]
        done = run(workshop, *words, program=static_vs_dynamic.main)
    rows = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if "│" in line]
    found = {row[1]: (row[2], row[3].split(" ")[0]) for row in rows[:2]}
    assert min(asked for _, asked in expected.values()) > 5
    for arm, (right, asked) in expected.items():
        assert found[arm] == (str(asked), f"{100 * right / asked:.1f}")


def test_an_arm_without_prompts_is_told(workshop, engine):
    with serving(engine) as address:
        words = ["--model", "tiny", "--url", address, "--data", "test", "--limit", 1, "t0"]
        done = run(workshop, *words, program=static_vs_dynamic.main, code=2)
    assert "one arm got no prompt" in done.stderr


def test_intervals_are_those_of_newcombes_table():
    """56 of 70 against 48 of 80 and 9 of 10 against 3 of 10: Newcombe (1998), table II, method 10."""
    for (a, n), (b, m), low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ):
        arms = [static_vs_dynamic.Arm([i < right for i in range(of)]) for right, of in ((a, n), (b, m))]
        found = static_vs_dynamic.difference(*arms)
        assert found == pytest.approx((a / n - b / m, low, high), abs=5e-5)
        assert static_vs_dynamic.difference(*arms[::-1]) == pytest.approx(
            [-x for x in (found[0], *found[:0:-1])]
        )
