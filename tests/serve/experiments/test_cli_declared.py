"""twinserve experiment: check, start, stop and list, against a real server without a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from serve.api.security import Security
from serve.serversettings import OTHER_VARIABLES, ServerSettings
from tests.commands import run
from tests.serve.experiments.made import ARMS, TimedEngine, declared
from tests.serve.server import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = ServerSettings.model_construct(
        security=Security(api_key=SecretStr("tws-user"), admin_key=SecretStr("tws-admin"))
    )
    with serving(TimedEngine(), settings) as address:
        yield address.removesuffix("/v1")


def write(folder: Path, *experiments: dict) -> Path:
    file = folder / "experiments.yaml"
    file.write_text(yaml.safe_dump({"experiments": list(experiments)}))
    return file


def test_check_shows_the_arms_and_refuses_what_cannot_run(tmp_path, zoo):
    half = {"share": 0.25}
    policy = [{**ARMS[0], "share": 0.125}, {**ARMS[1], "share": 0.875, "policy": {"top_k": 2}}]
    file = write(tmp_path, declared("one", eligible=half), declared("two", arms=policy, layer="other"))
    shown = run(tmp_path, "experiment", "check", file).stdout
    for word in ("one", "two", "25.00%", "12.50%", "87.50%", "own policy", "other"):
        assert word in shown
    file = write(tmp_path, declared("one"), declared("two"))
    refused = run(tmp_path, "experiment", "check", file, code=1).stderr
    assert "experiments.yaml: experiment 'two' asks for 1 of layer 'weights'" in refused


def test_check_says_what_a_bundle_cannot_answer_and_leaves_arms_of_others_alone(tmp_path, zoo):
    bundle = zoo("adapter", "llama").bundle
    here, other = {"digest": bundle.digest}, {"model": "t9", "digest": "0" * 64}
    for own, why in (
        ({"model": "t0"}, None),
        ({"model": "t9"}, "there is no model 't9' here"),
        ({"model": "t9", **here}, "there is no model 't9' in generation"),
        ({"model": "dynamic"}, "has no router"),
        (other, None),
    ):
        file = write(tmp_path, declared(arms=[{**ARMS[0], **own}, {**ARMS[1], **other}]))
        done = run(tmp_path, "experiment", "check", file, "--bundle", bundle.path, code=int(why is not None))
        assert ("t9, bundle 00000000…" in done.stdout) if why is None else (why in done.stderr)


RAMP = [{**ARMS[0], "share": 1}, {**ARMS[1], "share": 0}]


def test_check_shows_a_canary_as_it_begins_and_its_steps(tmp_path):
    canary = {"arm": "new", "steps": [0.03, 0.3], "minutes": 180, "units": 2000}
    file = write(tmp_path, declared("one", arms=RAMP, canary=canary))
    shown = run(tmp_path, "experiment", "check", file).stdout
    assert "97.00%" in shown and " 3.00%" in shown
    assert "one, canary: new at 3 %, 30 %; each for 3 hours and 2,000 users at least" in shown
    file = write(tmp_path, declared("one", canary=canary))
    refused = run(tmp_path, "experiment", "check", file, code=1).stderr
    assert "experiments.yaml: arm 'new': it is declared with the share 0.5 and begins, as a" in refused


def test_list_tells_where_a_canary_is(tmp_path, url, monkeypatch):
    monkeypatch.setenv("TWINSERVE_ADMIN_KEY", "tws-admin")
    monkeypatch.setenv("TWINSERVE_API_KEY", "tws-user")
    file = write(tmp_path, declared("ramp", arms=RAMP, layer="ramp", canary={"arm": "new"}))
    run(tmp_path, "experiment", "start", file, "--url", url)
    shown = run(tmp_path, "experiment", "list", "--url", url).stdout
    assert "ramp, canary: new at 1 % since " in shown and "next 5 % not before " in shown
    run(tmp_path, "experiment", "stop", "ramp", "--url", url)
    assert "ramp, canary" not in run(tmp_path, "experiment", "list", "--url", url).stdout


def test_an_experiment_is_begun_listed_and_ended(tmp_path, url, monkeypatch):
    monkeypatch.setenv("TWINSERVE_ADMIN_KEY", "tws-admin")
    monkeypatch.setenv("TWINSERVE_API_KEY", "tws-user")
    file = write(tmp_path, declared("cli"))
    assert run(tmp_path, "experiment", "start", file, "--url", url).stdout == "cli: running, version 1\n"
    again = run(tmp_path, "experiment", "start", file, "--url", url, code=1).stderr
    assert "'cli' is running; change it, or choose another name" in again
    shown = run(tmp_path, "experiment", "list", "--url", url).stdout
    assert "cli" in shown and "running" in shown and "50.00%" in shown
    stopped = run(tmp_path, "experiment", "stop", "cli", "--url", f"{url}/v1", "--reason", "done").stdout
    assert stopped == "cli: stopped, version 1\n"
    assert "stopped" in run(tmp_path, "experiment", "list", "--url", url).stdout
    assert "ADMIN_KEY" in OTHER_VARIABLES, "else a server beside it would not start"


@pytest.mark.parametrize(
    ("address", "sentence"),
    [(None, "Send an admin key"), ("http://127.0.0.1:9", "cannot be reached"), ("http://[", "")],
)
def test_what_goes_wrong_is_one_sentence(tmp_path, url, monkeypatch, address, sentence):
    monkeypatch.delenv("TWINSERVE_ADMIN_KEY", raising=False)
    refused = run(tmp_path, "experiment", "stop", "x", "--url", address or url, code=1).stderr
    assert refused.startswith("error: ") and sentence in refused and "Traceback" not in refused
