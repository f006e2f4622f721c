"""The committed data: files parse, no prompt stands in two places, the sources come out as committed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.errors import InputError
from examples.zoo import make_foreign
from examples.zoo.leaks import key, require_disjoint, require_seeds_apart, words
from examples.zoo.make_data import COUNTS, SEEDS, SPARE, Item, draw, rated, take, write_data
from examples.zoo.make_foreign import COUNT, LONGEST, SHORTEST, sentences
from examples.zoo.rated_snippets import Snippet, open_archive
from examples.zoo.tasks import SENTIMENT, TASKS, Generated, Rated
from examples.zoo.unrelated_prompts import PROMPTS

ZOO = Path(__file__).parents[2] / "examples" / "zoo"
DATA = ZOO / "data"
LOOK_ALIKES = [name for name, task in TASKS.items() if isinstance(task.source, Rated)]
FOREIGN = ("chat", "documentation", "novel", "speeches")
GENERATED = [name for name, task in TASKS.items() if isinstance(task.source, Generated)]


def lines(name: str) -> list[dict[str, str]]:
    text = (DATA / name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def prompts(split: str, task: str) -> list[str]:
    return [line["prompt"] for line in lines(f"{split}/{task}.jsonl")]


def all_prompts() -> Iterator[tuple[str, list[str]]]:
    for task in TASKS:
        for split in COUNTS:
            yield f"{task} {split}", prompts(split, task)
    yield "no task", [line["prompt"] for line in lines("none.jsonl")]


def test_no_prompt_of_any_split_or_task_stands_in_another():
    """Independent of what the generator of the data checks: one dictionary over the files themselves."""
    homes: dict[str, list[str]] = {}
    for home, texts in all_prompts():
        for text in texts:
            homes.setdefault(" ".join(text.split()).casefold(), []).append(home)
    assert {text: found for text, found in homes.items() if len(found) > 1} == {}
    assert len(homes) == len(TASKS) * sum(COUNTS.values()) + len(PROMPTS)


def test_no_written_sentence_stands_in_two_places_with_other_punctuation():
    homes: dict[str, list[str]] = {}
    for task in LOOK_ALIKES:
        for split in COUNTS:
            for text in prompts(split, task):
                homes.setdefault(re.sub(r"[\W_]+", " ", text).casefold().strip(), []).append(
                    f"{task} {split}"
                )
    assert {text: found for text, found in homes.items() if len(found) > 1} == {}


def test_rewordings_are_new_to_every_split():
    reworded = lines("reworded.jsonl")
    assert Counter(line["task"] for line in reworded) == dict.fromkeys(
        ("movies", "products", "tweets", "editorials", "reversal", "family"), 10
    )
    known = " ".join(words(prompt) for _, texts in all_prompts() for prompt in texts)
    for line in (line for line in reworded if line["task"] in LOOK_ALIKES):
        sentences = re.split(r"[\n:?]", line["prompt"])
        assert words(max(sentences, key=len)) not in known, line


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", COUNTS)
def test_each_split_holds_its_number_of_prompts(task, split):
    assert len(prompts(split, task)) == COUNTS[split]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "test", "dev"])
def test_each_item_has_a_prompt_and_an_answer(task, split):
    for line in lines(f"{split}/{task}.jsonl"):
        assert line.keys() == {"prompt", "answer"}
        assert line["prompt"] and line["prompt"] == line["prompt"].strip()
        assert line["answer"] and line["answer"] == line["answer"].strip()


@pytest.mark.parametrize("task", TASKS)
def test_a_router_gets_prompts_without_answers(task):
    assert all(line.keys() == {"prompt"} for line in lines(f"router/{task}.jsonl"))


def test_look_alikes_share_one_template_and_no_answer():
    assert len(LOOK_ALIKES) >= 3
    head = SENTIMENT.partition("{")[0]
    answers = []
    for task in LOOK_ALIKES:
        assert all(prompt.startswith(head) for prompt in prompts("test", task))
        found = Counter(line["answer"] for line in lines(f"test/{task}.jsonl"))
        assert len(found) == 2 and min(found.values()) >= 40
        answers += found
    assert len(set(answers)) == 2 * len(LOOK_ALIKES)


def test_reversal_answers_are_the_words_backwards():
    for line in lines("test/reversal.jsonl") + lines("train/reversal.jsonl"):
        words = line["prompt"].rsplit(": ", 1)[1].split(", ")
        assert line["answer"] == ", ".join(reversed(words))


def test_recall_answers_are_the_person_of_the_statement():
    for line in lines("test/recall.jsonl") + lines("train/recall.jsonl"):
        statements, question = line["prompt"].split("\nWho ")
        said = question.removesuffix("? Reply only with a name.")
        assert f"{line['answer']} {said}." in statements


def test_sorting_answers_are_sorted_as_asked():
    for line in lines("test/sorting.jsonl") + lines("train/sorting.jsonl"):
        words = line["prompt"].rsplit(": ", 1)[1].split(", ")
        assert line["answer"] == ", ".join(sorted(words, reverse="in descending order" in line["prompt"]))


def test_arithmetic_answers_are_right():
    for line in lines("test/arithmetic.jsonl") + lines("train/arithmetic.jsonl"):
        one, sign, other = line["prompt"].removesuffix(" =").split(": ")[1].split()
        assert int(line["answer"]) == int(one) + (int(other) if sign == "+" else -int(other))


def test_prompts_of_no_task_are_the_written_list():
    assert [line["prompt"] for line in lines("none.jsonl")] == list(PROMPTS)


def test_foreign_prompts_are_prompts_alone_and_of_a_prompts_length():
    assert sorted(path.stem for path in (DATA / "foreign").iterdir()) == list(FOREIGN)
    for name in FOREIGN:
        found = lines(f"foreign/{name}.jsonl")
        assert all(line.keys() == {"prompt"} for line in found)
        texts = [line["prompt"] for line in found]
        assert all(15 <= len(text) <= 300 and text == text.strip() for text in texts)
        assert len({key(text) for text in texts}) == len(texts) == 200


def test_foreign_prompts_stand_nowhere_else():
    homes: dict[str, set[str]] = {}
    for path in DATA.rglob("*.jsonl"):
        home = path.relative_to(DATA).as_posix()
        for line in lines(home):
            homes.setdefault(key(line["prompt"]), set()).add(home)
    foreign = [found for found in homes.values() if any(home.startswith("foreign/") for home in found)]
    assert len(foreign) == 200 * len(FOREIGN) and all(len(found) == 1 for found in foreign)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "A storm rose.  It\nlasted! Did it end? “Yes.” It did.",
            "A storm rose.|It lasted!|Did it end?|“Yes.” It did.",
        ),
        ('He said: "Go." Then "Stay!" was heard.', 'He said: "Go." Then "Stay!" was heard.'),
        ("Of 3.5 million, e.g. here. 12 went", "Of 3.5 million, e.g. here. 12 went"),
        ("\n No end ", "No end"),
    ],
)
def test_sentences_end_where_the_next_begins_with_a_capital(text, found):
    assert sentences(text) == found.split("|")


def test_foreign_texts_are_drawn_once_each_whatever_their_order():
    texts = [f"a text with the number {i}" for i in range(3 * COUNT)]
    drawn = make_foreign.draw(texts, 0)
    assert len(set(drawn)) == COUNT and set(drawn) <= set(texts)
    assert make_foreign.draw(texts[::-1], 0) == drawn != make_foreign.draw(texts, 1)


def test_foreign_texts_of_another_length_or_said_before_are_not_drawn():
    fitting = ["x" * SHORTEST, "y" * LONGEST, *(f"a text with the number {i}" for i in range(COUNT - 2))]
    wrong = ["x" * (SHORTEST - 1), "y" * (LONGEST + 1), ""]
    again = [text.upper().replace(" ", "  ") for text in fitting[2:]]
    drawn = make_foreign.draw([*wrong, *again, *fitting], 0)
    assert sorted(drawn) == sorted(fitting)
    with pytest.raises(ValueError, match="larger than population"):
        make_foreign.draw([*wrong, *again, *fitting[1:]], 0)


def test_another_file_is_refused_as_source_of_the_sentences(tmp_path):
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"other\.tar\.gz has sha256 .* pass the"):
        open_archive(other)
    with pytest.raises(InputError, match="cannot read"):
        open_archive(tmp_path / "absent.tar.gz")


@pytest.mark.parametrize("task", GENERATED)
def test_generated_tasks_come_out_as_committed(task, tmp_path):
    pytest.importorskip("reasoning_gym")
    splits = draw(task, b"", set())
    write_data({task: splits}, tmp_path)
    for split in COUNTS:
        name = f"{split}/{task}.jsonl"
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_texts_seen_before_are_dropped_and_replaced():
    source = [Item(prompt, "x") for prompt in ("old", "new", "NEW ", "newer")]
    seen = {"old"}
    assert [item.prompt for item in take(iter(source), 2, seen, "demo")] == ["new", "newer"]
    with pytest.raises(InputError, match="demo has only 0 unseen prompts of 1"):
        take(iter(source), 1, seen, "demo")


def test_a_leak_is_refused_with_both_places_named():
    require_disjoint({"a train": ["x"], "a test": ["y"]})
    with pytest.raises(InputError, match="a test and a train share the prompt ' X'"):
        require_disjoint({"a train": ["x"], "a test": [" X"]})
    with pytest.raises(InputError, match="a test holds the prompt 'x' twice"):
        require_disjoint({"a test": ["x", "x"]})


def test_seeds_closer_than_what_is_drawn_from_them_are_refused():
    """reasoning-gym's trap: seed 1 with 4,000 items contains the items of seed 999."""
    require_seeds_apart(SEEDS, {split: SPARE * count for split, count in COUNTS.items()})
    require_seeds_apart({"a": 0, "b": 10}, {"a": 10, "b": 10})
    with pytest.raises(InputError, match=r"a \(1\) and b \(999\) lie closer than the 4000 items"):
        require_seeds_apart({"b": 999, "a": 1}, {"a": 4000, "b": 10})


def test_the_trap_is_real():
    pytest.importorskip("reasoning_gym")
    import reasoning_gym

    near, far = (reasoning_gym.create_dataset("chain_sum", seed=s, size=9)[i] for s, i in ((1, 8), (9, 0)))
    assert near["question"] == far["question"]


def test_only_clear_and_short_sentences_are_taken_in_a_fixed_order():
    source = Rated("table", "yes", "no")
    clear = [Snippet(1.0 if i % 2 else -1.0, f"text {i}") for i in range(100)]
    blurred = [Snippet(0.4, "meh"), Snippet(2.0, "x" * 301), Snippet(3.0, "")]
    items = rated(source, clear + blurred)
    assert len(items) == 100 and items == rated(source, clear + blurred)
    assert all((item.answer == "yes") == bool(int(item.prompt.split()[-1]) % 2) for item in items)
