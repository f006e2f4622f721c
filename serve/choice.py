"""Which weights answer a request: what the client names, or what the router finds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal

from compress.compose import factor_weights
from router import Query, Route, Router
from serve.kernels import Weights
from serve.mixture import MixtureModel
from serve.planner import Planner
from serve.request import GenerationRequest, Routing

# Mixtures are rounded to this grid before anything is computed, so that equal ones are found equal.
GRID = 64
# Routes of recent prompts: a few hundred bytes each.
MOST_REMEMBERED = 4096


class Chooser:
    """Mixtures for one bundle. Scores of recent prompts are kept, so that asking again costs nothing.

    generation: which version of the bundle's contents answers.
    """

    def __init__(
        self,
        mixture: MixtureModel,
        planner: Planner,
        router: Router | None,
        scalings: Mapping[str, float] | None,
        generation: int,
    ) -> None:
        self.mixture, self.planner, self.router = mixture, planner, router
        self.scalings, self.generation = scalings, generation
        self.hits = self.misses = 0
        self.shared = self.weights({})
        self._routes: OrderedDict[bytes, Route] = OrderedDict()

    def weights(self, mixture: Mapping[str, float]) -> Weights:
        """g of compress.compose for a snapped mixture."""
        return tuple(factor_weights(mixture, self.mixture.tasks, self.scalings))

    @property
    def pretrained(self) -> bool:
        """Whether the pretrained base can be mixed in."""
        return self.scalings is not None

    def tokens(self, query: Query) -> int:
        """How many tokens the router would have to read for it; none for scores that are at hand."""
        return 0 if self.router is None or query.key in self._routes else self.router.reads(query)

    def routes(self, queries: Sequence[Query]) -> list[Route]:
        """The router's scores, in one batch; equal queries are scored once."""
        fresh = {query.key: query for query in queries if query.key not in self._routes}
        self.hits += len(queries) - len(fresh)
        self.misses += len(fresh)
        found = dict(zip(fresh, self._score(list(fresh.values())), strict=True))
        routes = [found.get(query.key) or self._routes[query.key] for query in queries]
        for query, route in zip(queries, routes, strict=True):
            self._routes[query.key] = route
            self._routes.move_to_end(query.key)
        while len(self._routes) > MOST_REMEMBERED:
            self._routes.popitem(last=False)
        return routes

    def routing(self, request: GenerationRequest, route: Route | None) -> Routing:
        """The snapped mixture that answers, and why."""
        target, generation = request.target, self.generation
        if target.kind == "static":
            return Routing({}, "static", None, target.label, generation)
        if target.kind == "task":
            return Routing({str(target.task): 1.0}, "model", None, target.label, generation)
        if route is None:
            return Routing(snap(target.mixture or {}), "request", None, target.label, generation)
        wanted = route.mixture
        if target.policy is not None:
            assert self.router is not None
            # What a policy says nothing of is as the bundle's own has it.
            given = target.policy.model_dump(exclude_unset=True)
            policy = self.router.settings.policy().model_copy(update=given)
            wanted = policy.mixture(route.probabilities, route.known)
        mixture = snap(wanted)
        source: Literal["router", "router_on_scored_prompt"] = "router"
        if request.params.prompt_logprobs is not None and request.route_tokens is None:
            source = "router_on_scored_prompt"
        return Routing(mixture, source, route.confidence, target.label, generation)

    def _score(self, queries: Sequence[Query]) -> list[Route]:
        if not queries:
            return []
        assert self.router is not None
        if not self.router.needs_model:
            return self.router.route(self.mixture.model, queries)
        with self.planner.uniform(self.shared, max(1, sum(map(self.router.reads, queries)))):
            return self.router.route(self.mixture.model, queries)


def snap(mixture: Mapping[str, float]) -> dict[str, float]:
    """Weights rounded to multiples of 1/GRID, zeros left out; their sum is rounded and kept.

    Each weight moves by less than 1/GRID (largest remainder method): rounded one by one, a mixture
    that sums to one might not any more, and some of the shared base would be mixed in.
    """
    scaled = {task: weight * GRID for task, weight in mixture.items()}
    floors = {task: int(value // 1) for task, value in scaled.items()}
    missing = round(sum(scaled.values())) - sum(floors.values())
    by_remainder = sorted(scaled, key=lambda task: floors[task] - scaled[task])
    for task in by_remainder[:missing]:
        floors[task] += 1
    return {task: steps / GRID for task, steps in floors.items() if steps}
