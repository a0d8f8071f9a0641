"""Denials of certificates in the memory of one process."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from zope.interface import implementer

from osqtwist.denial import Denial
from osqtwist.denialinterfaces import MOST_DENIALS, DenialList, IDenialStore


@implementer(IDenialStore)
@attrs.define
class MemoryDenialStore:
    """See :class:`osqtwist.denialinterfaces.IDenialStore`."""

    _denials: dict[str, Denial] = attrs.field(factory=dict, init=False)
    _version: int = attrs.field(default=0, init=False)

    async def add(self, denial: Denial) -> bool:
        """See the interface."""
        if denial.denial_id not in self._denials and len(self._denials) >= MOST_DENIALS:
            return False
        self._denials[denial.denial_id] = denial
        self._version += 1
        return True

    async def remove(self, denial_ids: Sequence[str]) -> int:
        """See the interface."""
        found = [each for each in denial_ids if self._denials.pop(each, None)]
        self._version += bool(found)
        return len(found)

    async def changed(self, version: str) -> DenialList | None:
        """See the interface."""
        current = str(self._version or "")
        if version == current:
            return None
        return DenialList(current, sorted(self._denials.values(), key=lambda each: (each.created_at, each.denial_id)))

    async def begin(self, denials: Sequence[Denial]) -> bool:
        """See the interface; memory does not come back without its data."""
        return False
