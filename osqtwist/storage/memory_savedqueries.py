"""Saved queries in the memory of one process."""

from __future__ import annotations

import attrs
from zope.interface import implementer

from osqtwist.savedquery import SavedQuery
from osqtwist.savedqueryinterfaces import MOST_SAVED, ISavedQueryStore, Kept


@implementer(ISavedQueryStore)
@attrs.frozen
class MemorySavedQueryStore:
    """See :class:`osqtwist.savedqueryinterfaces.ISavedQueryStore`."""

    _saved: dict[str, SavedQuery] = attrs.field(factory=dict, init=False)

    async def keep(self, saved: SavedQuery, replace: bool) -> Kept:
        """See the interface."""
        if saved.name in self._saved:
            if not replace:
                return Kept.TAKEN
        elif len(self._saved) >= MOST_SAVED:
            return Kept.FULL
        self._saved[saved.name] = saved
        return Kept.KEPT

    async def get(self, name: str) -> SavedQuery | None:
        """See the interface."""
        return self._saved.get(name)

    async def all(self) -> list[SavedQuery]:
        """See the interface."""
        return [self._saved[name] for name in sorted(self._saved)]

    async def forget(self, name: str) -> bool:
        """See the interface."""
        return self._saved.pop(name, None) is not None
