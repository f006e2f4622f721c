"""What a router costs on prompts that no expert was trained for: base, static merge and routed answers.

Routed as the bundle does it, and with the other fall-back: what no expert is trusted with goes to the
pretrained base, or to the shared one, which is a merge of the fine-tunes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.proof.bundles import bundle
from benchmarks.proof.routes import routes_of
from benchmarks.proof.zoo import DATA, RESULTS, Work, write
from compress.bundle import Bundle
from compress.compose import BASE
from compress.loading import load_tokenizer
from examples.zoo.unseen import MAX_TOKENS, Question, is_right, read_questions
from router import user_turns
from serve.answers import Book, Kept
from serve.comparison import verified_base
from serve.engine import Engine
from serve.evaluate import Item, Scores
from serve.intervals import paired_interval
from serve.plainmodels import load, plain_engine
from serve.prompts import file_ids
from serve.request import GenerationRequest, SamplingParams, Target

SHARED_FALLBACK = "dynamic, falling back to the shared base"
ARMS = ("base", "static", "dynamic", SHARED_FALLBACK)
# Where the answers are cut to see whether the limit decides who wins.
CUTS = (8, 16, MAX_TOKENS)
NAME = "lora-exact"


def unseen(work: Work) -> None:
    """Accuracy of every arm, and each minus the base."""
    path = RESULTS / "proof_unseen.json"
    if path.is_file():
        return
    data = read_questions(DATA / "unseen")
    made = Bundle.open(bundle(NAME))
    answered = _answered(made, data, work)
    decoded = partial(_cut, load_tokenizer(made.base))
    write(path, {"bundle": NAME, "tokens": MAX_TOKENS, **figures(data, answered, decoded)})


def _answered(made: Bundle, data: Mapping[str, Sequence[Question]], work: Work) -> dict[str, list[Kept]]:
    items = {task: [_item(question) for question in found] for task, found in data.items()}
    base = verified_base(made)
    routes = routes_of(made, items)
    count = len(routes.routes)
    book = Book.of_bundle(work.answers, made, "float32")
    limited = f"{MAX_TOKENS} tokens"
    own = Book(work.answers, f"{book.model}, {limited}", book.router)
    plain = Book(work.answers, f"{base.sha256()} float32, {limited}")
    static = [Target("static")] * count
    found = {}
    with plain_engine(partial(load, base.folder, work.settings), base.folder, work.settings) as engine:
        found["base"] = _asked(engine, items, static, plain, work.bars.stage("base", count))
    engine = Engine.open(made.path, work.settings)
    try:
        shared = routes.targets(routes.policy.model_copy(update={"fallback": "shared"}))
        for arm, targets in (
            ("static", static),
            ("dynamic", [Target("dynamic")] * count),
            (SHARED_FALLBACK, shared),
        ):
            found[arm] = _asked(engine, items, targets, own, work.bars.stage(arm, count))
    finally:
        engine.stop()
    return found


def _item(question: Question) -> Item:
    # The answer only tells items apart here.
    return Item([{"role": "user", "content": question.prompt}], "; ".join(question.answers))


def _asked(
    engine: Engine,
    items: Mapping[str, Sequence[Item]],
    targets: Sequence[Target],
    book: Book,
    progress: Callable[[], None],
) -> list[Kept]:
    """Answers in the order of ``items``; those in ``book`` are not asked again."""
    asked = [(task, item) for task, own in items.items() for item in own]
    kept = [book.get(item, target) for (_, item), target in zip(asked, targets, strict=True)]
    fresh = [place for place, found in enumerate(kept) if found is None]
    for _ in range(len(asked) - len(fresh)):
        progress()
    params = SamplingParams(max_tokens=MAX_TOKENS)
    requests = [
        GenerationRequest(
            file_ids(engine.tokenizer, asked[place][1].messages),
            params,
            targets[place],
            user_turns(asked[place][1].messages),
        )
        for place in fresh
    ]
    for place, answer in zip(fresh, engine.answers(requests), strict=True):
        kept[place] = book.add(*asked[place], targets[place], answer)
        progress()
    return [found for found in kept if found is not None]


def _cut(tokenizer: Any, text: str, cut: int) -> str:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= cut else str(tokenizer.decode(ids[:cut]))


def figures(
    data: Mapping[str, Sequence[Question]],
    answered: Mapping[str, Sequence[Kept]],
    cut: Callable[[str, int], str],
) -> dict[str, Any]:
    """Accuracies in %, differences in points, of answers in the order of ``data``."""
    tasks = np.array([task for task, found in data.items() for _ in found])
    questions = [question for found in data.values() for question in found]
    experts = [sorted(set(kept.mixture) - {BASE}) for kept in answered["dynamic"]]
    fell_back = np.array([not found for found in experts])

    def hits(most: int) -> dict[str, np.ndarray]:
        return {
            arm: np.array(
                [is_right(q, cut(k.text, most)) for q, k in zip(questions, kept, strict=True)], dtype=float
            )
            for arm, kept in answered.items()
        }

    right = hits(MAX_TOKENS)
    return {
        "prompts": len(questions),
        "fell back, %": 100 * float(fell_back.mean()),
        "misrouted to": dict(Counter(name for found in experts for name in found).most_common()),
        "by chance, %": {arm: 100 * _by_chance(tasks, questions, kept) for arm, kept in answered.items()},
        "tasks": {
            task: {
                "prompts": int((tasks == task).sum()),
                **{arm: 100 * float(values[tasks == task].mean()) for arm, values in right.items()},
            }
            for task in data
        },
        "all": {arm: 100 * float(values.mean()) for arm, values in right.items()},
        "minus base": {arm: _minus(right[arm], right["base"]) for arm in answered if arm != "base"},
        "cut at": {
            str(most): {arm: 100 * float(values.mean()) for arm, values in hits(most).items()}
            for most in CUTS
        },
    }


def _by_chance(tasks: np.ndarray, questions: Sequence[Question], kept: Sequence[Kept]) -> float:
    """Share of answers that are right for another question of their task: what saying much gains."""
    shares = []
    for number, (task, answer) in enumerate(zip(tasks, kept, strict=True)):
        others = [other for other in np.flatnonzero(tasks == task).tolist() if other != number]
        shares.append(np.mean([is_right(questions[other], answer.text) for other in others]))
    return float(np.mean(shares))


def _minus(arm: np.ndarray, base: np.ndarray) -> list[float]:
    """Difference with its paired bootstrap interval, in points; every prompt weighs the same."""
    found = paired_interval(Scores({"prompts": arm}), Scores({"prompts": base}))
    return [found.value, found.low, found.high]
