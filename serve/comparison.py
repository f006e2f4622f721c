"""One bundle against its base, its static merge and its own fine-tunes on the same prompts."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from compress.adapters import EXTRA, is_adapter
from compress.bundle import Bundle
from compress.checkpoints import Checkpoint
from compress.codes import QUANTISED
from compress.compose import load_composed
from compress.errors import InputError
from compress.finetunes import apply, open_finetune
from compress.loading import load_model, load_tokenizer
from compress.recipe import SHARED
from compress.sources import resolve
from serve.engine import Engine
from serve.evaluate import Item, Scores, score
from serve.mixture import MixtureModel
from serve.request import Target
from serve.settings import EngineSettings

ARMS = ("base", "static", "random", "dynamic", "oracle", "own")
SCALINGS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
Data = Mapping[str, Sequence[Item]]
# (what runs, number of prompts) -> a callback for every finished prompt
Progress = Callable[[str, int], Callable[[], None]]


@dataclass
class Comparison:
    """Scores by arm. ``storage`` is every byte an arm needs, over the base's parameters x 2 bytes;
    ``sweep`` holds the static arm's average on development prompts by scaling."""

    tasks: list[str]
    prompts: dict[str, int]
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
    dev: Data | None = None,
) -> Comparison:
    """Run all arms on ``data``. With ``dev`` the static arm's scaling is the best one there.

    ``references``: task -> its own fine-tune; by default where the recipe found it. Raises
    InputError when the base or a fine-tune cannot be had or is another one than was built from.
    """
    bundle = Bundle.open(path)
    tasks = bundle.tasks
    checkpoint = verified_base(bundle)
    base = checkpoint.folder
    named = references or {}
    folders = {task: _verified_finetune(bundle, checkpoint, task, named.get(task)) for task in tasks}
    result = Comparison(tasks, {task: len(items) for task, items in data.items()})
    result.storage = _storage(bundle)
    count = sum(result.prompts.values())
    if dev is not None:
        result.static_scaling, result.sweep = tune_static(bundle, dev, settings, progress)

    with plain_engine(partial(_load, base, settings), base, settings) as engine:
        result.scores["base"] = score(engine, data, _static, progress("base", count))
    engine = Engine.open(path, settings)
    try:
        if result.static_scaling is None:
            result.scores["static"] = score(engine, data, _static, progress("static", count))
        for arm, target in (("random", _random(tasks)), ("dynamic", _dynamic), ("oracle", _oracle)):
            result.scores[arm] = score(engine, data, target, progress(arm, count))
    finally:
        engine.stop()
    if result.static_scaling is not None:
        scaling = result.static_scaling
        with plain_engine(partial(_scaled, bundle, scaling, settings), bundle.base, settings) as engine:
            result.scores["static"] = score(engine, data, _static, progress("static", count))
    own = Scores()
    for task, folder in folders.items():
        with plain_engine(partial(_finetune, folder, checkpoint, settings), base, settings) as engine:
            part = {task: data[task]}
            own.hits |= score(engine, part, _static, progress(f"own: {task}", len(data[task]))).hits
    result.scores["own"] = own
    return result


def tune_static(
    bundle: Bundle, dev: Data, settings: EngineSettings, progress: Progress
) -> tuple[float, dict[float, float]]:
    """The scaling of task arithmetic with the best average on development prompts, and the sweep.

    Raises InputError where the experts are deltas of the shared base: another scaling is then not
    within reach without the checkpoints.
    """
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
    count = sum(len(items) for items in dev.values())
    sweep = {}
    for scaling in SCALINGS:
        with plain_engine(partial(_scaled, bundle, scaling, settings), bundle.base, settings) as engine:
            sweep[scaling] = score(engine, dev, _static, progress(f"tuning {scaling}", count)).average
    return max(sweep, key=lambda scaling: sweep[scaling]), sweep


def _scaled(bundle: Bundle, scaling: float, settings: EngineSettings) -> Any:
    weights = [scaling if task in bundle.tasks else 0.0 for task in bundle.carried]
    return load_composed(bundle, weights, device=settings.torch_device(), dtype=settings.torch_dtype())


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


def _storage(bundle: Bundle) -> dict[str, float]:
    sizes, base = bundle.bytes(), 2 * bundle.manifest.base.parameters
    dynamic = sum(sizes.values()) / base
    one = sizes["base"] / base
    oracle = dynamic - sizes["router"] / base
    own = one * len(bundle.tasks)
    experts = dict.fromkeys(("random", "oracle"), oracle)
    return {"base": one, "static": one, "dynamic": dynamic, "own": own, **experts}


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


def _verified_finetune(bundle: Bundle, base: Checkpoint, task: str, reference: str | None) -> Path:
    """The folder of a task's own fine-tune; one that the caller did not name must be the very one."""
    facts = bundle.manifest.experts[task]
    folder = resolve(reference or facts.source)
    finetune = open_finetune(folder, base)
    if reference is None and finetune.sha256() != facts.sha256:
        raise InputError(
            f"{facts.source}: is not the fine-tune that expert {task!r} was made from; "
            f"give it with --reference {task}=CHECKPOINT"
        )
    return folder


def _load(folder: Path, settings: EngineSettings) -> Any:
    return load_model(folder, settings.torch_dtype()).to(settings.torch_device())


def _finetune(folder: Path, base: Checkpoint, settings: EngineSettings) -> Any:
    """A fine-tune as its owner would serve it: loaded by transformers, an adapter merged by PEFT; an
    expert that has more beside its adapter, which PEFT does not read, is added to the base."""
    if not is_adapter(folder):
        return _load(folder, settings)
    if any((folder / f"{beside}.safetensors").is_file() for beside in (EXTRA, QUANTISED)):
        return apply(open_finetune(folder, base), _load(base.folder, settings), base)
    from peft import PeftModel

    return PeftModel.from_pretrained(_load(base.folder, settings), folder).merge_and_unload()


@contextmanager
def plain_engine(
    load: Callable[[], Any], tokenizer_folder: Path, settings: EngineSettings
) -> Iterator[Engine]:
    """An engine that serves the one ordinary model that ``load`` gives, stopped when the block ends."""

    def make() -> Engine:
        return Engine(MixtureModel(load()), load_tokenizer(tokenizer_folder), settings)

    engine = Engine.launch(make, settings.threads)
    try:
        yield engine
    finally:
        engine.stop()
        del engine
        gc.collect()
