"""Recipes: what is wrong, where, and what was probably meant."""

from __future__ import annotations

import pytest
import yaml

from compress.errors import InputError
from compress.recipe import read_recipe

GOOD = {
    "base": "org/base",
    "experts": [{"task": "a", "checkpoint": "x"}, {"task": "b", "checkpoint": "y"}],
}


def read(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_recipe(path)


def test_defaults(tmp_path):
    recipe = read(tmp_path, GOOD)
    assert recipe.shared.coefficients(recipe.tasks) == {"a": 0.3, "b": 0.3}
    assert recipe.exclusive.rank == 16 and recipe.output.dtype == "float32"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bases": "x"}, r"unknown key 'bases'; did you mean 'base'"),
        ({"output": {"dtpye": "float32"}}, r"unknown key 'output\.dtpye'; did you mean 'dtype'"),
        ({"output": {"dtype": "int4"}}, r"output\.dtype"),
        ({"exclusive": {"rank": 4, "energy": 0.9}}, r"exclusive: give either rank or energy"),
        ({"exclusive": {"rank": -1}}, r"exclusive\.rank"),
        ({"exclusive": {"energy": 1.5}}, r"exclusive\.energy"),
        ({"exclusive": {"zzz": 1}}, r"unknown key 'exclusive\.zzz'; known keys: rank, energy"),
        ({"shared": {"method": "magic"}}, r"method 'magic' is unknown; known: average, task_arithmetic"),
        ({"shared": {"method": "task_arithmetic", "scalng": 1}}, r"scalng"),
        ({"experts": []}, r"experts"),
        ({"experts": [{"task": "a", "chekpoint": "x"}]}, r"experts\.0\.ch"),
        ({"experts": [{"task": "static", "checkpoint": "x"}]}, r"'static' cannot be used"),
        ({"experts": [{"task": "../up", "checkpoint": "x"}]}, r"cannot be used"),
        ({"experts": [{"task": "a", "checkpoint": "x"}] * 2}, r"task 'a' is given twice"),
        ({"base": 3}, r"base"),
    ],
)
def test_mistakes_are_named(tmp_path, change, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read(tmp_path, GOOD | change)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "- a", "just text", "base: [unclosed", "\t- tab"])
def test_files_that_are_no_recipe(tmp_path, content):
    with pytest.raises(InputError, match=r"recipe\.yaml"):
        read(tmp_path, content)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_yaml_tags_do_not_make_objects(tmp_path):
    with pytest.raises(InputError, match="not valid YAML"):
        read(tmp_path, "base: !!python/object/apply:os.system ['true']")
