"""``twinserve experiment report`` and ``power``; ``replay`` on a real bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from compress.errors import InputError
from serve.commands.experimentpower import power
from serve.commands.experimentreplay import replay
from serve.commands.experimentreport import report
from serve.commands.experimentshadows import shadows
from serve.experiments.statistics.source import report_of
from tests import tiny
from tests.bundles import write_recipe
from tests.commands import run
from tests.serve.experiments.statistics.drawn import NOW, experiment, records, served
from tests.serve.packed import COSTS

app = typer.Typer()
for command in (report, shadows, power, replay):
    app.command()(command)


@dataclass
class Version:
    name: str
    version: int
    state: str
    definition: str
    changed: float = NOW
    reason: str = "changed"


class Stored:
    """What a store tells of one experiment, whose shares changed."""

    def __init__(self) -> None:
        definitions = [
            experiment(arms={"static": 0.9, "dynamic": 0.1}).model_dump_json(),
            experiment().model_dump_json(),
        ]
        self.versions = [Version("trial", n, "running", text) for n, text in enumerate(definitions, 1)]
        self.shown, self.told = records({"static": [0.0, 1.0] * 90, "dynamic": [1.0, 2.0] * 10})
        self.closed = False

    def experiments(self):
        return self.versions[-1:]

    def history(self, name):
        return self.versions if name == "trial" else []

    def served(self, name):
        return iter(self.shown)

    def outcomes(self, name):
        return iter(self.told)

    def close(self):
        self.closed = True


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """A store behind ``sqlite:///there.db``, in the place of the real one."""
    made, module = Stored(), ModuleType("serve.experiments.store.store")

    class Store:
        @staticmethod
        def open(url, spool, *, retention):
            assert url == "sqlite:///there.db" and retention is None and spool.is_dir()
            return made

    module.Store = Store
    monkeypatch.setitem(sys.modules, "serve.experiments.store.store", module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.db").touch()
    return made


def invoke(*words):
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "140"})


def test_the_report_is_printed_and_written(stored, tmp_path):
    done = invoke(
        "report", "trial", "--store", "sqlite:///there.db", "--json", "out/r.json", "--html", "out/r.html"
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "r.json").read_text())
    assert found["name"] == "trial" and found["state"] == "running" and found["arms"][0]["units"] == 180
    assert (tmp_path / "out" / "r.html").read_text().startswith("<!doctype html>")
    assert "No decision yet" in done.output and stored.closed


def test_every_version_is_held_against_its_own_shares(stored):
    assert not report_of(stored, "trial", now=NOW).srm.alarm
    stored.versions = stored.versions[1:]
    for version in stored.versions:
        version.version = 1
    assert report_of(stored, "trial", now=NOW).srm.alarm


def test_the_report_tells_where_a_canary_is(stored):
    shares = {"static": 0.99, "dynamic": 0.01}
    made = experiment({"name": "reward", "guardrail": 0.1}, arms=shares, canary={"arm": "dynamic"})
    assert report_of(stored, "trial", now=NOW).canary is None
    stored.versions[-1].definition = made.model_dump_json()
    told = report_of(stored, "trial", now=NOW).canary
    assert told is not None and told.startswith("canary: dynamic at 1 % since 2033-05-18 03:33 UTC, next 5 %")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("trail",), "there is no experiment 'trail' in this store; there are trial"),
        (("trial", "--before", "aa"), "there is no experiment 'aa'"),
    ],
)
def test_experiments_that_are_not_stored_are_named(stored, words, sentence):
    done = invoke("report", *words, "--store", "sqlite:///there.db")
    assert isinstance(done.exception, InputError) and sentence in str(done.exception)
    assert stored.closed


def test_a_database_that_is_not_there_is_not_made(stored, tmp_path):
    done = invoke("report", "trial", "--store", "sqlite:///none.db")
    assert isinstance(done.exception, InputError) and "none.db: no such file" in str(done.exception)
    assert not (tmp_path / "none.db").exists()


