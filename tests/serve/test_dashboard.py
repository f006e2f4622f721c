"""The dashboard asks for what an endpoint tells: every metric by its name and its labels."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from serve.api.app import create_app
from serve.api.security import Security
from serve.engine import Engine
from serve.experiments.store.store import Store
from serve.serversettings import ServerSettings
from serve.settings import EngineSettings
from tests.serve.experiments.made import ADMIN, declared
from tests.serve.packed import COSTS
from tests.serve.routed import add_router
from tests.serve.scrape import families, series

PANELS = json.loads(Path("docs/grafana.json").read_text())["panels"]
TARGETS = [
    pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
# A selector, as in name{label="value"}.
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
BY_PROMETHEUS = {"instance"}


@pytest.fixture(scope="module")
def told(zoo, tmp_path_factory):
    """Metrics of an endpoint that has answered with factors, with the shared base and by its router."""
    path = tmp_path_factory.mktemp("dashboard") / "bundle"
    shutil.copytree(zoo("adapter", "llama").bundle.path, path)
    add_router(path, features="embedding")
    engine = Engine.open(path, EngineSettings(threads=1, costs=COSTS), name="tiny")
    store = Store.open(f"sqlite:///{path.with_name('experiments.db')}", path.with_name("spool"))
    settings = ServerSettings.model_construct(security=Security(admin_key=SecretStr("tws-admin")))
    try:
        # One event loop for all, or a shadow would end with its request.
        with TestClient(create_app(engine, settings, store)) as client:
            body = {"experiment": declared(shadow={"arm": "new"})}
            assert client.post("/v1/admin/experiments", json=body, headers=ADMIN).status_code == 200
            # Two mixtures in one step, which no composed copy can answer, then one that gets a copy.
            engine._put(lambda: time.sleep(0.1))
            asked = [
                ("tiny", ["5 + 5 =", "PAINT 1 OVER 2"]),
                ("tiny:static", "5 + 5 ="),
                ("tiny:t1", "5 + 5 ="),
            ]
            for model, prompt in asked:
                body = {"model": model, "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
                assert client.post("/v1/completions", json=body).status_code == 200
            for user in "abcdefgh":
                seen = {"model": "tiny", "prompt": "5 + 5 =", "max_tokens": 2, "user": user}
                assert client.post("/v1/completions", json=seen).status_code == 200
            until = time.monotonic() + 10
            while 'shadows_total{experiment="trial",outcome="finished"}' not in client.get("/metrics").text:
                assert time.monotonic() < until
                time.sleep(0.02)
            return families(client.get("/metrics").text)
    finally:
        engine.stop()
        store.close()


@pytest.mark.parametrize(("expression", "legend"), TARGETS)
def test_every_panel_asks_for_what_is_told(told, expression, legend):
    selectors = SELECTOR.findall(expression)
    mentioned = set(re.findall(r"\b(?:twinserve_|vllm:)\w+", expression))
    assert mentioned and mentioned == {name for name, _ in selectors} <= series(told)
    labels = {sample.name: set(sample.labels) | BY_PROMETHEUS for one in told for sample in one.samples}
    for name, matchers in selectors:
        assert set(re.findall(r"(\w+)=", matchers)) <= labels[name]
    known = {label for name in mentioned for label in labels[name]}
    grouped = {label for some in re.findall(r"\bby \(([\w, ]+)\)", expression) for label in some.split(", ")}
    kept = grouped if re.search(r"\b(sum|max|min)\b", expression) else known
    assert grouped <= known and set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept


def test_the_panels_that_operators_were_promised_are_there():
    titles = " ".join(panel["title"].lower() for panel in PANELS)
    for wanted in ("outcome", "first token", "tokens per second", "queue", "keys and values", "routing share",
                   "confidence", "abstentions", "composition", "prefix hits", "by arm", "sample ratio",
                   "shadows", "records that wait"):  # fmt: skip
        assert wanted in titles
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_every_metric_says_what_it_means(told):
    assert len(told) > 25
    for one in told:
        assert one.documentation.endswith("."), one.name
        assert one.type in ("counter", "gauge", "histogram"), one.name
