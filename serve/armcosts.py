"""What serving an arm costs: tokens a second and peak memory, each arm in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice, zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from compress.errors import InputError
from router import user_turns
from serve.engine import Engine
from serve.evaluate import Item
from serve.plainmodels import launch
from serve.prompts import file_ids
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings

REQUESTS = 32
NEW_TOKENS = 32
ROUNDS = 3
Load = Callable[[], Any]


@dataclass(frozen=True)
class Served:
    """What answers an arm: a bundle with its router, or ordinary models: task -> what loads its own, or one
    for all tasks under "". Has to pass to another process."""

    tokenizer: Path
    models: Mapping[str, Load] = field(default_factory=dict)
    bundle: Path | None = None


@dataclass(frozen=True)
class Cost:
    """Generated tokens a second, prefill and routing included: the median of the rounds; most bytes that the
    process held, of the device where that is no CPU."""

    tokens_per_second: float
    rounds: list[float]
    peak_bytes: int


def measure(
    arms: Mapping[str, Served],
    data: Mapping[str, Sequence[Item]],
    settings: EngineSettings,
    progress: Callable[[], None],
) -> dict[str, Cost]:
    """``REQUESTS`` prompts of all tasks in turn, sent at once, ``NEW_TOKENS`` of each: arm after arm, in
    ``ROUNDS`` rounds. ``progress`` hears of every one. All arms stay in memory meanwhile.

    Raises InputError for an arm that cannot be served.
    """
    with _started(arms, data, settings) as pipes:
        speeds: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(ROUNDS):
            for arm, pipe in pipes.items():
                pipe.send("go")
                speeds[arm].append(_received(arm, pipe))
                progress()
        peaks = {}
        for arm, pipe in pipes.items():
            pipe.send("end")
            peaks[arm] = _received(arm, pipe)
    return {arm: Cost(statistics.median(own), own, int(peaks[arm])) for arm, own in speeds.items()}


@contextmanager
def _started(
    arms: Mapping[str, Served], data: Mapping[str, Sequence[Item]], settings: EngineSettings
) -> Iterator[dict[str, Connection]]:
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for arm, served in arms.items():
            pipes[arm], theirs = context.Pipe()
            process = context.Process(target=_serve, args=(served, data, settings, theirs), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            _received(arm, pipes[arm])  # is ready
        yield pipes
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()


def _received(arm: str, pipe: Connection) -> float:
    try:
        found = pipe.recv()
    except EOFError:
        raise InputError(f"the process of arm {arm!r} died, perhaps for want of memory") from None
    if isinstance(found, str):
        raise InputError(f"arm {arm!r}: {found}")
    return float(found)


def _serve(
    served: Served, data: Mapping[str, Sequence[Item]], settings: EngineSettings, pipe: Connection
) -> None:
    """In a process of its own: answer the work each time it is told to, then say the peak of memory."""
    try:
        work = _work(served, data, settings)
        with ThreadPoolExecutor(len(work)) as pool:
            for engine, requests in work:
                engine.generate(requests[:1])
            gc.collect()
            pipe.send(0.0)
            while pipe.recv() == "go":
                started = time.perf_counter()
                answered = list(pool.map(lambda one: one[0].generate(one[1]), work))
                tokens = sum(len(answer.token_ids) for answers in answered for answer in answers)
                pipe.send(tokens / (time.perf_counter() - started))
        pipe.send(float(_peak(settings)))
    except InputError as error:
        pipe.send(str(error))


def _work(
    served: Served, data: Mapping[str, Sequence[Item]], settings: EngineSettings
) -> list[tuple[Engine, list[GenerationRequest]]]:
    """Engines, each with its requests: the first ``REQUESTS`` prompts of all tasks in turn."""
    in_turn = ((task, item) for row in zip_longest(*_labelled(data)) for task, item in filter(None, row))
    asked = list(islice(cycle(in_turn), REQUESTS))
    if served.bundle is not None:
        return [(engine := Engine.open(served.bundle, settings), [_request(engine, i) for _, i in asked])]
    work = []
    for task, make in served.models.items():
        engine = launch(make, served.tokenizer, settings)
        own = [_request(engine, item, "static") for of, item in asked if task in ("", of)]
        if own:
            work.append((engine, own))
    return work


def _labelled(data: Mapping[str, Sequence[Item]]) -> list[list[tuple[str, Item]]]:
    return [[(task, item) for item in items] for task, items in data.items()]


def _request(engine: Engine, item: Item, kind: Literal["dynamic", "static"] = "dynamic") -> GenerationRequest:
    params = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True)
    ids = file_ids(engine.tokenizer, item.messages)
    return GenerationRequest(ids, params, Target(kind), user_turns(item.messages))


def _peak(settings: EngineSettings) -> int:
    """Most bytes that this process has held: on a GPU those that torch took there."""
    device = torch.device(settings.torch_device())
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        # What getrusage says is the parent's peak where that was higher.
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
