"""Records out of the tables, streamed: no query holds more than a page of rows in memory."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, func, select

from serve.experiments.records import Change, Feedback, Served
from serve.experiments.store.tables import FEEDBACK, SERVED, UNITS, VERSIONS

# Rows fetched at once.
PAGE = 1000


def find(connection: Connection, response: str) -> Served | None:
    """The record of a response; of several experiments the first one's by name."""
    query = select(SERVED).where(SERVED.c.response == response).order_by(SERVED.c.experiment).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else Served(**row._mapping)


def served(connection: Connection, experiment: str, version: int | None) -> Iterator[Served]:
    """Responses of an experiment, the oldest first. version: None takes all."""
    query = select(SERVED).where(SERVED.c.experiment == experiment)
    if version is not None:
        query = query.where(SERVED.c.version == version)
    query = query.order_by(SERVED.c.moment, SERVED.c.response).execution_options(yield_per=PAGE)
    for row in connection.execute(query):
        yield Served(**row._mapping)


def outcomes(connection: Connection, experiment: str) -> Iterator[Feedback]:
    """What was said of an experiment's responses, the oldest first."""
    query = (
        select(FEEDBACK)
        .join(SERVED, SERVED.c.response == FEEDBACK.c.response)
        .where(SERVED.c.experiment == experiment)
        .order_by(FEEDBACK.c.moment, FEEDBACK.c.response, FEEDBACK.c.key)
        .execution_options(yield_per=PAGE)
    )
    for row in connection.execute(query):
        yield Feedback(**row._mapping)


def units(connection: Connection, experiment: str, version: int) -> dict[str, int]:
    """Distinct units that were shown each arm of a version."""
    query = (
        select(UNITS.c.arm, func.count())
        .where(UNITS.c.experiment == experiment, UNITS.c.version == version)
        .group_by(UNITS.c.arm)
        .order_by(UNITS.c.arm)
    )
    return {arm: count for arm, count in connection.execute(query)}


def history(connection: Connection, experiment: str | None) -> list[Change]:
    """All versions of an experiment, or of all, by name and version."""
    query = select(VERSIONS).order_by(VERSIONS.c.name, VERSIONS.c.version)
    if experiment is not None:
        query = query.where(VERSIONS.c.name == experiment)
    return [Change(**row._mapping) for row in connection.execute(query)]
