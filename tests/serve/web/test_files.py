"""The page's files over HTTP: headers, caching, keys, and what is refused."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import serve
from compress.errors import InputError
from serve.api.app import create_app
from serve.api.security import Security
from serve.pagesettings import MOST_EXAMPLES, Page
from serve.serversettings import ServerSettings
from tests.serve.stub_engine import StubEngine, ask

WEB = Path(serve.__file__).parent / "web"
GUARDED = ServerSettings(security=Security(api_key="tws-secret"))


def get(path: str, **options: Any) -> Any:
    return ask(StubEngine(), path, **options)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/web/app.js", "javascript"),
        ("/web/style.css", "text/css"),
        ("/web/icon.svg", "svg"),
    ],
)
def test_files_come_without_a_key_and_only_run_what_is_here(path: str, kind: str) -> None:
    response = get(path, settings=GUARDED)
    assert response.status_code == 200
    assert kind in response.headers["content-type"]
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"


def test_the_page_names_nothing_of_the_bundle() -> None:
    engine = StubEngine()
    engine.name, engine.tasks = "confidential", ["secrets"]
    page = ask(engine, "/").text
    assert "confidential" not in page and "secrets" not in page


def test_routes_of_the_api_keep_their_own_headers() -> None:
    response = get("/v1/models")
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/web/app.js"])
def test_files_are_sent_once_and_asked_for_again(path: str) -> None:
    first = get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = get(path, method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/web", 404),
        ("GET", "/web/", 404),
        ("GET", "/web/none.js", 404),
        ("GET", "/web/../api/app.py", 404),
        ("GET", "/web/%2e%2e/api/app.py", 404),
        ("GET", "/web/..%2fapi/app.py", 404),
        ("POST", "/", 405),
        ("POST", "/web/app.js", 405),
    ],
)
def test_all_else_is_refused_as_everywhere(method: str, path: str, status: int) -> None:
    response = get(path, method=method)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_the_page_can_be_switched_off() -> None:
    off = ServerSettings(page=Page(enabled=False))
    for path in ("/", "/web/app.js", "/v1/examples"):
        assert get(path, settings=off).status_code == 404


def test_every_file_that_the_page_names_is_there() -> None:
    sources = [*WEB.glob("*.html"), *WEB.glob("*.js")]
    named = {
        (WEB / match).resolve() if "web/" not in match else (WEB.parent / match).resolve()
        for source in sources
        for match in re.findall(r'(?:href|src|from|import) ?=?"?\s?"((?:web|\.)/[^"]+)"', source.read_text())
    }
    assert len(named) > 15
    assert [file for file in named if not file.is_file()] == []


def test_libraries_are_those_of_their_packages_and_beside_their_licences() -> None:
    table = (WEB / "vendor" / "README.md").read_text()
    listed = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", table))
    files = {
        file.relative_to(WEB / "vendor").as_posix(): sha256(file.read_bytes()).hexdigest()
        for file in (WEB / "vendor").rglob("*")
        if file.suffix in {".js", ".css"}
    }
    assert files == listed
    assert all((WEB / "vendor" / name).with_name("LICENSE").is_file() for name in files)


def test_examples_are_told_to_those_who_may_ask(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text('{"task": "sorting", "prompt": "b a"}\n')
    settings = ServerSettings(page=Page(examples=file), security=Security(api_key="tws-secret"))
    assert get("/v1/examples", settings=settings).status_code == 401
    told = get("/v1/examples", settings=settings, headers={"authorization": "Bearer tws-secret"}).json()
    assert told == {"object": "list", "data": [{"task": "sorting", "prompt": "b a"}]}
    assert get("/v1/examples").json() == {"object": "list", "data": []}


def test_a_folder_offers_the_first_prompts_of_each_task(tmp_path: Path) -> None:
    for task in ("b", "a"):
        lines = [f'{{"prompt": "{task}{number}"}}\n' for number in range(MOST_EXAMPLES + 3)]
        (tmp_path / f"{task}.jsonl").write_text("".join(lines))
    offered = Page(examples=tmp_path).prompts()
    assert [prompt.text for prompt in offered] == [
        f"{task}{number}" for task in ("a", "b") for number in range(MOST_EXAMPLES)
    ]


def test_conversations_are_not_offered(tmp_path: Path) -> None:
    turns = '[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]'
    (tmp_path / "a.jsonl").write_text(f'{{"messages": {turns}}}\n{{"prompt": "one"}}\n')
    assert [prompt.text for prompt in Page(examples=tmp_path).prompts()] == ["one"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none", None, r"none: the prompts cannot be read"),
        ("examples.jsonl", "{}", r"examples\.jsonl:1: \"task\" must be"),
        ("folder", "", r"folder: page\.examples holds no <task>\.jsonl"),
    ],
)
def test_examples_that_cannot_be_read_end_the_start(
    tmp_path: Path, name: str, content: str | None, sentence: str
) -> None:
    path = tmp_path / name
    if content:
        path.write_text(content)
    elif content == "":
        path.mkdir()
    with pytest.raises(InputError, match=sentence):
        create_app(StubEngine(), ServerSettings(page=Page(examples=path)))
