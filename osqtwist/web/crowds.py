"""
How many connections an address has, and may have.

Whole fleets sit behind one address, so the bound is wide: it is there so that one machine alone cannot take every
connection that a process may have.  Addresses of IPv6 count by their network (/64): a single machine has all of it.
"""

from __future__ import annotations

import functools
import ipaddress

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

_SAID_AGAIN = 60.0
_MOST_SAID = 1000


@attrs.define
class Crowds:
    """
    Counts connections by address.

    :ivar most: connections that one address may have; 0 for any number.
    """

    clock: IReactorTime
    most: int = 0
    _counts: dict[str, int] = attrs.field(factory=dict, init=False)
    _said: dict[str, float] = attrs.field(factory=dict, init=False)
    _log = Logger()

    def enter(self, address: str) -> bool:
        """Count a connection in, for which :meth:`leave` must follow; false if it must not be, and nothing follows."""
        crowd = crowd_of(address)
        count = self._counts.get(crowd, 0)
        if 0 < self.most <= count and crowd:
            self._tell(crowd, count)
            return False
        self._counts[crowd] = count + 1
        return True

    def leave(self, address: str) -> None:
        """A connection that entered is gone."""
        crowd = crowd_of(address)
        count = self._counts.get(crowd, 0) - 1
        if count > 0:
            self._counts[crowd] = count
        else:
            self._counts.pop(crowd, None)

    def _tell(self, crowd: str, count: int) -> None:
        now = self.clock.seconds()
        if now - self._said.get(crowd, -_SAID_AGAIN) < _SAID_AGAIN:
            return
        if len(self._said) >= _MOST_SAID:
            self._said.clear()
        self._said[crowd] = now
        self._log.warn(
            "connections of {crowd} are refused: it has {count}, as many as limits.connections_per_address says",
            crowd=crowd,
            count=count,
        )


@functools.lru_cache(maxsize=4096)
def crowd_of(address: str) -> str:
    """What an address is counted under; empty for what is none, such as a unix socket, which is not bounded."""
    address = address.removeprefix("::ffff:")
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
