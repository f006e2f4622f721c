"""How the endpoint opens a generation: beside the one that serves, and tried out before it is asked."""

from __future__ import annotations

from pathlib import Path

from compress.errors import InputError
from serve.engine import Engine
from serve.generations import Make
from serve.hotload import memory_told
from serve.job import EngineError
from serve.observer import Observer
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings


def opener(settings: EngineSettings, name: str) -> Make[Engine]:
    """What ``Live`` makes generations with; ``name`` is the model id of all."""

    def make(bundle: Path, number: int, beside: Engine | None) -> Engine:
        with memory_told(bundle):
            engine = Engine.open(bundle, settings, name, number, beside)
        try:
            warm_up(engine)
        except EngineError as error:
            engine.stop()
            raise InputError(f"{bundle}: cannot answer: {error}") from error
        # The first client's request is the first that counts, and counters outlive generations.
        engine.count_on(Observer(settings.metrics.prefix, name) if beside is None else beside.observer)
        return engine

    return make


def warm_up(engine: Engine) -> None:
    """Answer by the shared base and by an expert, so that the first client does not wait for allocations.

    Raises EngineError when the model's answers are unusable.
    """
    params = SamplingParams(max_tokens=min(2, engine.max_model_len - 1), ignore_eos=True)
    targets = (Target("static"), Target("task", task=engine.tasks[0]))
    engine.generate([GenerationRequest([0], params, target) for target in targets])