def test_power_tells_both_ways_of_looking():
    done = invoke("power", "--baseline", 0.6, "--effect", 0.05, "--per-day", 100)
    assert done.exit_code == 0
    assert "as often as you like │        5,139 │" in done.output and " 51.4 │" in done.output
    assert "one, at the end      │        2,936 │" in done.output
    numeric = invoke("power", "--deviation", 2, "--effect", 0.5)
    assert numeric.exit_code == 0 and "│  503 │" in " ".join(numeric.output.split()).replace(
        "│ 503 │", "│  503 │"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--effect", 0.1), "--baseline for a binary metric or --deviation"),
        (("--effect", 0.5, "--baseline", 0.6), "make a rate of 1.1"),
        (("--effect", 0.1, "--baseline", 0.6, "--per-day", 0), "--per-day must be above 0"),
    ],
)
def test_power_refuses_what_makes_no_sense(words, sentence):
    done = invoke("power", *words)
    assert done.exit_code == 2 and sentence in " ".join(done.output.replace("│", " ").split())


def test_a_real_bundle_is_replayed(tmp_path, monkeypatch):
    monkeypatch.setenv("TWINSERVE_COSTS", COSTS.model_dump_json())
    base = tiny.save_base(tmp_path / "base")
    (tmp_path / "data").mkdir()
    for number, task in enumerate(("sums", "letters")):
        tiny.save_adapter(tmp_path / task, base, number, target_modules="all-linear")
        lines = [{"prompt": f"{task} {i} and {i + 1}", "answer": "ok"} for i in range(90, 93)]
        (tmp_path / "data" / f"{task}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_recipe(
        tmp_path / "recipe.yaml",
        base="base",
        experts=[{"task": task, "checkpoint": task} for task in ("sums", "letters")],
    )
    run(tmp_path, "compress", "recipe.yaml", "-o", "bundle")
    monkeypatch.chdir(tmp_path)
    done = invoke(
        "replay",
        "bundle",
        "--data",
        "data",
        "--arms",
        "static,sums",
        "--limit",
        2,
        "--json",
        "r.json",
        "--html",
        "r.html",
    )
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads((tmp_path / "r.json").read_text())
    assert [arm["responses"] for arm in found["arms"]] == [4, 4] and found["design"] == "paired"
    assert found["metrics"][1]["arms"][0]["mean"] > 0
    assert "No difference shown between sums and static" in found["decision"]
    assert "paired bootstrap" in (tmp_path / "r.html").read_text()


def test_pairs_that_differ_are_shown_and_no_others(stored):
    for version in stored.versions:
        version.definition = experiment(shadow={"arm": "dynamic"}, store_prompts=True).model_dump_json()
    stored.shown = []
    for number, (said, other) in enumerate([("a", "a"), ("[b]left[/b]", "right"), ("c" * 300, "c")]):
        front = served(number, "static", task=None, prompt=f"prompt {number}", text=said)
        behind = {"metrics": {"agreement": float(said == other)}, "shadow": True, "beside": front.response}
        stored.shown += [front, served(10 + number, "dynamic", text=other, **behind)]
    done = invoke("shadows", "trial", "--store", "sqlite:///there.db")
    assert done.exit_code == 0, done.output
    assert "[b]left[/b]" in done.output and "prompt 0" not in done.output and "c…" in done.output
    assert done.output.index("prompt 2") < done.output.index("prompt 1"), "the latest first"
    assert "2 of 3 pairs differ" in done.output
    less = invoke("shadows", "trial", "--store", "sqlite:///there.db", "--limit", 1)
    assert "prompt 1" not in less.output and "2 of 3 pairs differ" in less.output


def test_without_a_shadow_there_are_no_pairs(stored):
    done = invoke("shadows", "trial", "--store", "sqlite:///there.db")
    assert isinstance(done.exception, InputError) and "has no shadow" in str(done.exception)
    done = invoke("shadows", "other", "--store", "sqlite:///there.db")
    assert "there is no experiment 'other'" in str(done.exception)
