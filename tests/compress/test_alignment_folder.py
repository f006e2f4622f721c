"""Aligned models as folders, the command, and what is refused."""

from __future__ import annotations

import json
import re

import pytest
import torch

from compress.alignment import align, apply, read_permutations, write_aligned
from compress.alignment.align import Alignment
from compress.alignment.architectures import PARTS, architecture
from compress.alignment.barrier import Losses
from compress.errors import InputError
from compress.tensorfiles import open_tensors
from tests import tiny
from tests.commands import run
from tests.permuted import masking_tokenizer, model, sequences, symmetry_of


def save(folder, case="llama", seed=0, dtype=torch.float32, tokenizer=None, **settings):
    made = model(case, seed, **settings.pop("changes", {})).to(dtype)
    made.save_pretrained(folder, **settings)
    (tokenizer or masking_tokenizer()).save_pretrained(folder)
    return made


def aligned(reference, folder, permutations):
    losses = Losses(1.0, 1.0, {(): 2.0, ("ffn",): 1.5, PARTS: 1.0})
    return Alignment(reference, folder, PARTS, permutations, PARTS, losses)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}])
@pytest.mark.parametrize("case", ["bert", "qwen3 tied"])
def test_the_written_model_is_the_model_reordered(tmp_path, case, shards):
    made = save(tmp_path / "b", case, dtype=torch.bfloat16, **shards)
    save(tmp_path / "a", case, seed=1)
    permutations = symmetry_of(made, 4)
    write_aligned(aligned(tmp_path / "a", tmp_path / "b", permutations), tmp_path / "out")
    before, after = open_tensors(tmp_path / "b"), open_tensors(tmp_path / "out")
    assert (len(set(after.files.values())) > 1) == bool(shards)
    expected = apply(
        permutations, {name: before.read(name) for name in before.files}, architecture(made.config)
    )
    assert after.files.keys() == before.files.keys()
    assert after.dtypes == before.dtypes and set(after.dtypes.values()) == {"BF16"}
    assert all(torch.equal(after.read(name), tensor) for name, tensor in expected.items())
    reread = read_permutations(tmp_path / "out")
    assert all(torch.equal(reread[space], order) for space, order in permutations.items())
    ids = torch.tensor([tiny.prompt(0, 30)])
    original, reordered = (
        type(made).from_pretrained(tmp_path / name, dtype=torch.float32).eval()(input_ids=ids).logits
        for name in ("b", "out")
    )
    torch.testing.assert_close(reordered, original, rtol=0, atol=1e-5)
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_record_names_models_by_hash_and_not_by_path(tmp_path):
    made = save(tmp_path / "b")
    save(tmp_path / "a", seed=1)
    write_aligned(aligned(tmp_path / "a", tmp_path / "b", symmetry_of(made, 4)), tmp_path / "out")
    text = (tmp_path / "out" / "alignment.json").read_text()
    facts = json.loads(text)
    assert str(tmp_path) not in text
    assert facts["model"]["name"] == "b" and facts["model"]["sha256"] != facts["reference"]["sha256"]
    assert [(one["parts"], one["barrier"]) for one in facts["midpoints"]] == [
        ([], 1.0),
        (["ffn"], 0.5),
        ([*PARTS], 0.0),
    ]


@pytest.mark.parametrize("order", [[0, 0], list(range(33)), "x", [[0]], [0.5] * 32])
def test_a_record_that_is_no_permutation_is_refused(tmp_path, order):
    save(tmp_path)
    (tmp_path / "alignment.json").write_text(json.dumps({"permutations": {"residual": order}}))
    with pytest.raises(InputError, match="align again"):
        read_permutations(tmp_path)


