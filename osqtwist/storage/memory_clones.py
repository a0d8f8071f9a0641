"""Clones in the memory of one process."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from zope.interface import implementer

from osqtwist.clone import Clone
from osqtwist.interfaces import MOST_CLONES, ICloneStore


@implementer(ICloneStore)
@attrs.define
class MemoryCloneStore:
    """See :class:`osqtwist.interfaces.ICloneStore`."""

    _clones: dict[str, Clone] = attrs.field(factory=dict, init=False)

    async def keep(self, clone: Clone) -> bool:
        """See :class:`osqtwist.interfaces.ICloneStore`."""
        old = self._clones.get(clone.clone_id)
        if old is None and len(self._clones) >= MOST_CLONES:
            return False
        was_found = old is not None and bool(old.found_at)
        if clone.found_at or not was_found:
            self._clones[clone.clone_id] = clone
        return bool(clone.found_at) and not was_found

    async def all(self) -> list[Clone]:
        """See :class:`osqtwist.interfaces.ICloneStore`."""
        return list(self._clones.values())

    async def drop(self, clone_ids: Sequence[str]) -> None:
        """See :class:`osqtwist.interfaces.ICloneStore`."""
        for clone_id in clone_ids:
            self._clones.pop(clone_id, None)
