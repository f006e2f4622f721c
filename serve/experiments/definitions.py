"""Experiments as people write them, in YAML or JSON, checked against what an endpoint can serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.errors import InputError
from compress.recipe import validation_sentence
from compress.yamlfile import read_mapping
from serve.experiments import canary
from serve.experiments.assignment import BUCKETS
from serve.experiments.loaded import Loaded, answering
from serve.experiments.spec import Arm, Experiment
from serve.request import Target

LIST = "experiments"


def read_experiments(path: Path) -> list[Experiment]:
    """The experiments in a YAML file: one, or a list of them under ``experiments``.

    Raises InputError, one sentence that names file, experiment and key.
    """
    content = read_mapping(path, "file of experiments", [LIST, *Experiment.model_fields])
    if LIST not in content:
        return [parsed(content, f"{path}: ")]
    others = sorted(set(map(str, content)) - {LIST})
    if others:
        raise InputError(
            f"{path}: beside {LIST!r} there is {others[0]!r}; put it into one of the experiments"
        )
    entries = content[LIST]
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: {LIST} must be a list of at least one experiment")
    found = [parsed(entry, f"{path}: {LIST}[{index}]: ") for index, entry in enumerate(entries)]
    names = [experiment.name for experiment in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: experiment {name!r} is given twice")
    return found


def parsed(content: Any, where: str = "") -> Experiment:
    """An experiment from plain data. where: goes before the sentence of an InputError."""
    if not isinstance(content, Mapping):
        raise InputError(
            f"{where}an experiment is a mapping with the keys {', '.join(Experiment.model_fields)}"
        )
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}{validation_sentence(error, Experiment)}") from error
    try:
        _check(experiment)
    except InputError as error:
        raise InputError(f"{where}{error}") from error
    return experiment


def unanswerable(experiment: Experiment, loaded: Sequence[Loaded]) -> str | None:
    """Why an endpoint cannot answer every arm, in a sentence; None if it can.

    loaded: its generations, the one that serves first.
    """
    contexts: dict[int, str] = {}
    for arm in experiment.arms:
        if arm.generation is not None:
            return (
                f"arm {arm.name!r} names generation {arm.generation} by its number; give its bundle's digest"
            )
        found = answering(arm, loaded)
        if found is None:
            failed = [one.generation for one in loaded if one.digest == arm.digest]
            why = f"failed, as generation {failed[0]}" if failed else "is not loaded"
            return (
                f"arm {arm.name!r}: its bundle, with the digest {str(arm.digest)[:16]}…, {why}; load it, with"
                " serve: false where another one serves"
            )
        if arm.model not in ("dynamic", "static") and arm.model not in found.tasks:
            known = ", ".join(["dynamic", "static", *found.tasks])
            where = "here" if arm.digest is None else f"in generation {found.generation}"
            return f"arm {arm.name!r}: there is no model {arm.model!r} {where}; the models are {known}"
        if arm.model == "dynamic" and not found.routes:
            return f"arm {arm.name!r}: generation {found.generation} has no router; name static or a task"
        if found.context is not None:
            contexts.setdefault(found.context, arm.name)
    if len(contexts) > 1:
        # A prompt between the two would be refused by some arms alone, and its units missing there.
        told = " and ".join(f"{size} tokens (arm {name!r})" for size, name in sorted(contexts.items()))
        return f"the arms have contexts of {told}; set max_model_len to the least of them"
    return None


def check(experiment: Experiment, loaded: Sequence[Loaded]) -> None:
    """Raise InputError when ``unanswerable`` says why."""
    if (why := unanswerable(experiment, loaded)) is not None:
        raise InputError(f"experiment {experiment.name!r}: {why}")


def target(arm: Arm) -> Target:
    """The weights that answer for an arm."""
    if arm.routed:
        return Target("dynamic", policy=arm.policy, arm=arm.name)
    if arm.model == "static":
        return Target("static", arm=arm.name)
    return Target("task", task=arm.model, arm=arm.name)


def _check(experiment: Experiment) -> None:
    """What the model's own validators leave open."""
    least = 1 / BUCKETS
    shares = {f"arm {arm.name!r}": arm.share for arm in experiment.arms}
    for what, share in {**shares, "eligible": experiment.eligible.share}.items():
        if 0 < share < least * (1 - 1e-9):
            raise InputError(f"{what}: the share {share:g} is below {least:g}, the finest that is told apart")
    canary.check(experiment)
    if experiment.shadow is not None:
        others = [arm.name for arm in experiment.arms if arm.name != experiment.shadow.arm and arm.share]
        if not others:
            raise InputError(
                f"shadow.arm: all requests go to {experiment.shadow.arm!r} itself; give another arm a share"
            )
        if any(arm.digest is not None or arm.generation is not None for arm in experiment.arms):
            raise InputError(
                "shadow: it is answered by the engine that serves, which alone knows when it has time; leave"
                " digest and generation out of the arms"
            )