def test_the_command_writes_a_model_and_shows_the_barriers(tmp_path):
    save(tmp_path / "a")
    save(tmp_path / "b", seed=1)
    lines = [
        {"text": "a cat sat on a mat. " * 9},
        {"prompt": "what did the cat sit on? " * 8},
        {"messages": [{"role": "user", "content": "who sat there? " * 8}]},
    ]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("align", "a", "b", "--prompts", "text.jsonl", "-o", "out")
    done = run(tmp_path, *words)
    assert (
        "barrier" in done.stdout and "nothing" in done.stdout and "ffn + attention + residual" in done.stdout
    )
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "exists already" in run(tmp_path, *words, code=1).stderr
    (tmp_path / "text.jsonl").write_text('{"text": 3}\n')
    done = run(tmp_path, *words[:-1], "other", code=1)
    assert 'text.jsonl:1: "text" must be a string' in " ".join(done.stderr.split())


def refused(first, second, texts=None, **settings):
    with pytest.raises(InputError) as caught:
        align(first, second, sequences() if texts is None else texts, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_same_folder_twice(tmp_path):
    save(tmp_path / "a")
    assert "given both as the reference" in refused(tmp_path / "a", tmp_path / "b" / ".." / "a")


def test_an_unknown_architecture(tmp_path):
    for name in ("a", "b"):
        tiny.save_base(tmp_path / name, "gpt2")
    message = refused(tmp_path / "a", tmp_path / "b")
    assert "'gpt2'" in message and "bert, roberta, llama, mistral, qwen2, qwen3" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers = 3"),
        ({"num_attention_heads": 8}, "num_attention_heads = 8"),
        ({"num_key_value_heads": 4}, "num_key_value_heads = 4"),
        ({"hidden_size": 64}, "hidden_size = 64"),
        ({"intermediate_size": 60}, "intermediate_size = 60"),
        ({"vocab_size": 120}, "vocab_size = 120"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings = True"),
        ({"mlp_bias": True}, "mlp.*bias"),
    ],
)
def test_models_that_differ(tmp_path, changes, said):
    save(tmp_path / "a", changes={"head_dim": 8})
    save(tmp_path / "b", changes={"head_dim": 8} | changes)
    message = refused(tmp_path / "a", tmp_path / "b")
    assert re.search(said, message), message


def test_models_of_two_architectures(tmp_path):
    save(tmp_path / "a")
    save(tmp_path / "b", "qwen2")
    assert "model_type = 'qwen2'" in refused(tmp_path / "a", tmp_path / "b")


def test_tokenizers_that_differ(tmp_path):
    save(tmp_path / "a")
    other = masking_tokenizer()
    other.add_tokens(["new"])
    save(tmp_path / "b", seed=1, tokenizer=other)
    assert "numbers tokens otherwise" in refused(tmp_path / "a", tmp_path / "b")


def test_a_masked_model_without_a_mask_token(tmp_path):
    for seed, name in enumerate("ab"):
        save(tmp_path / name, "bert", seed=seed, tokenizer=tiny.tokenizer())
    assert "no mask token" in refused(tmp_path / "a", tmp_path / "b")


def test_a_model_without_its_head(tmp_path):
    for seed, name in enumerate("ab"):
        model("bert", seed).bert.save_pretrained(tmp_path / name)
        masking_tokenizer().save_pretrained(tmp_path / name)
    assert "language-modelling head" in refused(tmp_path / "a", tmp_path / "b")


def test_a_folder_that_is_no_model(tmp_path):
    save(tmp_path / "a")
    assert "no config.json here" in refused(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "no prompts"),
        ([[5] * 100], "100 tokens, too few"),
        ([[5]] * 300, "nothing to predict"),
        ([[5, 97] * 200], "token id outside 0 to 96"),
    ],
)
def test_text_that_does_not_do(tmp_path, texts, said):
    save(tmp_path / "a")
    save(tmp_path / "b", seed=1)
    assert said in refused(tmp_path / "a", tmp_path / "b", texts)


def test_no_parts(tmp_path):
    assert "ffn, attention, residual" in refused(tmp_path / "a", tmp_path / "b", parts=("heads",))
    assert "ffn, attention, residual" in refused(tmp_path / "a", tmp_path / "b", parts=())
