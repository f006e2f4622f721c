"""The unseen tasks: data as described, in no other file, and when an answer is right."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from compress.errors import InputError
from examples.zoo import make_unseen
from examples.zoo.leaks import words
from examples.zoo.make_refusals import other_prompts
from examples.zoo.tasks import SENTIMENT, TASKS
from examples.zoo.unseen import Question, is_right, names, parse_question, plain, read_questions

DATA = Path(__file__).parents[2] / "examples" / "zoo" / "data"
QUESTIONS = read_questions(DATA / "unseen")

OPEN = Question("What is the capital of Brazil?", ("Brasília",))
CHOICE = Question("Is ice hot or cold?", ("cold",), ("hot",))
FEW = Question("Which continent is Peru on?", ("South America",), ("North America", "Asia", "Africa"))


def opening(prompt: str) -> tuple[str, ...]:
    return tuple(plain(prompt).split()[:5])


def test_there_are_enough_questions_of_enough_tasks():
    assert sum(map(len, QUESTIONS.values())) >= 500 and len(QUESTIONS) >= 5
    assert not QUESTIONS.keys() & TASKS.keys()
    assert max(map(len, QUESTIONS.values())) <= make_unseen.MOST


def test_no_prompt_stands_twice_nor_in_other_data_of_the_zoo():
    found = [words(q.prompt) for questions in QUESTIONS.values() for q in questions]
    assert len(set(found)) == len(found)
    others = other_prompts(DATA, "unseen")
    assert not any(name.startswith("unseen/") for name in others)
    assert {"none.jsonl", "train/movies.jsonl", "foreign/chat.jsonl", "refusals/test.jsonl"} <= others.keys()
    assert not set(found) & {words(prompt) for prompts in others.values() for prompt in prompts}


def test_prompts_are_not_in_the_words_of_a_task_that_experts_know():
    trained = {name: ps for name, ps in other_prompts(DATA, "unseen").items() if name.startswith("train/")}
    known = {opening(prompt) for prompts in trained.values() for prompt in prompts}
    assert opening(SENTIMENT) in known and len(trained) == len(TASKS)
    assert not known & {opening(q.prompt) for found in QUESTIONS.values() for q in found}


@pytest.mark.parametrize("task", QUESTIONS)
def test_every_question_can_be_answered_right_tersely_and_chattily_and_not_by_its_own_words(task):
    for question in QUESTIONS[task]:
        answer = question.answers[0]
        assert is_right(question, answer), question
        assert is_right(question, f"Good question! I believe that it is called “{answer.upper()}”."), question
        assert not is_right(question, question.prompt), question
        assert not is_right(question, " ".join((*question.answers, *question.wrong))) or not question.wrong


@pytest.mark.parametrize("task", [task for task, found in QUESTIONS.items() if not found[0].wrong])
def test_one_answer_to_all_questions_of_an_open_task_is_seldom_right(task):
    found = QUESTIONS[task]
    commonest = max(sum(is_right(q, answer) for q in found) for other in found for answer in other.answers)
    assert commonest <= 0.35 * len(found)


def test_options_of_either_or_stand_in_the_question_and_the_first_is_as_often_right():
    found = QUESTIONS["either_or"]
    first = 0
    for question in found:
        asked = plain(question.prompt)
        assert names(asked, question.answers) and names(asked, question.wrong), question
        where = [min(asked.find(plain(o)) for o in side) for side in (question.answers, question.wrong)]
        first += where[0] < where[1]
    assert 0.4 * len(found) <= first <= 0.6 * len(found)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (OPEN, "Brasília"),
        (OPEN, "BRASILIA"),
        (OPEN, "The capital of Brazil is Brasi\u0301lia, not Rio de Janeiro."),
        (OPEN, "**Brasília's** a city"),
        (CHOICE, "Ice is cold."),
        (CHOICE, "ice-cold!"),
        (FEW, "Peru is in western South\nAmerica"),
    ],
)
def test_right_answers(question, text):
    assert is_right(question, text)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (OPEN, ""),
        (OPEN, "Brasilian"),
        (OPEN, "São Paulo"),
        (OPEN, "The capital of Brazil is a large city in South America, known for its architecture."),
        (CHOICE, "hot"),
        (CHOICE, "colder"),
        (CHOICE, "It can be hot or cold."),
        (CHOICE, "cold, not hot"),
        (FEW, "America"),
        (FEW, "North America, South America, Asia, Africa"),
        (FEW, "The south of America"),
    ],
)
def test_wrong_answers(question, text):
    assert not is_right(question, text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "Why?", "answers": []}, '"answers" must hold at least one'),
        ({"prompt": "Why?", "answers": "so"}, '"answers" must be a list of texts'),
        ({"prompt": "Why?", "answers": ["…"]}, '"answers" must be a list of texts'),
        ({"prompt": "Why?", "answers": ["so"], "wrong": ["So!"]}, r"\['so'\] are right and wrong at once"),
        ({"prompt": "Mexico City is where?", "answers": ["Mexico"]}, "names an answer itself"),
        ({"messages": [{"role": "user", "content": "Why?"}], "answers": ["so"]}, '"messages" are not scored'),
    ],
)
def test_questions_that_cannot_be_scored_are_refused(line, message):
    with pytest.raises(InputError, match=message):
        parse_question(line)


def test_a_folder_without_questions_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.jsonl file; python -m examples\.zoo\.make_unseen"):
        read_questions(tmp_path)


def test_what_needs_no_package_comes_out_as_committed():
    alone = {
        "people": make_unseen.asked(make_unseen.PEOPLE),
        "general": make_unseen.asked(make_unseen.GENERAL),
        "either_or": make_unseen.either_or(),
        "opposites": make_unseen.worded("opposites", make_unseen.listed(make_unseen.OPPOSITES)),
    }
    for task, found in alone.items():
        assert make_unseen.draw(found) == QUESTIONS[task]


def test_another_package_is_refused(tmp_path):
    path = tmp_path / "other.tgz"
    with tarfile.open(path, "w:gz") as tar:
        content = b"{}"
        member = tarfile.TarInfo("package/languages.min.json")
        member.size = len(content)
        tar.addfile(member, BytesIO(content))
    assert make_unseen.read_member(path, "languages.min.json") == {}
    with pytest.raises(InputError, match=r"other\.tgz: holds no countries\.min\.json"):
        make_unseen.read_member(path, "countries.min.json")
