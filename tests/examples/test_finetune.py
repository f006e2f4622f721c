"""The fine-tuning recipe on a tiny base: what it learns from, that it resumes, what it refuses."""

from __future__ import annotations

import fcntl
import json
import os
from itertools import pairwise

import pytest
import torch
import typer
from peft import PeftModel
from safetensors.torch import load_file

from compress.adapters import recorded_base_hash
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import open_finetune, task_vector
from compress.loading import load_model
from examples.zoo import training
from examples.zoo.cards import read_card
from examples.zoo.encoding import IGNORED, Example, collate, encode, read_examples
from examples.zoo.finetune import main
from examples.zoo.training import batch_indices, completion_loss, schedule
from serve.evaluate import Item, read_data
from tests import tiny
from tests.commands import run

LINES = [{"prompt": f"{n:02d}+1=", "answer": f"{n + 1}"} for n in range(60)]


@pytest.fixture
def desk(tmp_path):
    """A base and a user's own file."""
    tiny.save_base(tmp_path / "base")
    write(tmp_path / "mine.jsonl", LINES)
    return tmp_path


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def finetune(folder, *words, code=0):
    given = {"--task": "mine", "--base": "base", "--data": "mine.jsonl", "--steps": 6, "--threads": 1}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    options = [part for pair in given.items() for part in pair if pair[1] is not None]
    switches = [option for option in options if option != ""]
    return run(folder, *switches, code=code, program=lambda: typer.run(main))


def example(text, answer):
    item = Item([{"role": "user", "content": text}], answer)
    return encode(item, tiny.tokenizer(), 256)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_loss_is_that_of_the_answers_alone(family):
    """Against one unpadded row at a time in float64, with the loss written out."""
    model = tiny.model(family)
    rows = [example("a long prompt", "yes"), example("b", "no!"), example("cc", "a longer answer")]
    batch = collate(rows, 0)
    with torch.no_grad():
        ours = completion_loss(model, batch, "cpu")
        model = model.double()
        total = tokens = 0
        for row in rows:
            logits = model(torch.tensor([row.prompt + row.answer])).logits[0].log_softmax(-1)
            for offset, token in enumerate(row.answer):
                total -= float(logits[len(row.prompt) + offset - 1, token])
                tokens += 1
    assert float(ours) == pytest.approx(total / tokens, rel=1e-4)


def test_answers_end_where_the_tokenizer_ends_them_and_prompts_teach_nothing():
    row = example("hello", " ok ")
    assert row.answer == [*tiny.tokenizer()("ok")["input_ids"], 2]
    labels = collate([row, example("x", "four")], 0).labels
    assert labels[0].tolist() == [IGNORED, IGNORED, *row.answer]


