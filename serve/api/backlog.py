"""Events that wait for the client to take them, in memory bounded by the answers themselves."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from serve.request import Event, TokenLogprob

# Of one choice; a client that keeps up is never so many behind, and gets a chunk a token.
LOOSE = 16

# Which choice of the response, and what its answer got.
Tagged = tuple[int, Event]


@dataclass
class Joined:
    """Some events of one choice, next to each other, as one."""

    index: int
    first: Event
    last: Event = field(init=False)
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, event: Event) -> None:
        self.texts.append(event.text)
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs
        self.last = event

    def event(self) -> Event:
        return replace(
            self.last,
            text="".join(self.texts),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            # What only the first event of an answer has.
            prompt_logprobs=self.first.prompt_logprobs,
            cached_tokens=self.first.cached_tokens,
        )


class Backlog:
    """A queue of events, ends and failures. Of each choice at most LOOSE events wait one by one; what
    comes after is joined to the last of them, so nothing is lost and the rest comes in fewer chunks."""

    def __init__(self) -> None:
        self._items: deque[Joined | BaseException | None] = deque()
        self._loose: Counter[int] = Counter()
        self._newest: dict[int, Joined] = {}
        self._filled = asyncio.Event()

    def put(self, index: int, event: Event) -> None:
        """One more event of choice ``index``."""
        if self._loose[index] < LOOSE:
            self._loose[index] += 1
            self._newest[index] = Joined(index, event)
            self._append(self._newest[index])
        self._newest[index].add(event)

    def end(self, error: BaseException | None = None) -> None:
        """One choice is complete, or has failed with ``error``."""
        self._append(error)

    async def get(self) -> Tagged | None:
        """The next event; None for the end of one choice. Raises the error of one that failed."""
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        item = self._items.popleft()
        if item is None:
            return None
        if isinstance(item, BaseException):
            raise item
        self._loose[item.index] -= 1
        return item.index, item.event()

    def __len__(self) -> int:
        return len(self._items)

    def _append(self, item: Joined | BaseException | None) -> None:
        self._items.append(item)
        self._filled.set()
