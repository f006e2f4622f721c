"""Model cards: the facts of one expert as card.json for programs, as README.md for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import InputError
from compress.recipe import validation_sentence
from examples.zoo.adapters import ALPHA_PER_RANK
from examples.zoo.base import BASE
from examples.zoo.runstate import RunSettings
from examples.zoo.scoring import ExactMatch, Share
from examples.zoo.tasks import TASKS

FACTS = "card.json"


class Example(BaseModel):
    """One held-out prompt, to show the format."""

    model_config = ConfigDict(extra="forbid")
    messages: list[dict[str, Any]]
    answer: str


class Card(BaseModel):
    """Where an expert comes from and what it scores.

    ``own_data``: trained on a user's file, whatever the task is called. ``seconds`` is wall time of
    training, ``loss`` the mean of its last steps. ``score`` is that of what is stored; for an expert
    compressed to ``compressed_rank`` from a full fine-tune, ``full_score`` is that of the full one.
    """

    model_config = ConfigDict(extra="forbid")
    settings: RunSettings
    base_name: str
    own_data: bool
    seconds: float
    loss: float
    example: Example
    score: ExactMatch
    compressed_rank: int | None = None
    full_score: ExactMatch | None = None

    def render(self) -> str:
        """The README.md, with the front matter that the hub and twinserve read."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined,
        )
        return environment.get_template("card.md.j2").render(
            card=self,
            task=None if self.own_data else TASKS[self.settings.task],
            # What others' bases and data are licensed under is not for us to say.
            ours=self.settings.base == BASE and not self.own_data,
            adapter=self.settings.kind == "lora" or self.compressed_rank is not None,
            alpha_per_rank=ALPHA_PER_RANK,
            percent=percent,
        )

    def write(self, folder: Path) -> None:
        """Write card.json and README.md."""
        (folder / FACTS).write_text(self.model_dump_json(indent=2) + "\n")
        (folder / "README.md").write_text(self.render(), encoding="utf-8")


def read_card(folder: Path) -> Card:
    """The card of the expert in ``folder``. Raises InputError where there is none or it is broken."""
    path = folder / FACTS
    try:
        return Card.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); make the expert with examples.zoo.finetune"
        ) from error
    except ValidationError as error:
        raise InputError(f"{path}: {validation_sentence(error, Card)}") from error


def percent(share: Share) -> str:
    """A share with its interval, in percent."""
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} … {100 * share.high:.1f})"
