"""Which task the router sees in a request whose arm does not ask it, so that arms compare task by task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from compress.compose import BASE
from compress.errors import InputError
from serve.api.surface import EngineSurface
from serve.job import EngineError
from serve.request import GenerationRequest, Routing, SamplingParams, Target

log = logging.getLogger(__name__)

# Questions that wait for the engine to have time, and seconds for which one does.
MOST, PATIENCE = 64, 60.0


class RoutedTasks:
    """Asks an engine's router in the background. Used by one event loop alone."""

    def __init__(self) -> None:
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, engine: EngineSurface, request: GenerationRequest, tell: Callable[[str], None]) -> None:
        """Tell the task that the router sees in a request, as ``routed_task``, once the engine has had time
        for that; never, where it has none or too many ask."""
        if len(self._asking) >= MOST:
            return
        # The engine routes by the turns and reads nothing of the prompt, of which every request has some.
        question = GenerationRequest(
            request.prompt[-1:],
            SamplingParams(max_tokens=0),
            Target("dynamic"),
            request.turns,
            timeout=PATIENCE,
            background=True,
        )
        task = asyncio.get_running_loop().create_task(self._ask(engine, question, tell))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(
        self, engine: EngineSurface, question: GenerationRequest, tell: Callable[[str], None]
    ) -> None:
        try:
            async for event in engine.stream(question):
                task = routed_task(event.routing)
                if event.finish_reason and task is not None:
                    tell(task)
        except (EngineError, InputError) as error:
            log.debug("a request's task stays unknown: %s", error)


def routed_task(routing: Routing | None) -> str | None:
    """The expert that weighs most in what the router chose, ``base`` where it trusted none; None where it was
    not asked."""
    if routing is None or routing.confidence is None:
        return None
    return max(routing.experts, key=routing.experts.__getitem__, default=BASE)