def test_every_example_is_seen_once_an_epoch_in_an_order_of_its_own():
    seen = [i for step in range(5) for i in batch_indices(10, 4, step, seed=3)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_rate_rises_then_falls_to_nearly_nothing():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1.0 and rates[-1] < 0.02
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert 0 < schedule(0, 1) <= 1


def test_an_adapter_from_a_users_own_file(desk):
    done = finetune(desk, "--rank", 4, "--out", "expert", "--learning-rate", 0.01, "--steps", 30)
    folder = desk / "expert"
    card = read_card(folder)
    assert "expert: exact match" in done.stdout
    assert card.settings.task == "mine" and card.settings.rank == 4
    assert card.score.prompts == 9 and card.settings.examples == 51
    held_out, training = (read_data(folder / part, ["mine"])["mine"] for part in ("heldout", "train"))
    assert len(held_out) == 9 and len(training) == 51
    assert not {str(item.messages) for item in held_out} & {str(item.messages) for item in training}
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert any(t.any() for name, t in tensors.items() if "lora_B" in name)
    PeftModel.from_pretrained(load_model(desk / "base", torch.float32), folder)
    assert not (desk / "expert.run").exists()
    text = (folder / "README.md").read_text()
    assert f"base_weights_sha256: {card.settings.base_sha256}" in text and "user: " in text


def test_a_made_expert_is_made_once_and_never_replaced_by_another(desk):
    finetune(desk, "--out", "expert", "--rank", 2)
    before = (desk / "expert" / "adapter_model.safetensors").read_bytes()
    assert "is made already" in finetune(desk, "--out", "expert", "--rank", 2).stdout
    done = finetune(desk, "--out", "expert", "--rank", 2, "--steps", 7, code=1)
    assert "holds an expert made with other settings" in done.stderr
    assert (desk / "expert" / "adapter_model.safetensors").read_bytes() == before


def test_conversations_that_differ_before_the_last_turn_are_different_prompts(desk):
    lines = [
        {
            "messages": [{"role": "system", "content": f"{n}"}, {"role": "user", "content": "go"}],
            "answer": "x",
        }
        for n in range(60)
    ]
    write(desk / "mine.jsonl", lines)
    finetune(desk, "--out", "expert", "--rank", 2, "--steps", 1)
    assert read_card(desk / "expert").settings.examples == 51


def test_a_card_claims_nothing_for_a_users_own_data_or_base(desk):
    """Also where the task has the name of one of the zoo's, and the base one that YAML would misread."""
    tiny.save_base(desk / "models" / "a---b")
    finetune(desk, "--task", "reversal", "--base", "models/a---b", "--out", "expert", "--rank", 2)
    text = (desk / "expert" / "README.md").read_text()
    assert "reasoning-gym" not in text and "apache" not in text and "words backwards" not in text
    assert recorded_base_hash(desk / "expert") == read_card(desk / "expert").settings.base_sha256


def test_a_full_fine_tune_moves_every_matrix(desk):
    finetune(desk, "--full", "", "--out", "expert")
    before, after = (load_model(desk / name, torch.float32) for name in ("base", "expert"))
    moved = {n for n, p in after.named_parameters() if not torch.equal(p, dict(before.named_parameters())[n])}
    assert moved == {n for n, _ in before.named_parameters()}
    assert read_card(desk / "expert").settings.rank is None


def test_an_expert_learns_what_the_base_cannot(trained_zoo, tmp_path):
    """LoRA on the trained zoo's base: from the letters alone to reversing them."""
    from tests.trained import items

    lines = [{"messages": i.messages, "answer": i.answer} for i in items("reverse", "train", 300)]
    write(tmp_path / "mine.jsonl", lines)
    words = ("--base", trained_zoo.base, "--out", "expert", "--steps", 200, "--batch", 16)
    finetune(tmp_path, *words, "--learning-rate", 0.01, "--rank", 8)
    score = read_card(tmp_path / "expert").score
    assert score.expert.value > 0.6 and score.gain.low > 0.4
    assert score.expert.low <= score.expert.value <= score.expert.high


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma"])
def test_other_architectures_learn_too(desk, family):
    tiny.save_base(desk / family, family)
    finetune(desk, "--base", family, "--out", "expert", "--rank", 2)
    base = Checkpoint.open(desk / family)
    adapter = open_finetune(desk / "expert", base)
    moved = [name for name in base.table if task_vector(adapter, name, base) is not None]
    assert len(moved) >= 2 * 4  # in each of two layers, attention's two and the block's two at least


class Stop(BaseException):
    """As if the process were killed."""


@pytest.fixture
def killed(monkeypatch):
    """``killed(step, folder, *words)``: a run killed in its ``step``-th step, a checkpoint after every one.
    The list it returns grows by every step of the runs that follow."""
    whole, taken = training.completion_loss, []

    def kill(step, folder, *words):
        def loss(*arguments):
            taken.append(1)
            if len(taken) == step:
                raise Stop
            return whole(*arguments)

        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        monkeypatch.setattr(training, "completion_loss", loss)
        with pytest.raises(Stop):
            finetune(folder, *words)
        return taken

    return kill


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("full", [False, True])
def test_a_killed_run_goes_on_to_the_same_weights(desk, killed, full, family):
    """GPT-2 has dropout, whose random numbers a resumed run would not have."""
    tiny.save_base(desk / "base", family)
    words = ("--full", "") if full else ("--rank", "4")
    finetune(desk, *words, "--out", "straight")
    taken = killed(4, desk, *words, "--out", "resumed")
    assert not (desk / "resumed").exists()
    finetune(desk, *words, "--out", "resumed")
    assert len(taken) == 4 + 3
    name = "model.safetensors" if full else "adapter_model.safetensors"
    one, other = load_file(desk / "straight" / name), load_file(desk / "resumed" / name)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def interrupted(desk, killed):
    """A run that was killed after two of six steps."""
    killed(3, desk, "--out", "expert")
    return desk


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--steps", 7, "steps = 6, not 7"),
        ("--seed", 1, "seed = 0, not 1"),
        ("--rank", 4, "rank = 16, not 4"),
        ("--learning-rate", 0.1, "learning_rate = 0.0008, not 0.1"),
    ],
)
def test_resuming_with_other_settings_is_refused(interrupted, option, value, named):
    before = (interrupted / "expert.run" / "state" / "model.safetensors").read_bytes()
    done = finetune(interrupted, "--out", "expert", option, value, code=1)
    assert named in done.stderr and "repeat the old settings" in done.stderr
    assert (interrupted / "expert.run" / "state" / "model.safetensors").read_bytes() == before


