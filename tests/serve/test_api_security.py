"""Who may ask: API keys, the admin key, browsers, and what must never be in a log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import ValidationError

from compress.errors import InputError
from serve.api.app import create_app
from serve.api.limits import Limits
from serve.api.schemas import CompletionRequest
from serve.api.security import Security
from serve.keysfile import Key, digest, write_keys
from serve.serversettings import ServerSettings
from tests.serve.server import serving
from tests.serve.stub_engine import StubEngine, ask

PROMPT = {"model": "twin", "prompt": "sort these"}
CHAT = {"model": "twin", "messages": [{"role": "user", "content": "sort these"}]}
KEY, ADMIN = "tws-ordinary", "tws-administrator"


def settings(**security: Any) -> ServerSettings:
    return ServerSettings(security=Security(**security))


def entry(name: str, secret: str, role: Any = "user") -> Key:
    return Key(name=name, sha256=digest(secret.encode()), role=role)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def get(app: FastAPI, path: str, headers: Any = None) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://twin") as client:
        return await client.get(path, headers=headers)


WRONG = ["", "Bearer", "Bearer ", "Bearer tws-ordinarY", "Bearer tws-ordinary2", "Basic tws-ordinary", KEY,
         "Bearer **********", "Bearer \xfc"]  # fmt: skip


@pytest.mark.parametrize("authorization", [None, *WRONG])
def test_every_route_but_those_for_probes_needs_the_key(authorization: str | None) -> None:
    guarded = settings(api_key=KEY, admin_key=ADMIN, metrics_key=True)
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    engine = StubEngine()
    open_paths = set()
    for path, methods in _routes(create_app(engine, guarded)):
        response = ask(engine, path, method=methods, settings=guarded, headers=headers)
        if response.status_code != 401:
            open_paths.add(path)
            continue
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]
        assert KEY not in response.text
    assert open_paths == {"/health", "/ready", "/openapi.json"}
    assert engine.requests == engine.routed == []


def _routes(app: FastAPI) -> list[tuple[str, str]]:
    paths: list[tuple[str, str]] = [("/openapi.json", "GET")]
    for path, operations in app.openapi()["paths"].items():
        paths += [(path.replace("{model}", "twin"), method.upper()) for method in operations]
    assert ("/v1/chat/completions", "POST") in paths and ("/metrics", "GET") in paths
    return paths


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_key_opens(scheme: str) -> None:
    for path, body in (("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT), ("/v1/models", None)):
        response = ask(
            StubEngine(),
            path,
            body,
            settings=settings(api_key=KEY),
            headers={"Authorization": f"{scheme} {KEY}"},
        )
        assert response.status_code == 200


def test_without_keys_everybody_may_ask() -> None:
    assert ask(StubEngine(), "/v1/models").status_code == 200
    assert ask(StubEngine(), "/v1/models", settings=settings(admin_key=ADMIN)).status_code == 200


def test_a_key_is_checked_before_the_body_is_read() -> None:
    async def never() -> Any:
        raise AssertionError("the body was read")
        yield b""

    response = ask(StubEngine(), "/v1/completions", content=never(), settings=settings(api_key=KEY))
    assert response.status_code == 401


def test_the_official_client_gets_its_own_exception() -> None:
    with serving(StubEngine(), settings(api_key=KEY)) as address:
        with openai.OpenAI(base_url=address, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                client.models.list()
            assert refused.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=address, api_key=KEY, max_retries=0) as client:
            assert client.completions.create(model="twin", prompt="a").choices


def test_keys_come_and_go_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.yaml"
    write_keys(file, [entry("ann", "a")])
    app = create_app(StubEngine(), settings(keys_file=file, api_key=KEY))

    async def works(*keys: str) -> list[bool]:
        return [(await get(app, "/v1/models", bearer(key))).status_code == 200 for key in keys]

    async def run() -> None:
        assert await works("a", "b", KEY) == [True, False, True]
        write_keys(file, [entry("ann", "a"), entry("bob", "b")])
        assert await works("a", "b", KEY) == [True, True, True]
        write_keys(file, [entry("bob", "b")])
        assert await works("a", "b", KEY) == [False, True, True]
        assert not caplog.records
        for broken in ("keys: [", "keys: [{name: eve}]", "[]", "keys: []\nmore: 1"):
            file.write_text(broken)
            assert await works("a", "b", KEY) == [False, True, True]
            assert await works("b") == [True]
            (record,) = caplog.records  # once, not at each request
            assert record.levelname == "ERROR" and "keys read before stay" in record.getMessage()
            caplog.clear()
        file.unlink()
        assert await works("a", "b", KEY) == [False, True, True]
        write_keys(file, [])
        assert await works("a", "b", KEY) == [False, False, True]

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())


def test_a_file_without_keys_lets_in_nobody(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.json", [])
    guarded = settings(keys_file=tmp_path / "keys.json")
    assert ask(StubEngine(), "/v1/models", settings=guarded).status_code == 401


def test_a_broken_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    with pytest.raises(InputError, match=r"keys\.yaml: the keys file cannot be read"):
        create_app(StubEngine(), settings(keys_file=file))
    file.write_text("keys: [{name: a, sha256: b}]")
    with pytest.raises(InputError, match=r"keys\.yaml: keys\.0\.sha256: "):
        create_app(StubEngine(), settings(keys_file=file))


def test_limits_count_by_the_keys_name(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.yaml", [entry("ann", "a"), entry("bob", "b")])
    security = Security(keys_file=tmp_path / "keys.yaml")
    app = create_app(StubEngine(), ServerSettings(security=security, limits=Limits(rates=["2/day"])))

    async def run() -> list[int]:
        return [(await get(app, "/v1/models", bearer(key))).status_code for key in "aaxxxab"]

    assert asyncio.run(run()) == [200, 200, 401, 401, 401, 429, 200]


def administered(tmp_path: Path | None = None, **security: Any) -> FastAPI:
    app = create_app(StubEngine(), settings(**security))
    routes = APIRouter()

    @routes.get("/admin/facts")
    async def facts() -> dict[str, int]:
        return {"secret": 1}

    app.include_router(routes)
    return app


def test_admin_routes_are_off_without_an_admin_key(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.yaml", [entry("ann", "a")])
    for app in (administered(), administered(api_key=KEY), administered(keys_file=tmp_path / "keys.yaml")):
        for headers in ({}, bearer(KEY), bearer("a")):
            off = asyncio.run(get(app, "/admin/facts", headers))
            missing = asyncio.run(get(app, "/admin/none", headers))
            assert off.status_code == missing.status_code == 404
            assert off.json()["error"]["code"] == missing.json()["error"]["code"] == "unknown_url"


def test_admin_and_ordinary_keys_do_not_open_each_others_routes(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.yaml", [entry("ann", "a"), entry("root", "r", "admin")])
    app = administered(keys_file=tmp_path / "keys.yaml", api_key=KEY, admin_key=ADMIN)

    async def run() -> None:
        for key, admin, ordinary in ((KEY, 401, 200), ("a", 401, 200), (ADMIN, 200, 401), ("r", 200, 401)):
            response = await get(app, "/admin/facts", bearer(key))
            assert response.status_code == admin
            if admin == 401:
                assert response.json()["error"]["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
                assert "secret" not in response.text
            assert (await get(app, "/v1/models", bearer(key))).status_code == ordinary
        assert (await get(app, "/admin/facts")).status_code == 401

    asyncio.run(run())


def test_the_two_keys_must_differ() -> None:
    with pytest.raises(ValueError, match="the same") as refused:
        Security(api_key=KEY, admin_key=KEY)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("mask", ["", "**********", " x"])
def test_a_mask_or_nothing_is_no_key(mask: str) -> None:
    for field in ("api_key", "admin_key"):
        with pytest.raises(ValueError, match=field):
            Security(**{field: mask})


PREFLIGHT = {"origin": "https://app.example", "access-control-request-method": "POST",
             "access-control-request-headers": "authorization,content-type"}  # fmt: skip


def test_other_origins_are_shut_out_unless_named() -> None:
    closed = ask(StubEngine(), "/v1/completions", method="OPTIONS", headers=PREFLIGHT)
    assert closed.status_code == 405
    plain = ask(StubEngine(), "/v1/models", headers={"origin": "https://app.example"})
    for response in (closed, plain):
        assert not [name for name in response.headers if name.startswith("access-control")]
    named = settings(cors_origins=["https://app.example"], api_key=KEY)
    opened = ask(StubEngine(), "/v1/completions", method="OPTIONS", headers=PREFLIGHT, settings=named)
    assert opened.status_code == 200
    assert opened.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in opened.headers["access-control-allow-headers"].lower()
    # A page can only read why it was refused when the refusal allows it too.
    refused = ask(StubEngine(), "/v1/models", headers={"origin": "https://app.example"}, settings=named)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    other = ask(StubEngine(), "/v1/models", headers={"origin": "https://evil.example"}, settings=named)
    assert "access-control-allow-origin" not in other.headers


def test_answers_are_neither_sniffed_nor_kept_nor_framed() -> None:
    for path, body in (
        ("/v1/completions", PROMPT),
        ("/v1/models", None),
        ("/nowhere", None),
        ("/health", None),
    ):
        headers = ask(StubEngine(), path, body).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers.get_list("cache-control") == ["no-store"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    stream = ask(StubEngine(), "/v1/completions", PROMPT | {"stream": True}).headers
    assert stream.get_list("cache-control") == ["no-cache"]


def test_the_pages_of_the_api_are_off_unless_asked_for() -> None:
    for path in ("/docs", "/redoc"):
        assert ask(StubEngine(), path).status_code == 404
        page = ask(StubEngine(), path, settings=settings(docs=True))
        assert page.status_code == 200 and "<script" in page.text
        assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert ask(StubEngine(), "/openapi.json").status_code == 200


def test_neither_keys_nor_prompts_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    words = "the quick brown secret"
    bodies = [
        ("/v1/completions", PROMPT | {"prompt": words}),
        ("/v1/completions", PROMPT | {"prompt": words, "stream": True}),
        ("/v1/completions", PROMPT | {"prompt": words, "temperature": 9}),
        ("/v1/completions", PROMPT | {"prompt": words, "\ud800": 1}),
        ("/v1/completions", PROMPT | {"prompt": words * 100}),
        ("/v1/chat/completions", {"model": "twin", "messages": [{"role": "user", "content": words}]}),
        ("/v1/chat/completions", {"model": "twin", "messages": [{"role": "assistant", "content": words}]}),
        ("/v1/route", {"input": words}),
    ]
    guarded = settings(api_key=KEY, admin_key=ADMIN)
    with caplog.at_level(logging.DEBUG):
        for fail in (None, RuntimeError("a bug"), InputError("no")):
            for key in (KEY, "tws-wrong", ADMIN):
                for path, body in bodies:
                    engine = StubEngine()
                    engine.fail, engine.fail_at = fail, 1
                    ask(engine, path, body, settings=guarded, headers=bearer(key))
    written = "\n".join(logging.Formatter("%(name)s %(message)s").format(one) for one in caplog.records)
    assert "a bug" in written  # with its traceback
    with pytest.raises(ValidationError) as refused:
        CompletionRequest.model_validate(PROMPT | {"prompt": words, "best_of": 2})
    written += str(refused.value)  # as a traceback would show it
    for secret in (KEY, ADMIN, "tws-wrong", "quick brown"):
        assert secret not in written
        assert secret not in repr(guarded) + str(guarded)
