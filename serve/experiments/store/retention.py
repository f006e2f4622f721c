"""Deleting what has been kept long enough."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, Table, delete, select, tuple_

from serve.experiments.store.database import Database
from serve.experiments.store.tables import FEEDBACK, SERVED, UNITS

DAY = 86400.0
# Rows of one transaction: short ones, for others wait behind them on SQLite.
MOST = 1000
AGES: tuple[tuple[Table, Column[float]], ...] = (
    (SERVED, SERVED.c.moment),
    (FEEDBACK, FEEDBACK.c.moment),
    (UNITS, UNITS.c.last),
)


def purge(database: Database, before: float) -> Iterator[int]:
    """Delete responses and feedback from before a moment, and units not seen since, in batches; the rows of
    each batch as it is done. Versions of experiments stay. before: seconds since 1970.

    Raises StoreAwayError.
    """
    for table, age in AGES:
        keys = list(table.primary_key)
        # Another server may be at it: what it has locked is its.
        old = select(*keys).where(age < before).order_by(age).limit(MOST).with_for_update(skip_locked=True)
        while True:
            with database.writing() as connection:
                count = connection.execute(delete(table).where(tuple_(*keys).in_(old))).rowcount
            if count:
                yield count
            if count < MOST:
                break
