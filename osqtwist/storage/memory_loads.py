"""How busy processes are, in memory, for tests and trials."""

from __future__ import annotations

import attrs
from zope.interface import implementer

from osqtwist.interfaces import LOAD_IS_OLD, ILoadStore, Load


@implementer(ILoadStore)
@attrs.define
class MemoryLoadStore:
    """See :class:`osqtwist.interfaces.ILoadStore`."""

    _level: int = 0
    _since: float = 0.0
    _said: dict[str, tuple[float, float]] = attrs.field(factory=dict)

    async def report(self, name: str, busy: float | None, now: float) -> Load:
        """See the interface."""
        if busy is not None:
            self._said[name] = (busy, now)
        self._said = {each: (share, at) for each, (share, at) in self._said.items() if now - at <= LOAD_IS_OLD}
        return Load(self._level, self._since, tuple(share for share, _ in self._said.values()))

    async def change(self, seen: Load, level: int, now: float) -> bool:
        """See the interface."""
        if seen.since != self._since:
            return False
        self._level, self._since = level, now
        return True
