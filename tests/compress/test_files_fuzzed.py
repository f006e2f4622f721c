"""Damaged bundles and random recipes: one sentence, never a traceback, never a wrong model."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from compress.bundle import Bundle, read_manifest
from compress.errors import InputError
from compress.recipe import Recipe, read_recipe
from serve.mixture import MixtureModel
from tests.near import places

FEW = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    # A failure is seen as it was found: making it smaller would load models for minutes.
    phases=[Phase.explicit, Phase.generate],
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["t0", "static", "1.5x", "float16", "../up", "\x00", "linear", "base/config.json"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def damaged(draw: Any, content: Any) -> Any:
    """``content`` with one thing in it replaced, removed or added."""
    content = json.loads(json.dumps(content))
    *path, last = draw(st.sampled_from(places(content)))
    inside = content
    for key in path:
        inside = inside[key]
    what = draw(st.sampled_from(["replace", "remove", "add"]))
    if what == "replace":
        inside[last] = draw(VALUES)
    elif what == "remove":
        del inside[last]
    elif isinstance(inside, dict):
        inside[draw(st.text(max_size=6))] = draw(VALUES)
    else:
        inside.append(draw(VALUES))
    return content


@pytest.fixture(scope="module")
def bundle(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed") / "bundle"
    shutil.copytree(zoo("adapter", "llama").bundle.path, folder)
    return folder


def read(folder) -> None:
    """All that serving reads of a bundle."""
    MixtureModel.load(Bundle.open(folder), dtype=torch.float32)


@FEW
@given(data=st.data())
def test_a_damaged_manifest_is_refused_or_harmless(bundle, data):
    file = bundle / "bundle.json"
    whole = file.read_bytes()
    try:
        file.write_text(json.dumps(damaged(data.draw, json.loads(whole))))
        try:
            read_manifest(bundle)
            Bundle.open(bundle)
        except InputError as error:
            assert "\n" not in str(error)
    finally:
        file.write_bytes(whole)


def bytes_damaged(draw: Any, content: bytes) -> bytes:
    """``content`` cut, or with some of its bytes changed, most likely near its beginning."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(content), draw(st.sampled_from([16, 400, 10**9]))) - 1))
        changed[place] = draw(st.integers(0, 255))
    return bytes(changed)


@FEW
@given(data=st.data())
def test_a_manifest_of_damaged_bytes_is_refused_or_harmless(bundle, data):
    file = bundle / "bundle.json"
    whole = file.read_bytes()
    try:
        file.write_bytes(bytes_damaged(data.draw, whole))
        try:
            Bundle.open(bundle)
        except InputError as error:
            assert "\n" not in str(error)
    finally:
        file.write_bytes(whole)


@FEW
@given(data=st.data())
def test_a_damaged_file_is_refused_by_its_hash(bundle, data):
    file = bundle / data.draw(st.sampled_from(sorted(read_manifest(bundle).files)))
    whole = file.read_bytes()
    if not whole:
        return
    try:
        changed = bytes_damaged(data.draw, whole)
        file.write_bytes(changed)
        if changed == whole:
            Bundle.open(bundle)
        else:
            with pytest.raises(InputError, match="the file was changed or damaged"):
                Bundle.open(bundle)
    finally:
        file.write_bytes(whole)


@FEW
@given(data=st.data())
def test_a_damaged_file_with_a_right_hash_is_refused_or_read(bundle, data):
    """As a hostile bundle would have it: its checksums hold."""
    names = [
        name
        for name in read_manifest(bundle).files
        if name.startswith(("base/", "experts/")) and name.endswith((".safetensors", "config.json"))
    ]
    file, manifest = bundle / data.draw(st.sampled_from(sorted(names))), bundle / "bundle.json"
    whole, listed = file.read_bytes(), manifest.read_bytes()
    try:
        if file.suffix == ".json" and data.draw(st.booleans()):
            changed = json.dumps(damaged(data.draw, json.loads(whole))).encode()
        else:
            changed = bytes_damaged(data.draw, whole)
        file.write_bytes(changed)
        old, new = (hashlib.sha256(content).hexdigest() for content in (whole, changed))
        manifest.write_text(listed.decode().replace(old, new))
        try:
            read(bundle)
        except InputError as error:
            assert str(error)
    finally:
        file.write_bytes(whole)
        manifest.write_bytes(listed)


GOOD = {
    "base": "org/base",
    "experts": [{"task": "a", "checkpoint": "x"}, {"task": "b", "checkpoint": "y"}],
    "shared": {"method": "ties", "density": 0.2, "scaling": 1.0},
    "exclusive": {"size": "1.2x", "reference": "auto", "dtype": "int8"},
    "router": {"features": "hidden"},
    "output": {"dtype": "float16"},
}
MERGEKIT = {
    "merge_method": "linear",
    "base_model": "org/base",
    "models": [{"model": "x", "parameters": {"weight": 0.5}}, {"model": "y", "parameters": {"weight": 0.5}}],
    "dtype": "float16",
    "parameters": {"normalize": True},
}


@FEW
@given(data=st.data(), good=st.sampled_from([GOOD, MERGEKIT]), times=st.integers(1, 3))
def test_a_recipe_near_a_good_one_is_read_or_refused(tmp_path, data, good, times):
    for _ in range(times):
        good = damaged(data.draw, good)
        if not places(good):
            break
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(good))
    try:
        assert isinstance(read_recipe(file), Recipe)
    except InputError as error:
        assert str(error).startswith(str(file))


YAML_WORDS = [
    "base", "experts", "merge_method", "task", ":", ": ", "- ", "\n", "  ", "&a ", "*a", "!!", "{", "}", "[",
    "]", "? ", "!!timestamp", "2024-99-99", "0x", "1_0", "'", '"', "|\n", "%", "@", "#", "\t", "<<: ",
]  # fmt: skip


@settings(FEW, max_examples=200)
@given(words=st.lists(st.one_of(st.sampled_from(YAML_WORDS), st.text(max_size=3)), max_size=15))
def test_random_yaml_is_refused(tmp_path, words):
    file = tmp_path / "recipe.yaml"
    file.write_bytes("".join(words).encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError) as refused:
        read_recipe(file)
    assert str(refused.value).startswith(str(file))