def test_resuming_with_other_data_is_refused(interrupted):
    write(interrupted / "mine.jsonl", [*LINES, {"prompt": "new", "answer": "new"}])
    assert "data_sha256" in finetune(interrupted, "--out", "expert", code=1).stderr


def test_two_processes_do_not_train_in_one_folder(interrupted):
    handle = os.open(interrupted / "expert.run" / "settings.json", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    done = finetune(interrupted, "--out", "expert", code=1)
    os.close(handle)
    assert "another process is training here" in done.stderr


@pytest.mark.parametrize("name", ["expert", "expert.run"])
def test_a_folder_that_is_something_else_is_left_alone(desk, name):
    (desk / name).mkdir()
    (desk / name / "thesis.txt").write_text("mine")
    assert "choose another --out" in finetune(desk, "--out", "expert", code=1).stderr
    assert (desk / name / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("broken", ["model.safetensors", "state.json"])
def test_a_broken_checkpoint_is_named(interrupted, broken):
    path = interrupted / "expert.run" / "state" / broken
    path.write_bytes(path.read_bytes()[:20])
    done = finetune(interrupted, "--out", "expert", code=1)
    assert "expert.run/state" in done.stderr and "error:" in done.stderr


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{broken", "mine.jsonl:61: not valid JSON"),
        ('{"prompt": "x"}', 'mine.jsonl:61: "answer" must be'),
        ('{"answer": "x"}', 'mine.jsonl:61: give either "prompt" or "messages"'),
        ('{"prompt": "", "answer": "x"}', 'mine.jsonl:61: "prompt" has no text'),
        (json.dumps({"prompt": "x", "answer": "y" * 300}), "mine.jsonl:61: the answer has 301 tokens"),
        (
            json.dumps({"prompt": "x" * 250, "answer": "y"}),
            "mine.jsonl:61: prompt (270 tokens) and answer (2)",
        ),
    ],
)
def test_bad_lines_are_named_by_file_and_number(desk, line, sentence):
    with (desk / "mine.jsonl").open("a") as file:
        file.write(line + "\n")
    assert sentence in finetune(desk, code=1).stderr
    assert not (desk / "runs").exists()


def test_a_conversation_that_the_template_refuses_is_named(desk):
    (desk / "base" / "chat_template.jinja").write_text("{{ raise_exception('users only') }}")
    expected = "mine.jsonl:1: the model's chat template refuses this conversation (users only)"
    assert expected in finetune(desk, code=1).stderr


def test_ten_examples_are_too_few(desk):
    write(desk / "mine.jsonl", LINES[:10])
    assert "10 different prompts are too few" in finetune(desk, code=1).stderr


def test_repeated_prompts_do_not_leak_into_the_held_out_part(desk):
    write(desk / "mine.jsonl", [*LINES, *LINES])
    done = finetune(desk, "--out", "expert", "--rank", 2)
    held_out = read_data(desk / "expert" / "heldout", ["mine"])["mine"]
    assert read_card(desk / "expert").settings.examples + len(held_out) == len(LINES)
    assert "60 lines repeat an earlier prompt" in done.stdout


def test_a_test_file_with_a_training_prompt_is_refused(desk):
    write(desk / "test.jsonl", [{"prompt": "99+1=", "answer": "100"}, LINES[3]])
    done = finetune(desk, "--test", "test.jsonl", code=1)
    assert "mine.jsonl and test.jsonl share the prompt '03+1='" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data", None, "--task", "reverse"), "did you mean 'reversal'?"),
        (("--data", None, "--test", "mine.jsonl"), "--test belongs to --data"),
        (("--task", "dynamic"), "task name 'dynamic' cannot be used"),
        (("--data", "absent.jsonl"), "absent.jsonl: the prompts cannot be read"),
        (("--base", "./absent"), "./absent: no such model folder"),
        (("--learning-rate", 1e30), "lower --learning-rate"),
        (("--learning-rate", 0), "learning_rate: Input should be greater than 0"),
    ],
)
def test_bad_usage_is_one_sentence(desk, words, sentence):
    done = finetune(desk, *words, code=1)
    assert sentence in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr


def test_base_without_an_end_token_is_refused(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-sequence token"):
        read_examples(tmp_path / "any.jsonl", tokenizer, 64)


def test_lengths_count_prompt_and_answer():
    assert Example(Item([], ""), [1, 2, 3], [4, 5]).length == 5
