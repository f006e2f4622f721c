"""Requests that take part in an experiment: from their arm to the record of what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fastapi import Request

from serve.api.exchange import Exchange
from serve.api.routedtasks import RoutedTasks, routed_task
from serve.api.schemas import Generation
from serve.api.shadows import Record, Shadow, Shadows
from serve.api.surface import EngineSurface, exchanged
from serve.experiments.board import Asked, Board, Choice
from serve.experiments.definitions import target as target_of
from serve.experiments.keeping import Storage
from serve.experiments.loaded import Loaded, answering
from serve.experiments.metrics import ExperimentMetrics
from serve.experiments.records import Routed, Served
from serve.request import GenerationRequest, Target

SESSION = "x-session-id"

Outcome = Literal["finished", "failed", "refused", "left"]


@dataclass
class Trial:
    """One request's part in an experiment. generation: the one that answers. response, prompt: known once it
    is being answered; prompt is the user's words, or their fingerprint where the experiment stores none.
    task: what the router said of it beside an arm that does not ask."""

    choice: Choice
    generation: int
    response: str | None = None
    prompt: str | None = field(default=None, repr=False)
    task: str | None = None
    shadow: Shadow | None = None

    @property
    def label(self) -> str:
        """The experiment and its version, as headers and logs name it."""
        return f"{self.choice.experiment.name}/{self.choice.version}"

    @property
    def headers(self) -> dict[str, str]:
        """For clients that read headers only."""
        return {"x-twinserve-arm": self.choice.arm.name, "x-twinserve-experiment": self.label}


class Trials:
    """An app's experiments. Used by its event loop alone."""

    def __init__(self, board: Board, sink: Storage) -> None:
        self.board, self.sink = board, sink
        self.metrics = ExperimentMetrics(board)
        self.shadows = Shadows(sink.put, lambda *labels: self.metrics.shadows.labels(*labels).inc())
        self.registries = [self.metrics.registry, sink.metrics]
        self._routed = RoutedTasks()
        # Feedback may come before the answer has ended, as by whoever stops a bad one.
        self._under_way: dict[str, str] = {}
        self._keeping: asyncio.Task[None] | None = None

    def enter(self, asked: Asked) -> Trial | None:
        """The request's part in an experiment, None where it has none."""
        choice = self.board.choose(asked)
        if self.board.stale and (self._keeping is None or self._keeping.done()):
            self._keeping = asyncio.get_running_loop().create_task(self.board.agree())
        if choice is None:
            return None
        found = answering(choice.arm, asked.loaded)
        assert found is not None  # or the board would not have chosen it
        return Trial(choice, found.generation)

    def begin(
        self, exchange: Exchange, engine: EngineSurface, response: str, prompts: Sequence[GenerationRequest]
    ) -> None:
        """The engine takes an exchange's prompts, which will be answered under the id ``response``; where it
        takes part in an experiment, that counts from now on."""
        trial = exchange.trial
        if trial is None:
            return
        choice = trial.choice
        words = "\n\n".join(turn for request in prompts for turn in request.turns)
        trial.response = response
        trial.prompt = words if choice.experiment.store_prompts else self.sink.fingerprint(words)
        self._under_way[response] = choice.experiment.name
        self.board.expose(choice)
        # Several answers have no single other one to be held against.
        if len(exchange.answers) == 1:
            began = exchange.wall(exchange.began)
            record = Record(response, choice, trial.prompt, began, trial.generation)
            trial.shadow = self.shadows.begin(engine, prompts[0], record)
        if trial.shadow is not None:
            exchange.pieces = []
        if not choice.arm.routed and any(arm.routed for arm in choice.experiment.arms):
            self._routed.ask(engine, prompts[0], lambda task: self._know(trial, task))

    def ended(self, exchange: Exchange) -> None:
        """Write down what came of a request that took part; of others, nothing."""
        trial = exchange.trial
        if trial is None or trial.response is None:
            return
        outcome, choice = outcome_of(exchange), trial.choice
        text = "".join(exchange.pieces or ()) if outcome == "finished" else None
        if trial.shadow is not None:
            trial.shadow.beside(text)
        labels = (choice.experiment.name, choice.arm.name)
        self.metrics.requests.labels(*labels, outcome).inc()
        if outcome != "refused":
            measured = metrics_of(exchange, outcome)
            if "latency" in measured:
                self.metrics.latency.labels(*labels).observe(measured["latency"])
            text = text if trial.shadow is not None else None
            self.sink.put(_served(exchange, trial, trial.response, measured, text))
        del self._under_way[trial.response]

    def _know(self, trial: Trial, task: str) -> None:
        """The router has said which task a request is of; that may be before or after its record is put."""
        trial.task = task
        assert trial.response is not None
        if trial.response not in self._under_way:
            self.sink.put(Routed(trial.response, trial.choice.experiment.name, task))

    async def experiment_of(self, response: str) -> str | None:
        """Name of the experiment that a response belongs to, None where it is not known."""
        if (name := self._under_way.get(response)) is not None:
            return name
        found = await asyncio.to_thread(self.sink.find, response)
        # A shadow was seen by nobody who could have an opinion of it.
        return None if found is None or found.shadow else found.experiment


