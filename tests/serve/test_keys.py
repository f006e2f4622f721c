"""twinserve keys, and how the endpoint's secrets and address are shown by twinserve serve."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from compress.errors import InputError
from serve.cli import app
from serve.keysfile import digest, read_keys
from serve.serversettings import read_settings
from tests.serve.started import started


def keys(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["keys", *map(str, arguments)], catch_exceptions=False)


def new(name: str, file: Path, *options: str) -> str:
    done = keys("new", name, "--file", file, *options)
    assert done.exit_code == 0
    return str(done.stdout).strip()


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_new_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"keys.{suffix}"
    first, second = new("ann", file), new("root", file, "--admin")
    assert len(first) >= 43 and first != second
    text = file.read_text()
    assert first not in text and second not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    found = [(key.name, key.role, key.sha256) for key in read_keys(file)]
    assert found == [("ann", "user", digest(first.encode())), ("root", "admin", digest(second.encode()))]
    parse = json.loads if suffix == "json" else yaml.safe_load
    assert len(parse(text)["keys"]) == 2


def test_list_and_revoke(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    secret = new("ann", file)
    new("bob", file, "--admin")
    shown = keys("list", "--file", file).stdout
    assert "ann" in shown and "admin" in shown
    assert secret not in shown and digest(secret.encode())[:16] not in shown
    assert keys("revoke", "ann", "--file", file).exit_code == 0
    assert [key.name for key in read_keys(file)] == ["bob"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_mistakes_change_nothing_and_are_told(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    new("ann", file)
    before = file.read_bytes()
    for arguments, words in (
        (("new", "ann"), "there is a key 'ann' already"),
        (("new", "a b"), "the key's name: "),
        (("revoke", "eve"), "there is no key 'eve'; the keys are ann"),
    ):
        with pytest.raises(InputError, match=words):
            keys(*arguments, "--file", file)
        assert file.read_bytes() == before
    with pytest.raises(InputError, match="cannot be read"):
        keys("list", "--file", tmp_path / "none.yaml")


def test_a_name_stands_in_the_file_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    one = {"name": "ann", "sha256": "0" * 64}
    file.write_text(yaml.safe_dump({"keys": [one, one]}))
    with pytest.raises(InputError, match="'ann' stands there twice"):
        read_keys(file)


def test_print_config_masks_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TWINSERVE_SECURITY__API_KEY", "tws-of-the-variable")
    file = tmp_path / "serve.yaml"
    file.write_text("security: {admin_key: tws-of-the-file}\n")
    done = CliRunner().invoke(app, ["serve", "none", "--config", str(file), "--print-config"])
    assert done.exit_code == 0
    printed = yaml.safe_load(done.stdout)["security"]
    assert printed["api_key"] == printed["admin_key"] == "**********"
    assert "tws-" not in done.output
    settings = read_settings(file)
    assert settings.security.api_key is not None
    assert settings.security.api_key.get_secret_value() == "tws-of-the-variable"


@pytest.mark.parametrize(
    "text",
    [
        "security: {api_key: '****'}",
        "security: {api_key: 123456789}",
        "security: {api_key: [tws-1]}",
        "security: {keys_files: tws-1}",
    ],
)
def test_a_wrong_secret_is_not_repeated(tmp_path: Path, text: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"serve\.yaml: .*security") as refused:
        read_settings(file)
    assert "123456789" not in str(refused.value) and "tws-1" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", False, 1), ("0.0.0.0", True, 0), ("127.0.0.1", False, 0), ("localhost", False, 0),
     ("::1", False, 0), ("::", False, 1), ("10.0.0.7", False, 1)],
)  # fmt: skip
def test_serving_everybody_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, host: str, key: bool, warned: int
) -> None:
    if key:
        monkeypatch.setenv("TWINSERVE_SECURITY__API_KEY", "tws-1")
    done, server, settings = started(monkeypatch, "--host", host)
    assert done.exit_code == 0
    assert done.stderr.count("everybody who reaches") == warned
    assert "tws-1" not in done.output
    assert server.config.server_header is False
    assert settings.request_timeout == 600
