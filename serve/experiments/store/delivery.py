"""Records into tables, so that writing them again changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

from sqlalchemy import Connection, Table, select, update
from sqlalchemy.dialects import postgresql, sqlite

from serve.experiments.records import Change, Feedback, Routed, Served, State
from serve.experiments.store.errors import VersionTakenError
from serve.experiments.store.lines import Record
from serve.experiments.store.tables import FEEDBACK, SERVED, UNITS, VERSIONS

RANK = {state: rank for rank, state in enumerate(get_args(State))}


def deliver(connection: Connection, records: Sequence[Record]) -> None:
    """Write records, in their order where it matters. A response that is there stays; feedback replaces what
    was said before under the same key, unless that is from a later moment; changes as ``keep``."""
    served = [record for record in records if isinstance(record, Served)]
    if served:
        connection.execute(_insert(connection, SERVED).on_conflict_do_nothing(), _rows(served))
        _count_units(connection, served)
    for record in records:
        if isinstance(record, Routed):
            same = (SERVED.c.response == record.response, SERVED.c.experiment == record.experiment)
            unknown = update(SERVED).where(*same, SERVED.c.task.is_(None))
            connection.execute(unknown.values(task=record.task))
    feedback = [record for record in records if isinstance(record, Feedback)]
    if feedback:
        # Sorted, so that two servers never wait for each other's rows; what has one key stays in its order.
        feedback.sort(key=lambda record: (record.response, record.key))
        insert = _insert(connection, FEEDBACK)
        said = {"moment": insert.excluded.moment, "metrics": insert.excluded.metrics}
        later = insert.excluded.moment >= FEEDBACK.c.moment
        upsert = insert.on_conflict_do_update(index_elements=["response", "key"], set_=said, where=later)
        connection.execute(upsert, _rows(feedback))
    for record in records:
        if isinstance(record, Change):
            keep(connection, record)


def keep(connection: Connection, change: Change) -> None:
    """Write one version of an experiment. One that is there changes its state, never back to an earlier one;
    raises VersionTakenError where it defines something else."""
    insert = _insert(connection, VERSIONS).on_conflict_do_nothing().returning(VERSIONS.c.version)
    if connection.execute(insert, vars(change)).first() is not None:
        return
    same = (VERSIONS.c.name == change.name, VERSIONS.c.version == change.version)
    held = connection.execute(select(VERSIONS).where(*same).with_for_update()).one()
    if held.definition != change.definition:
        raise VersionTakenError(
            f"version {change.version} of experiment {change.name!r} is another server's change; "
            "look at the experiment again, then decide"
        )
    if RANK[change.state] >= RANK[held.state]:
        connection.execute(update(VERSIONS).where(*same).values(vars(change)))


def _count_units(connection: Connection, served: Iterable[Served]) -> None:
    # A shadowed answer was shown to nobody.
    seen = [record for record in served if not record.shadow]
    last: dict[tuple[str, int, str, str], float] = {}
    for record in seen:
        key = (record.experiment, record.version, record.arm, record.unit)
        last[key] = max(record.moment, last.get(key, record.moment))
    if not last:
        return
    names = [column.name for column in UNITS.primary_key]
    rows = [dict(zip(names, key, strict=True), last=moment) for key, moment in sorted(last.items())]
    insert = _insert(connection, UNITS)
    upsert = insert.on_conflict_do_update(
        index_elements=names, set_={"last": insert.excluded.last}, where=UNITS.c.last < insert.excluded.last
    )
    connection.execute(upsert, rows)


def _rows(records: Sequence[Served] | Sequence[Feedback]) -> list[dict[str, Any]]:
    return [vars(record) for record in records]


def _insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    # The two have the same ON CONFLICT, in classes of their own.
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
