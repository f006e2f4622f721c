"""Why the store cannot do now what it is asked; each message is one sentence for people."""

from __future__ import annotations


class StoreError(RuntimeError):
    """The store cannot do it now; the same may work later."""


class StoreFullError(StoreError):
    """A record cannot be kept: the spool has reached its bound, or its disk is full."""


class StoreAwayError(StoreError):
    """The database does not answer."""


class VersionTakenError(StoreError):
    """Another server has made something else of this version of an experiment: look at it again."""
