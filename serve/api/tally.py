"""Tokens of one response, counted while its answers come."""

from __future__ import annotations

from dataclasses import dataclass

from serve.api.responses import Usage


@dataclass
class Tally:
    """prompt: tokens of all prompts, each counted once. choices: answers to each prompt."""

    prompt: int
    choices: int
    generated: int = 0
    cached: int = 0

    def add(self, index: int, generated: int, cached: int) -> None:
        """Count tokens of the choice ``index``: its answer's, and its prompt's from the prefix cache."""
        self.generated += generated
        # Further answers find what the first has just computed: that saved nobody a prompt.
        if index % self.choices == 0:
            self.cached += cached

    @property
    def usage(self) -> Usage:
        return Usage.of(self.prompt, self.generated, self.cached)
