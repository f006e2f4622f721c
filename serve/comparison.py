"""One bundle against its base, its static merge and its own fine-tunes on the same prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from compress.bundle import Bundle
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import open_finetune
from compress.recipe import SHARED
from compress.sources import resolve
from router import user_turns
from router.policy import Policy
from serve.answers import AnswerFile, Book
from serve.armcosts import ROUNDS, Cost, Served, measure
from serve.engine import Engine
from serve.evaluate import Item, Scores, score, score_each
from serve.plainmodels import load, load_finetune, load_static, plain_engine
from serve.request import Target
from serve.settings import EngineSettings

SCALINGS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
# Beside the bundle's own policy: mixtures by probability, however sure the router is.
POLICIES = ("top-1", "top-2", "soft")
# In the order to be shown; other merges stand behind static.
ARMS = ("base", "static", "random", "dynamic", *POLICIES, "oracle", "own")
Data = Mapping[str, Sequence[Item]]
# (what runs, number of prompts) -> a callback for every finished prompt
Progress = Callable[[str, int], Callable[[], None]]


@dataclass
class Comparison:
    """Scores by arm, in the order to be shown. ``storage`` is every byte an arm needs, over the base's
    parameters x 2 bytes; ``sweep`` holds the static arm's average on development prompts by scaling;
    ``policy`` says what the dynamic arm does."""

    tasks: list[str]
    prompts: dict[str, int]
    policy: Policy
    scores: dict[str, Scores] = field(default_factory=dict)
    storage: dict[str, float] = field(default_factory=dict)
    static_scaling: float | None = None
    sweep: dict[float, float] = field(default_factory=dict)


def compare(
    path: Path,
    data: Data,
    settings: EngineSettings,
    progress: Progress,
    *,
    references: Mapping[str, str] | None = None,
    statics: Mapping[str, Path] | None = None,
    dev: Data | None = None,
    answers: AnswerFile | None = None,
) -> Comparison:
    """Run all arms on ``data``. With ``dev`` the static arm's scaling is the best one there.

    ``references``: task -> its own fine-tune; by default where the recipe found it. ``statics``: name -> the
    folder of another merge, a plain model. ``answers``: what is known already is not asked again. Raises
    InputError when the base, a merge or a fine-tune cannot be had or is another one than was built from.
    """
    answers = answers or AnswerFile()
    bundle = Bundle.open(path)
    if not (path / "router").is_dir():
        raise InputError(f"bundle {path.name} has no router: train one with twinserve train-router")
    tasks = bundle.tasks
    checkpoint = verified_base(bundle)
    base = checkpoint.folder
    named = references or {}
    finetunes = {task: _verified_finetune(bundle, checkpoint, task, named.get(task)) for task in tasks}
    merged = {name: Checkpoint.open(folder, checkpoint) for name, folder in (statics or {}).items()}
    count = sum(len(items) for items in data.values())
    name = str(settings.torch_dtype()).removeprefix("torch.")
    book = Book.of_bundle(answers, bundle, name)
    found: dict[str, Scores] = {}
    sweep: dict[float, float] = {}
    scaling = None

    def plain(arm: str, make: Callable[[], Any], weights: str, part: Data = data) -> Scores:
        """Scores of one ordinary model."""
        with plain_engine(make, base, settings) as engine:
            shown = progress(arm, sum(len(items) for items in part.values()))
            return score(engine, part, _static, shown, Book(answers, f"{weights} {name}"))

    if dev is not None:
        check_tunable(bundle)
        for value in SCALINGS:
            make, weights = partial(load_static, path, settings, value), f"{book.model} x {value}"
            sweep[value] = plain(f"tuning {value}", make, weights, dev).average
        scaling = max(sweep, key=lambda value: sweep[value])
        make, weights = partial(load_static, path, settings, scaling), f"{book.model} x {scaling}"
        found["static"] = plain("static", make, weights)
    found["base"] = plain("base", partial(load, base, settings), checkpoint.sha256())
    for merge, opened in merged.items():
        found[merge] = plain(merge, partial(load, opened.folder, settings), opened.sha256())
    engine = Engine.open(path, settings)
    try:
        policy, others = policies(engine)
        if scaling is None:
            found["static"] = score(engine, data, _static, progress("static", count), book)
        found["random"] = score(engine, data, _random(tasks), progress("random", count), book)
        found["dynamic"] = score(engine, data, _dynamic, progress("dynamic", count), book)
        for arm, other in others.items():
            targets = routed_by(other, engine, data)
            found[arm] = score_each(engine, data, targets, progress(arm, count), book)
        found["oracle"] = score(engine, data, _oracle, progress("oracle", count), book)
    finally:
        engine.stop()
    own = Scores()
    for task, (folder, sha) in finetunes.items():
        make = partial(load_finetune, folder, base, settings)
        weights = f"{checkpoint.sha256()} + {sha}"
        own.hits |= plain(f"own: {task}", make, weights, {task: data[task]}).hits
    found["own"] = own
    order = (*ARMS[:2], *merged, *ARMS[2:])
    scores = {arm: found[arm] for arm in order if arm in found}
    prompts = {task: len(items) for task, items in data.items()}
    return Comparison(tasks, prompts, policy, scores, _storage(bundle, list(scores)), scaling, sweep)


def arm_costs(
    path: Path,
    data: Data,
    settings: EngineSettings,
    progress: Progress,
    references: Mapping[str, str] | None = None,
) -> dict[str, Cost]:
    """What base, static, dynamic and own cost to serve; see ``armcosts.measure``. ``references`` as in
    ``compare``."""
    bundle = Bundle.open(path)
    checkpoint = verified_base(bundle)
    base, named = checkpoint.folder, references or {}
    folders = {
        task: _verified_finetune(bundle, checkpoint, task, named.get(task))[0] for task in bundle.tasks
    }
    own = {task: partial(load_finetune, folder, base, settings) for task, folder in folders.items()}
    arms = {
        "base": Served(base, {"": partial(load, base, settings)}),
        "static": Served(bundle.base, {"": partial(load_static, path, settings)}),
        "dynamic": Served(bundle.base, bundle=path),
        "own": Served(base, own),
    }
    return measure(arms, data, settings, progress("cost", len(arms) * ROUNDS))


def check_tunable(bundle: Bundle) -> None:
    """Raises InputError where no scaling of the experts gives the static arm: where they are deltas of the
    shared base, another scaling is not within reach without the checkpoints."""
    if bundle.scalings is None:
        raise InputError(
            f"{bundle.path}: its experts are deltas of the shared base, so the static scaling cannot be "
            "tuned afterwards; build once per scaling and compare, or build with exclusive.reference: "
            "pretrained"
        )
    if SHARED in bundle.carried:
        raise InputError(
            f"{bundle.path}: its shared base was merged by {bundle.manifest.shared.method}, which no scaling "
            "of the experts gives; tune that method's own settings, and build once for each"
        )


def policies(engine: Engine) -> tuple[Policy, dict[str, Policy]]:
    """The policy of the engine's router, and those of ``POLICIES`` that are others, with its threshold."""
    assert engine.router is not None
    own = engine.router.settings.policy()
    counts = (1, min(2, len(engine.tasks)), len(engine.tasks))
    made = {
        name: own.model_copy(update={"top_k": k, "certain": 1.0, "temperature": 1.0, "total": 1.0})
        for name, k in zip(POLICIES, counts, strict=True)
    }
    return own, {name: policy for name, policy in made.items() if not _alike(policy, own)}


