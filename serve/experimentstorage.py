"""The store of an endpoint's experiments, opened where there can be any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.serversettings import ServerSettings

if TYPE_CHECKING:
    from serve.experiments.store.store import Store


def open_storage(settings: ServerSettings) -> Store | None:
    """The store, or None where no experiment can ever begin: none is declared, and there is no admin key to
    start one with. Raises InputError as ``Store.open``."""
    if settings.experiments.file is None and settings.security.admin_key is None:
        return None
    # SQLAlchemy takes a while to import, and memory.
    from serve.experiments.store.store import Store

    kept = settings.experiments.store
    return Store.open(kept.location, kept.folder, bound=int(kept.spool), retention=kept.retention)
