"""What of an endpoint answers an arm: the generation that serves, or another one, named by its bundle.

Numbers of generations begin anew with every start, and an experiment outlives many. So an arm is kept with
its bundle's digest, and a number is only a short way to say it to an endpoint that runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from compress.errors import InputError
from serve.experiments.spec import Arm, Experiment


@dataclass(frozen=True)
class Loaded:
    """A generation that can be asked. digest: of its bundle. context: prompt and answer together, in tokens,
    at most; None where that is not known. routes: whether it has a router. failed: for ever."""

    generation: int = 1
    digest: str = ""
    tasks: Collection[str] = ()
    context: int | None = None
    routes: bool = True
    failed: bool = False


def answering(arm: Arm, loaded: Sequence[Loaded]) -> Loaded | None:
    """The generation that answers for an arm, None where its bundle is not loaded, or has failed.

    loaded: at least one; the one that serves is first.
    """
    if arm.digest is None:
        return loaded[0]
    return next((one for one in loaded if one.digest == arm.digest and not one.failed), None)


def by_digest(experiment: Experiment, loaded: Sequence[Loaded]) -> Experiment:
    """The same with digests for the numbers of generations. Raises InputError for a number that is not
    loaded."""
    digests = {one.generation: one.digest for one in loaded}
    arms = []
    for arm in experiment.arms:
        if arm.generation is not None:
            if arm.generation not in digests:
                numbers = ", ".join(map(str, digests))
                raise InputError(
                    f"experiment {experiment.name!r}: arm {arm.name!r} asks for generation {arm.generation},"
                    f" and loaded are: {numbers}; load its bundle first, with serve: false"
                )
            arm = arm.model_copy(update={"generation": None, "digest": digests[arm.generation]})
        arms.append(arm)
    return experiment.model_copy(update={"arms": tuple(arms)})
