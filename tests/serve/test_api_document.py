"""The OpenAPI document says what the endpoint does, and the endpoint does what it says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve.adminsettings import Admin
from serve.api.app import create_app
from serve.api.examples import bodies
from serve.api.security import Security
from serve.serversettings import ServerSettings
from tests.serve.stub_engine import StubEngine, ask
from tests.serve.switching import stub_live

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def app() -> Any:
    engine = StubEngine()
    engine.metrics = CollectorRegistry()  # type: ignore[attr-defined]
    return create_app(engine)


def administered() -> Any:
    """An endpoint whose generations may be switched; its root has no bundle."""
    live = stub_live()
    asyncio.run(live.switch(Path("sorting.sentiment"), 0))
    return create_app(
        live,
        ServerSettings.model_construct(
            admin=Admin(enabled=True, root=Path(__file__).parent), security=Security(admin_key=KEY)
        ),
    )


KEY = SecretStr("tws-admin")
schema = schemathesis.openapi.from_asgi("/openapi.json", app())
admin = schemathesis.openapi.from_asgi("/openapi.json", administered()).include(path_regex="^/admin/")
FEW = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


@schema.parametrize()
@FEW
def test_answers_conform_to_the_document(case: schemathesis.Case) -> None:
    if isinstance(case.body, dict) and "model" in case.body:
        # A random one would be a 404, and nothing else of the body would be read.
        case.body["model"] = "twin"
    case.call_and_validate(checks=CHECKS)


@admin.parametrize()
@FEW
def test_admin_routes_conform_to_the_document(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS, headers={"authorization": f"Bearer {KEY.get_secret_value()}"})


@pytest.mark.parametrize("tasks", [["sorting", "sentiment"], []])
def test_the_documents_examples_are_answered(tasks: list[str]) -> None:
    engine = StubEngine()
    engine.name, engine.tasks = "other", tasks
    document = ask(engine, "/openapi.json").json()
    sent = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        for example in content.get("application/json", {}).get("examples", {}).values():
            response = ask(engine, path, example["value"])
            assert response.status_code == 200, response.text
            declared = document["paths"][path]["post"]["responses"]["200"]["content"]
            assert response.headers["content-type"].split(";")[0] in declared
            sent += 1
    assert sent == sum(map(len, bodies("other", tasks).values())) == (9 if tasks else 7)


def test_examples_follow_a_bundle_that_changes() -> None:
    engine = StubEngine()
    changing = create_app(engine)
    before = changing.openapi()
    engine.tasks = ["later"]
    after = changing.openapi()
    assert "twin:sorting" in str(before) and "twin:later" not in str(before)
    assert "twin:later" in str(after) and "twin:sorting" not in str(after)
