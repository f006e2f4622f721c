"""Settings of the endpoint: a file, variables and options, and what they may not be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from compress.errors import InputError
from serve.cli import app
from serve.serversettings import ServerSettings, as_yaml, read_settings
from serve.settingsdoc import page


@pytest.fixture
def settings_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "serve.yaml"
        path.write_text(text)
        return path

    return write


def test_options_count_more_than_variables_and_these_more_than_the_file(settings_file, monkeypatch):
    file = settings_file("slots: 2\nport: 1\nhost: file\nkv_memory: 3GiB\n")
    monkeypatch.setenv("TWINSERVE_PORT", "2")
    monkeypatch.setenv("TWINSERVE_HOST", "variable")
    read = read_settings(file, host="option")
    assert (read.slots, read.port, read.host, read.kv_memory) == (2, 2, "option", 3 * 2**30)
    assert read.prefix_memory == ServerSettings().prefix_memory


def test_printed_settings_are_a_file_that_gives_the_same(settings_file, monkeypatch):
    monkeypatch.setenv("TWINSERVE_COMPOSED_MEMORY", "1GiB")
    first = read_settings(None, slots=3)
    monkeypatch.delenv("TWINSERVE_COMPOSED_MEMORY")
    again = read_settings(settings_file(as_yaml(first)))
    assert again.model_dump() == first.model_dump()


def test_print_config_needs_no_model(settings_file):
    file = settings_file("slots: 2\n")
    done = CliRunner().invoke(
        app, ["serve", "no-bundle", "--config", str(file), "--port", "9", "--print-config"]
    )
    assert done.exit_code == 0
    printed = yaml.safe_load(done.stdout)
    assert (printed["slots"], printed["port"]) == (2, 9)
    assert set(printed) == set(ServerSettings.model_fields)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("slotz: 2", r"serve\.yaml: unknown key 'slotz'; did you mean 'slots'\?"),
        ("slots: none", r"serve\.yaml: slots: .*integer"),
        ("slots: 0", r"serve\.yaml: slots: .*greater than or equal to 1"),
        ("port: 70000", r"serve\.yaml: port: "),
        ("device: abacus", r"serve\.yaml: device: 'abacus' is no device"),
        ("[1]", r"serve\.yaml: a settings file is a mapping with the keys device, "),
        ("a: [", r"serve\.yaml: not valid YAML"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(settings_file, text, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read_settings(settings_file(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: the settings file cannot be read"):
        read_settings(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "TWINSERVE_SLOT",
            "2",
            r"variable TWINSERVE_SLOT: there is no such setting; did you mean TWINSERVE_SLOTS\?",
        ),
        ("TWINSERVE_SLOTS", "two", r"variables TWINSERVE_…: slots: .*integer"),
        ("TWINSERVE_COSTS", "{", r"variables TWINSERVE_…: .*costs"),
    ],
)
def test_a_wrong_variable_is_told_in_one_sentence(monkeypatch, variable, value, sentence):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=sentence):
        read_settings()


def test_every_setting_says_what_it_means():
    def undocumented(model, above=""):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from undocumented(field.annotation, f"{above}{name}.")
            elif not field.description:
                yield above + name

    assert not list(undocumented(ServerSettings))


def test_the_page_of_settings_is_that_of_the_models():
    assert Path("docs/settings.md").read_text() == page(), "python -m serve.settingsdoc > docs/settings.md"


def test_the_variable_of_every_commands_level_is_the_endpoints_too(settings_file, monkeypatch):
    file = settings_file("log: {format: json, level: ERROR}\n")
    assert (read_settings(file).log.format, read_settings(file).log.level) == ("json", "ERROR")
    monkeypatch.setenv("TWINSERVE_LOG", "debug")
    assert (read_settings(file).log.format, read_settings(file).log.level) == ("json", "DEBUG")
    monkeypatch.setenv("TWINSERVE_LOG__FORMAT", "text")
    assert (read_settings(file).log.format, read_settings(file).log.level) == ("text", "DEBUG")
    monkeypatch.setenv("TWINSERVE_LOG", "loud")
    with pytest.raises(InputError, match=r"variables TWINSERVE_…: log\.level: .*'DEBUG', 'INFO'"):
        read_settings()
