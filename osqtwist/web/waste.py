"""
What refused bodies have cost, by the address that they came from.

Anybody can send a body: who it is from is known only once it was read.  An address whose bodies were refused again and
again may send small ones only, until some time has passed: so strangers cannot have the server read large ones without
end, and honest nodes behind the same address lose nothing but a while.
"""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.web.crowds import crowd_of

RATE = 2**20
"""Bytes a second of refused bodies that are forgiven an address."""
BURST = 256 * 2**20
SMALL = 2**20
"""Bytes of a body that everybody may send."""
_MOST_ADDRESSES = 10_000


@attrs.define
class Waste:
    """Counts bytes of refused bodies, as they were once inflated."""

    clock: IReactorTime
    _by_address: dict[str, tuple[float, float]] = attrs.field(factory=dict, init=False)

    def add(self, address: str, size: int) -> None:
        """A body was refused."""
        if size <= SMALL:
            # Not worth an entry: each connection costs as much.
            return
        crowd, now = crowd_of(address), self.clock.seconds()
        left = self._left(crowd, now)
        if crowd not in self._by_address and len(self._by_address) >= _MOST_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]
        self._by_address[crowd] = (left + size, now)

    def most(self, address: str, limit: int) -> int:
        """How long a body from an address may be now, of the usual limit."""
        crowd = crowd_of(address)
        if crowd not in self._by_address:
            return limit
        left = self._left(crowd, self.clock.seconds())
        if not left:
            del self._by_address[crowd]
        return min(limit, SMALL) if left > BURST else limit

    def _left(self, crowd: str, now: float) -> float:
        wasted, at = self._by_address.get(crowd, (0.0, now))
        return max(0.0, wasted - (now - at) * RATE)
