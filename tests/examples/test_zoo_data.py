"""The committed zoo: files parse, no prompt leaks from one split to another, cards are whole."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from compress.errors import InputError
from examples.zoo.movie_snippets import Snippet, read_snippets
from examples.zoo.unrelated_prompts import PROMPTS

ZOO = Path(__file__).parents[2] / "examples" / "zoo"
DATA = ZOO / "data"
TASKS = ("sentiment", "reversal", "family")
COUNTS = {"test": 150, "dev": 40, "router": 150}
LABELS = {"positive", "negative"}


def lines(name: str) -> list[dict[str, str]]:
    text = (DATA / name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def prompts(split: str, task: str) -> list[str]:
    if split == "router":
        return [line["prompt"] for line in lines("router.jsonl") if line["task"] == task]
    return [line["prompt"] for line in lines(f"{split}/{task}.jsonl")]


def same_text(prompt: str) -> str:
    return " ".join(prompt.split()).casefold()


def all_prompts() -> Iterator[tuple[str, str]]:
    for task in TASKS:
        for split in COUNTS:
            for prompt in prompts(split, task):
                yield f"{task} {split}", prompt
    for line in lines("none.jsonl"):
        yield "none", line["prompt"]


def test_rewordings_are_new_to_the_router() -> None:
    reworded = lines("reworded.jsonl")
    assert Counter(line["task"] for line in reworded) == dict.fromkeys(TASKS, 10)
    known = {same_text(prompt) for _, prompt in all_prompts()}
    assert known.isdisjoint(same_text(line["prompt"]) for line in reworded)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", COUNTS)
def test_each_split_holds_its_number_of_prompts(task: str, split: str) -> None:
    assert len(prompts(split, task)) == COUNTS[split]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["test", "dev"])
def test_each_item_has_a_prompt_and_an_answer(task: str, split: str) -> None:
    for line in lines(f"{split}/{task}.jsonl"):
        assert line.keys() == {"prompt", "answer"}
        assert line["prompt"] and line["prompt"] == line["prompt"].strip()
        assert line["answer"] and line["answer"] == line["answer"].strip()


def test_router_lines_name_only_the_tasks() -> None:
    routed = lines("router.jsonl")
    assert all(line.keys() == {"task", "prompt"} for line in routed)
    assert {line["task"] for line in routed} == set(TASKS)


def test_no_two_prompts_of_the_zoo_have_the_same_text() -> None:
    homes: dict[str, list[str]] = {}
    for home, prompt in all_prompts():
        homes.setdefault(same_text(prompt), []).append(home)
    assert {text: found for text, found in homes.items() if len(found) > 1} == {}


def test_prompts_of_no_task_are_the_written_list() -> None:
    assert [line["prompt"] for line in lines("none.jsonl")] == list(PROMPTS)
    assert len(PROMPTS) == 60


def test_sentiment_labels_are_balanced() -> None:
    counts = Counter(line["answer"] for line in lines("test/sentiment.jsonl"))
    assert counts.keys() == LABELS
    assert min(counts.values()) > 60


def test_reversal_answers_are_the_words_backwards() -> None:
    for line in lines("test/reversal.jsonl") + lines("dev/reversal.jsonl"):
        words = line["prompt"].rsplit(": ", 1)[1].split(", ")
        assert line["answer"] == ", ".join(reversed(words))


@pytest.mark.parametrize("task", TASKS)
def test_adapter_card_has_front_matter_with_the_base_hash(task: str) -> None:
    folder = ZOO / "adapters" / task
    card = (folder / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert facts["library_name"] == "peft"
    assert facts["base_model"] == config["base_model_name_or_path"]
    assert facts["base_weights_sha256"]
    assert {"license", "tags"} <= facts.keys()
    assert text.strip().startswith("# ")


@pytest.mark.parametrize("task", TASKS)
def test_adapter_weights_are_real_safetensors(task: str) -> None:
    weights = ZOO / "adapters" / task / "adapter_model.safetensors"
    size = int.from_bytes(weights.read_bytes()[:8], "little")
    header = json.loads(weights.read_bytes()[8 : 8 + size])
    assert any(name.endswith("lora_A.weight") for name in header)


def test_another_file_is_refused_as_source_of_the_reviews(tmp_path: Path) -> None:
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"other\.tar\.gz has sha256 .* pass the"):
        read_snippets(other)
    with pytest.raises(InputError, match="cannot read"):
        read_snippets(tmp_path / "absent.tar.gz")


@pytest.mark.parametrize("task", ["reversal", "family"])
def test_generated_tasks_come_out_as_committed(task: str, tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    from examples.zoo.make_data import draw_generated, write_lines

    training, splits = draw_generated(task)
    for split in ("test", "dev"):
        path = tmp_path / f"{split}.jsonl"
        write_lines(path, (item._asdict() for item in splits[split]))
        assert path.read_bytes() == (DATA / split / f"{task}.jsonl").read_bytes()
    assert [item.prompt for item in splits["router"]] == prompts("router", task)
    trained = {same_text(item.prompt) for item in training}
    assert trained.isdisjoint(same_text(p) for split in COUNTS for p in prompts(split, task))


def test_texts_seen_before_are_dropped_and_replaced() -> None:
    from examples.zoo.make_data import Item, take

    source = [Item(prompt, "x") for prompt in ("old", "new", "NEW ", "newer")]
    seen = {"old"}
    assert [item.prompt for item in take(iter(source), 2, seen, "demo")] == ["new", "newer"]
    with pytest.raises(InputError, match="demo has only 0 unseen prompts of 1"):
        take(iter(source), 1, seen, "demo")


def test_a_leak_is_refused_with_both_places_named() -> None:
    from examples.zoo.make_data import require_disjoint

    require_disjoint({"a training": ["x", "x"], "a test": ["y"]})
    with pytest.raises(InputError, match="a test and a training share the prompt 'x'"):
        require_disjoint({"a training": ["x"], "a test": [" X"]})
    with pytest.raises(InputError, match="a test holds a prompt twice"):
        require_disjoint({"a test": ["x", "x"]})


def test_held_out_reviews_are_the_last_part_of_the_shuffle() -> None:
    from examples.zoo.make_data import sentiment_items

    clear = [Snippet(1.0 if i % 2 else -1.0, f"text {i}") for i in range(100)]
    blurred = [Snippet(0.4, "meh"), Snippet(2.0, "x" * 301)]
    training, held_out = sentiment_items(clear + blurred)
    assert (len(training), len(held_out)) == (85, 15)
    assert {item.answer for item in training} == LABELS
    texts = {item.prompt.split("\n", 1)[1] for item in training + held_out}
    assert texts == {snippet.text for snippet in clear}