def enter(
    http: Request, engine: EngineSurface, body: Generation, target: Target
) -> tuple[EngineSurface, Target]:
    """The generation and the weights that answer: those of an experiment's arm, if the model's bare name was
    asked for and one applies, else ``engine``, which serves, and ``target``."""
    if body.model != engine.name or body.mixture is not None:
        return engine, target
    asked = Asked(
        request=http.state.request_id,
        user=body.user or body.safety_identifier,
        session=http.headers.get(SESSION),
        headers=http.headers,
        loaded=loaded(http.app.state.engine),
    )
    trials: Trials = http.app.state.trials
    trial = http.state.exchange.trial = trials.enter(asked)
    if trial is None:
        return engine, target
    if trial.generation != engine.generation:
        engine = exchanged(http, trial.generation)
    return engine, target_of(trial.choice.arm)


def loaded(whole: EngineSurface) -> list[Loaded]:
    """The generations that arms may name, the one that serves first. Raises NotReadyError while there is
    none."""
    return [
        Loaded(
            generation=engine.generation,
            digest=engine.digest,
            tasks=engine.tasks,
            context=engine.max_model_len,
            routes=engine.router is not None,
            failed=engine.failed,
        )
        for engine in whole.engines
    ]


def outcome_of(exchange: Exchange) -> Outcome:
    """How an answered request ended. refused: the engine would not have it, whatever the arm. left: the
    client went away, or took nothing any more."""
    if exchange.finished and len(exchange.finished) == len(exchange.answers):
        return "finished"
    if exchange.left or (exchange.status and not exchange.complete):
        return "left"
    return "refused" if 400 <= exchange.status < 500 else "failed"


def metrics_of(exchange: Exchange, outcome: Outcome) -> dict[str, float]:
    """The automatic metrics, seconds and counts over all choices; what was not reached, or would be cut
    short, is left out: of unfinished requests all but error, and first_token where it came."""
    measured = {"error": float(outcome == "failed")}
    firsts = [times.first for times in exchange.answers if times.first is not None]
    if firsts and outcome != "failed":
        measured["first_token"] = min(firsts) - exchange.began
    if outcome != "finished":
        return measured
    lasts = [last for times in exchange.answers if (last := times.latest or times.ended) is not None]
    if lasts:
        measured["latency"] = max(lasts) - exchange.began
    measured["completion_tokens"] = float(exchange.completion_tokens or 0)
    # Where weights are named nobody could abstain.
    routed = [routing for routing in exchange.finished if routing.confidence is not None]
    if routed:
        measured["abstention"] = sum(not routing.experts for routing in routed) / len(routed)
    return measured


def _served(
    exchange: Exchange, trial: Trial, response: str, measured: dict[str, float], text: str | None
) -> Served:
    choice = trial.choice
    return Served(
        response=response,
        experiment=choice.experiment.name,
        version=choice.version,
        arm=choice.arm.name,
        unit=choice.unit,
        task=routed_task(exchange.routing) or trial.task,
        moment=exchange.wall(exchange.began),
        metrics=measured,
        prompt=trial.prompt,
        generation=trial.generation,
        text=text,
    )
