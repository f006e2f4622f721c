"""The Dockerfile agrees with the repository it is built from: no engine is needed to see that."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def read_instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) pairs, comments dropped and continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    pairs = (line.split(maxsplit=1) for line in joined if line.strip())
    return [(instruction, arguments) for instruction, arguments in pairs]


INSTRUCTIONS = read_instructions()


def arguments_of(instruction: str) -> list[str]:
    return [arguments for name, arguments in INSTRUCTIONS if name == instruction]


def is_ignored(path: str) -> bool:
    """Docker's rule: the last pattern that matches a path or a folder above it decides."""
    candidates = [path, *(parent.as_posix() for parent in Path(path).parents)][:-1]
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        patterns = {pattern, pattern.removeprefix("**/")}
        if any(fnmatchcase(candidate, p) for candidate in candidates for p in patterns):
            ignored = not line.startswith("!")
    return ignored


COPIED = [source for arguments in arguments_of("COPY") for source in arguments.split()[:-1]]


@pytest.mark.parametrize("source", COPIED)
def test_every_copied_path_exists_and_reaches_the_build(source: str) -> None:
    path = ROOT / source
    assert path.exists()
    files = [path] if path.is_file() else [p for p in path.rglob("*.py") if p.is_file()]
    assert files
    assert not [f for f in files if is_ignored(f.relative_to(ROOT).as_posix())]


@pytest.mark.parametrize("path", [".venv/bin/python", ".env", "serve/__pycache__/cli.pyc", "tests"])
def test_nothing_else_reaches_the_build(path: str) -> None:
    assert is_ignored(path)


def test_the_wheel_finds_all_that_the_project_file_names() -> None:
    assert {"pyproject.toml", "README.md", "LICENSE", "compress", "router", "serve"} <= set(COPIED)


def test_torch_comes_from_the_cpu_index_unless_the_build_says_otherwise() -> None:
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in arguments_of("ARG")
    torch, package = [a for a in arguments_of("RUN") if "pip install" in a]
    assert '--index-url "$TORCH_INDEX"' in torch
    assert "-c configs/constraints.txt" in package


def test_the_server_does_not_run_as_root() -> None:
    (user,) = arguments_of("USER")
    assert user not in {"root", "0"}
    assert any(re.search(rf"useradd .*\b{user}$", arguments) for arguments in arguments_of("RUN"))
    last_root_step = max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name in {"COPY", "RUN"})
    assert INSTRUCTIONS.index(("USER", user)) > last_root_step


def test_entry_command_is_a_script_of_the_project() -> None:
    (entry,) = arguments_of("ENTRYPOINT")
    assert json.loads(entry) == ["twinserve"]
    assert "twinserve" in SCRIPTS


@pytest.fixture
def serve_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    module, function = SCRIPTS["twinserve"].split(":")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["twinserve", "serve", "--help"])
    with pytest.raises(SystemExit) as stopped:
        getattr(import_module(module), function)()
    assert not stopped.value.code
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_default_command_uses_options_that_exist(serve_help: str) -> None:
    (command,) = arguments_of("CMD")
    verb, bundle, *options = json.loads(command)
    assert (verb, bundle) == ("serve", "/bundle")
    for option in options[::2]:
        assert re.search(rf"(?<!\S){option}\b", serve_help)


def test_port_is_the_one_served_exposed_and_checked(serve_help: str) -> None:
    (port,) = arguments_of("EXPOSE")
    (check,) = arguments_of("HEALTHCHECK")
    assert f"127.0.0.1:{port}/health" in check
    assert re.search(rf"--port\b.*default: {port}\b", serve_help)


def test_health_check_runs_python_and_asks_a_route_of_the_app() -> None:
    (check,) = arguments_of("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    sources = (path.read_text() for path in (ROOT / "serve" / "api").rglob("*.py"))
    assert any(re.search(r'\.get\(\s*"/health"', source) for source in sources)