def _alike(policy: Policy, own: Policy) -> bool:
    """Of one expert alone, neither certainty nor temperature matters."""
    if policy.top_k == own.top_k == 1:
        return own.total == 1.0
    return policy == own


def routed_by(policy: Policy, engine: Engine, data: Data) -> list[Target]:
    """What ``policy`` makes of the router's scores, a target for each prompt in the order of ``data``. A
    conversation is routed as a whole, as by a router that is not sticky."""
    spoken = [user_turns(item.messages) for items in data.values() for item in items]
    routes = engine.route_now(spoken)
    return [Target("mixture", mixture=policy.mixture(r.probabilities, r.known)) for r in routes]


def _static(_: str) -> Target:
    return Target("static")


def _dynamic(_: str) -> Target:
    return Target("dynamic")


def _random(tasks: Sequence[str]) -> Callable[[str], Target]:
    """Any expert: what routing is worth beyond having the experts."""
    generator = random.Random(0)
    return lambda _: Target("task", task=generator.choice(tasks))


def _oracle(task: str) -> Target:
    return Target("task", task=task)


def _storage(bundle: Bundle, arms: Sequence[str]) -> dict[str, float]:
    sizes, base = bundle.bytes(), 2 * bundle.manifest.base.parameters
    dynamic = sum(sizes.values()) / base
    one = sizes["base"] / base
    others = {
        "random": dynamic - sizes["router"] / base,
        "oracle": dynamic - sizes["router"] / base,
        "own": one * len(bundle.tasks),
        "dynamic": dynamic,
        **dict.fromkeys(POLICIES, dynamic),
    }
    return {arm: others.get(arm, one) for arm in arms}


def verified_base(bundle: Bundle) -> Checkpoint:
    """The pretrained base that a bundle was built from. Raises InputError where it is not at hand."""
    facts = bundle.manifest.base
    base = Checkpoint.open(resolve(facts.source))
    if base.sha256() != facts.sha256:
        raise InputError(
            f"{facts.source}: its weights are not the ones that {bundle.path} was built from "
            f"(sha256 {facts.sha256[:16]}…); evaluate where the same base is at hand"
        )
    return base


def _verified_finetune(
    bundle: Bundle, base: Checkpoint, task: str, reference: str | None
) -> tuple[Path, str]:
    """Folder and hash of a task's own fine-tune; one that the caller did not name must be the very one."""
    facts = bundle.manifest.experts[task]
    folder = resolve(reference or facts.source)
    sha = open_finetune(folder, base).sha256()
    if reference is None and sha != facts.sha256:
        raise InputError(
            f"{facts.source}: is not the fine-tune that expert {task!r} was made from; "
            f"give it with --reference {task}=CHECKPOINT"
        )
    return folder, sha
