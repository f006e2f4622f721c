"""The export command: what it writes, what it says, and its bad usage."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from tests.bundles import adapter_zoo, full_zoo
from tests.commands import run
from tests.exporting import adapted, assert_alike, composed


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a bundle of adapters and, in ``full``, one of full fine-tunes."""
    folder = tmp_path_factory.mktemp("shop")
    adapter_zoo(folder, "llama")
    full_zoo(folder / "full", "llama")
    return folder


@pytest.fixture(scope="module")
def bundle(shop):
    from compress.bundle import Bundle

    return Bundle.open(shop / "bundle")


def test_a_plain_model(shop, bundle):
    done = run(shop, "export", "bundle", "-o", "plain")
    assert "plain: dense weights of static" in done.stdout
    assert_alike(AutoModelForCausalLM.from_pretrained(shop / "plain"), composed(bundle, {}), 1e-5)
    run(shop, "export", "bundle", "-o", "mixed", "--mixture", "t0=0.5, t2=0.25")
    mixed = AutoModelForCausalLM.from_pretrained(shop / "mixed")
    assert_alike(mixed, composed(bundle, {"t0": 0.5, "t2": 0.25}), 1e-5)
    run(shop, "export", "bundle", "-o", "half", "--task", "t1", "--dtype", "float16")
    assert "stored as float16" in (shop / "half" / "README.md").read_text()


def test_adapters_for_peft(shop, bundle):
    done = run(shop, "export", "bundle", "-o", "peft", "--as", "peft", "--all")
    assert "peft: base and 3 adapters of rank 6 at most" in done.stdout
    assert_alike(adapted(shop / "peft", "t2"), composed(bundle, {"t2": 1.0}), 1e-4)
    run(shop, "export", "bundle", "-o", "some", "--as", "peft", "--task", "static", "--mixture", "t0=1,t1=-1")
    assert sorted(path.name for path in (shop / "some" / "adapters").iterdir()) == ["static", "t0@1+t1@-1"]


def test_a_folder_for_vllm(shop, bundle):
    done = run(shop, "export", "bundle", "-o", "served", "--as", "vllm")
    command = done.stdout.splitlines()[-1]
    assert command == (
        "cd served && vllm serve ./base --served-model-name base --enable-lora --max-lora-rank 16 "
        "--max-loras 4 "
        "--lora-modules static=./adapters/static t0=./adapters/t0 t1=./adapters/t1 t2=./adapters/t2"
    )
    assert command.removeprefix("cd served && ") in (shop / "served" / "README.md").read_text()
    assert_alike(adapted(shop / "served", "static"), composed(bundle, {}), 1e-4)


def test_what_lora_cannot_hold(shop):
    refused = run(shop, "export", "full/bundle", "-o", "no", "--as", "peft", code=1)
    assert "--lossy leaves them out" in refused.stderr and not (shop / "no").exists()
    done = run(shop, "export", "full/bundle", "-o", "lossy", "--as", "vllm", "--lossy")
    assert "note: t1 leaves out 7 parameters" in done.stdout
    # Its base/ is the shared base: no adapter for it.
    assert "--served-model-name static" in done.stdout and not (shop / "lossy/adapters/static").exists()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--task", "cooking"], 1, "unknown task 'cooking'"),
        (["--mixture", "t0=much"], 1, "the weight of 't0' is 'much', not a number"),
        (["--mixture", "t0=nan"], 1, "must be a number"),
        (["--mixture", "t0"], 1, "give TASK=WEIGHT"),
        (["--mixture", "t0=1,t0=2"], 1, "each task once"),
        (["--as", "peft", "--task", "t0", "--mixture", "t0=1"], 1, "asked for twice"),
        (["--task", "t0", "--task", "t1"], 2, "writes one mixture"),
        (["--lossy"], 2, "with everything"),
        (["--all"], 2, "--all is every expert as an adapter"),
        (["--as", "peft", "--all", "--task", "t0"], 2, "--all is every expert as an adapter"),
        (["--as", "gguf"], 2, "'gguf' is not one of"),
        (["--dtype", "int4"], 2, "give float32, float16, bfloat16"),
    ],
)
def test_bad_usage(shop, words, code, sentence):
    done = run(shop, "export", "bundle", "-o", "never", *words, code=code)
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert not (shop / "never").exists() and "Traceback" not in done.stderr


def test_where_it_may_write(shop):
    (shop / "taken").mkdir()
    (shop / "taken" / "file").write_text("mine")
    assert "exists already" in run(shop, "export", "bundle", "-o", "taken", code=1).stderr
    assert (shop / "taken" / "file").read_text() == "mine"
    assert "inside the bundle" in run(shop, "export", "bundle", "-o", "bundle/out", code=1).stderr
    assert "not a bundle" in run(shop, "export", "base", "-o", "never", code=1).stderr
