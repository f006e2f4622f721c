"""The routes below /v1/admin/experiments, and what everybody is told of experiments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import SecretStr

from compress.errors import InputError
from serve.api.app import create_app
from serve.api.security import Security
from serve.experiments.memory import Memory
from serve.experiments.store.errors import StoreFullError, VersionTakenError
from serve.experimentsettings import Experiments
from serve.serversettings import ServerSettings
from tests.serve.experiments.made import ADMIN, ARMS, TimedEngine, arms, begin, client, complete, declared
from tests.serve.switching import in_loop

ROOT = "/v1/admin/experiments"


def change(http: httpx.AsyncClient, name: str = "trial", **fields: Any) -> Any:
    return http.patch(f"{ROOT}/{name}", json=fields, headers=ADMIN)


@in_loop
async def test_an_experiment_from_its_beginning_to_its_end():
    async with client(TimedEngine()) as http:
        begun = (await begin(http, arms=arms(a=0.5, b=0.5))).json()
        assert {**begun, "experiment": None, "changed": None} == {
            "name": "trial", "version": 1, "state": "running", "reason": "started", "canary": None,
            "experiment": None, "changed": None,
        }  # fmt: skip
        assert begun["experiment"]["eligible"] == {"share": 1.0, "headers": {}}
        more = await change(http, shares={"a": 0.2, "b": 0.8}, reason="b is good")
        assert (more.json()["version"], more.json()["reason"]) == (2, "b is good")
        assert [arm["share"] for arm in more.json()["experiment"]["arms"]] == [0.2, 0.8]
        less = await change(http, experiment={"eligible": {"share": 0.5}, "stop": "2999-01-01T00:00:00Z"})
        assert less.json()["experiment"]["stop"] == "2999-01-01T00:00:00Z"
        ended = await http.delete(f"{ROOT}/trial", params={"reason": "done"}, headers=ADMIN)
        assert (ended.json()["state"], ended.json()["version"]) == ("stopped", 3)
        listed = (await http.get(ROOT, headers=ADMIN)).json()["data"]
        assert listed == [ended.json()] == [(await http.get(f"{ROOT}/trial", headers=ADMIN)).json()]


@in_loop
async def test_one_kept_as_the_api_tells_it_can_be_begun_again():
    async with client(TimedEngine()) as http:
        told = (await begin(http, store_prompts=True, start="2020-01-01T00:00:00+02:00")).json()["experiment"]
        again = await http.post(ROOT, json={"experiment": {**told, "name": "b", "layer": "c"}}, headers=ADMIN)
        assert again.json()["experiment"] == {**told, "name": "b", "layer": "c"}


REFUSED = [
    ({"arms": arms(a=1)}, 400, "experiment_refused", "at least 2"),
    ({"metrics": []}, 400, "experiment_refused", "metrics: "),
    ({"arm": []}, 400, "experiment_refused", "unknown key 'arm'; did you mean 'arms'"),
    ({"arms": [{**ARMS[0], "model": "nobody"}, ARMS[1]]}, 400, "experiment_refused", "'nobody' here; the"),
    ({"arms": [{**ARMS[0], "generation": 1}, ARMS[1]]}, 400, "experiment_refused", "loaded are: 3; load"),
    ({"arms": [{**ARMS[0], "digest": "1" * 64}, ARMS[1]]}, 400, "experiment_refused", "…, is not loaded"),
    ({"name": "first"}, 409, "experiment_conflict", "'first' is running; change it, or choose another name"),
    ({"eligible": {"share": 0.6}}, 400, "experiment_refused", "'first' leave 0.5 of it"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "status", "code", "sentence"), REFUSED)
@in_loop
async def test_what_cannot_begin_is_refused_in_one_sentence(keys, status, code, sentence):
    async with client(TimedEngine()) as http:
        assert (await begin(http, name="first", eligible={"share": 0.5})).status_code == 200
        refused = await begin(http, **keys)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (status, code) and sentence in error["message"]
        assert len((await http.get(ROOT, headers=ADMIN)).json()["data"]) == 1


UNCHANGED = [
    ({"shares": {"c": 1}}, 400, "there is no arm 'c'; the arms are old, new"),
    ({"shares": {"old": 0.9}}, 400, "shares must sum to 1"),
    ({"shares": {"old": 1, "new": 0}, "experiment": {"arms": ARMS}}, 400, "send one of them"),
    ({"experiment": {"arms": [*ARMS, {"name": "c", "share": 0}]}}, 400, "arm 'c' cannot be added while"),
    ({"experiment": {"name": "other"}}, 400, "'trial' keeps its name"),
    ({"experiment": {"metrics": [{"name": "x"}]}}, 400, "metrics cannot change while"),
    ({"share": 1}, 400, "Unknown field 'share'. Did you mean 'shares'?"),
    ({"shares": {"old": "half"}}, 400, "shares.old"),
    ({"reason": ""}, 400, "reason"),
]


@pytest.mark.parametrize(("fields", "status", "sentence"), UNCHANGED)
@in_loop
async def test_what_cannot_change_is_refused_in_one_sentence(fields, status, sentence):
    async with client(TimedEngine()) as http:
        await begin(http)
        refused = await change(http, **fields)
        assert refused.status_code == status and sentence in refused.json()["error"]["message"]
        assert (await http.get(f"{ROOT}/trial", headers=ADMIN)).json()["version"] == 1


@in_loop
async def test_names_that_do_not_exist_are_404():
    async with client(TimedEngine()) as http:
        for response in (
            await change(http, "none"),
            await http.delete(f"{ROOT}/none", headers=ADMIN),
            await http.get(f"{ROOT}/none", headers=ADMIN),
            await http.get("/v1/experiments/none"),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (404, "experiment_not_found")


@in_loop
async def test_nobody_administers_without_the_admin_key():
    guarded = ServerSettings.model_construct(
        security=Security(api_key=SecretStr("tws-user"), admin_key=SecretStr("tws-admin"))
    )
    body = {"experiment": declared()}
    async with client(TimedEngine(), settings=guarded) as http:
        for headers in ({}, {"authorization": "Bearer tws-user"}):
            for method, path in (
                ("GET", ROOT),
                ("POST", ROOT),
                ("PATCH", f"{ROOT}/x"),
                ("DELETE", f"{ROOT}/x"),
            ):
                assert (await http.request(method, path, json=body, headers=headers)).status_code == 401
        assert (await http.post(ROOT, json=body, headers=ADMIN)).status_code == 200
        assert (await http.get("/v1/experiments", headers=ADMIN)).status_code == 401
    async with client(TimedEngine(), settings=ServerSettings.model_construct()) as http:
        assert (await http.post(ROOT, json=body, headers=ADMIN)).json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(StoreFullError("full"), 503, "not_kept"), (VersionTakenError("taken"), 409, "experiment_conflict")],
)
@in_loop
async def test_what_cannot_be_kept_does_not_begin(error, status, code):
    class Broken(Memory):
        def save_experiment(self, change: Any) -> None:
            raise error

    async with client(TimedEngine(), Broken()) as http:
        refused = await begin(http)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert (await http.get("/v1/experiments")).json()["data"] == []


@in_loop
async def test_everybody_may_know_arms_and_counts_and_nothing_that_tells_who_takes_part():
    async with client(TimedEngine()) as http:
        await begin(http, arms=[{**ARMS[0], "share": 0}, {**ARMS[1], "share": 1}], salt="secret-salt",
                    eligible={"headers": {"x-plan": "secret-plan"}})  # fmt: skip
        for user in ("ann", "ann", "bob"):
            await complete(http, user, headers={"x-plan": "secret-plan"})
        told = await http.get("/v1/experiments")
        assert "secret" not in told.text
        assert "secret" not in (await http.get("/v1/experiments/trial")).text
        (one,) = told.json()["data"]
        assert one == {
            "name": "trial", "version": 1, "state": "running", "unit": "user", "control": "old",
            "arms": [
                {"name": "old", "model": "static", "share": 0.0, "units": 0, "responses": 0},
                {"name": "new", "model": "dynamic", "share": 1.0, "units": 2, "responses": 3},
            ],
            "metrics": [
                {"name": "correct", "direction": "higher", "kind": "binary", "guardrail": None},
                {"name": "latency", "direction": "lower", "kind": "numeric", "guardrail": 0.2},
            ],
            "srm": {"p_value": None, "alarm": False}, "canary": None,
        }  # fmt: skip


def test_a_file_of_experiments_begins_with_the_endpoint_or_stops_its_start(tmp_path: Path):
    file = tmp_path / "experiments.yaml"
    file.write_text(yaml.safe_dump(declared()))
    settings = ServerSettings.model_construct(experiments=Experiments(file=file))
    app = create_app(TimedEngine(), settings)
    assert [one.name for one in app.state.trials.board.all()] == ["trial"]
    file.write_text(json.dumps({"experiments": [declared("a"), declared("b")]}))
    with pytest.raises(InputError, match="'b' asks for 1 of layer"):
        create_app(TimedEngine(), settings)
    file.write_text(yaml.safe_dump(declared(arms=[{**ARMS[0], "generation": 1}, ARMS[1]])))
    with pytest.raises(InputError, match=r"arm 'old' names generation 1, and numbers begin anew .* digest"):
        create_app(TimedEngine(), settings)
