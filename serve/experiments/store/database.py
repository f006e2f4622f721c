"""The database behind a URL: SQLite in a file, or PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from compress.errors import InputError
from serve.experiments.store.errors import StoreAwayError
from serve.experiments.store.upgrade import upgrade

# Seconds that a writer waits for another one's transaction, and a request for a free connection.
PATIENCE = 5.0
# For connections of PostgreSQL, where the URL says nothing else: a server that has vanished without closing
# its connections must not hold a thread for the hours that TCP would.
POSTGRESQL = {
    "connect_timeout": "5",
    "keepalives_idle": "30",
    "tcp_user_timeout": "30000",
    "application_name": "twinserve",
}


class Database:
    """Connections, to a schema of this version from the first one on. Errors name no values of records."""

    def __init__(self, url: str) -> None:
        """Raises InputError for a URL that names no database we know; does not connect."""
        self.url = _parsed(url)
        self._upgraded = False
        self._lock = threading.Lock()
        self._engine = _sqlite(self.url) if self.embedded else _postgresql(self.url)

    @property
    def embedded(self) -> bool:
        """Whether it is a file of this machine's."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def name(self) -> str:
        """For people; without passwords, of which a query may have one, too."""
        return self.url.set(drivername=self.url.get_backend_name(), query={}).render_as_string()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes. Raises StoreAwayError; InputError as ``upgrade``."""
        with self._answering():
            self._ensure()
            with self._engine.execution_options(begin="IMMEDIATE").begin() as connection:
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads. Raises StoreAwayError; InputError as ``upgrade``."""
        with self._answering():
            self._ensure()
            with self._engine.begin() as connection:
                yield connection

    def close(self) -> None:
        self._engine.dispose()

    def _ensure(self) -> None:
        with self._lock:
            if not self._upgraded:
                with self._engine.execution_options(begin="IMMEDIATE").begin() as connection:
                    upgrade(connection, self.name)
                self._upgraded = True

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise StoreAwayError(f"the database {self.name} does not answer: {_said(error)}") from error


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InputError(
            "the URL of the experiments' database cannot be read; write sqlite:////folder/file.db or "
            "postgresql://user:password@host/name"
        ) from error
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:" or "memory" in str(url.query.get("mode", "")):
            raise InputError(
                "experiments need a database that lasts; name a file, as sqlite:////folder/file.db"
            )
        return url.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise InputError(f"experiments are stored in sqlite or postgresql, not in {backend!r}; give another URL")


def _sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be made for experiments: {error.strerror}") from error
    engine = create_engine(
        url, connect_args={"timeout": PATIENCE}, pool_timeout=PATIENCE, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        # Python's driver would begin transactions late, and not at all before DDL.
        connection.isolation_level = None
        # A readers' snapshot beside one writer. FULL: the spool forgets what this has committed.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A transaction that reads first and then writes cannot wait for another writer: it would fail.
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")

    return engine


def _postgresql(url: URL) -> Engine:
    given = {key: value for key, value in POSTGRESQL.items() if key not in url.query}
    try:
        return create_engine(
            url, connect_args=given, pool_pre_ping=True, pool_timeout=PATIENCE, hide_parameters=True
        )
    except (ImportError, NoSuchModuleError) as error:
        raise InputError(
            "experiments in PostgreSQL need its driver; install it with pip install 'twinserve[postgres]'"
        ) from error


def _said(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    # What follows the first line are guesses for people who start servers by hand.
    return next(iter(str(cause).splitlines()), type(cause).__name__).strip().rstrip(".")


def is_about_the_data(error: sqlalchemy.exc.SQLAlchemyError) -> bool:
    """Whether the database takes others, but never these rows: a value that it cannot hold."""
    if isinstance(error, sqlalchemy.exc.DataError | sqlalchemy.exc.IntegrityError):
        return True
    # Class 54: a limit of the program is exceeded, as an index's row size.
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return bool(state and state.startswith("54"))
