"""
The contract between saved queries and their store.

As in :mod:`osqtwist.interfaces`: every method is a coroutine, and fails with ``StoreUnavailable`` or ``StoreFull``.
"""

from __future__ import annotations

import enum

from zope.interface import Interface

from osqtwist.savedquery import SavedQuery

MOST_SAVED = 1000
"""Saved queries that are kept."""


class Kept(enum.Enum):
    """What became of a wish to keep one."""

    KEPT = "kept"
    TAKEN = "taken"
    """There is one of that name."""
    FULL = "full"
    """There are :data:`MOST_SAVED`."""


class ISavedQueryStore(Interface):
    """Queries that operators keep under a name."""

    async def keep(saved: SavedQuery, replace: bool) -> Kept:
        """Keep one; in the place of the one of that name only if told so."""

    async def get(name: str) -> SavedQuery | None:
        """The one of that name."""

    async def all() -> list[SavedQuery]:
        """All of them, by name."""

    async def forget(name: str) -> bool:
        """Keep it no more; false if there was none."""
