"""
What shows that one credential is in two places, gathered from requests in the memory of one process.

Whatever a single machine can do must not count: a laptop that moves to another address, or to and fro between two; one
that has IPv4 and IPv6, or many addresses behind a NAT; one that is imaged anew, or set back to a snapshot.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import attrs

GRACE = 60.0
"""Seconds after an enrollment in which the key before may still be in use: in requests under way, and such."""
TURNS_WITHIN = 3600.0
"""Seconds in which keys have to take turns."""
MOST_SUSPECTS = 10_000

READ_TURNS = 4
"""So often two addresses have to take turns in beginning a read while the other's is held."""
READS_LOOKED_AT = 12
"""The reads in which that has to happen, in a process that sees all of them."""


@attrs.define
class _Keys:
    began_at: float
    is_other: bool = True
    turns: int = 0


@attrs.define
class KeysInTurn:
    """
    Node keys of which another than the newest is used, then the newest, then another again.

    A machine that enrolled anew never goes back to its key of before, unless it is set back to a snapshot, and then it
    does not go on with the newer one.
    """

    _suspects: OrderedDict[str, _Keys] = attrs.field(factory=OrderedDict, init=False)

    def used(self, node_id: str, key: float, newest: float, now: float) -> bool:
        """
        Note that a key was used; true once it is shown that there are two users.

        :param key: when it was issued; :param newest: when the newest of the node was.
        """
        is_other = key != newest
        suspect = self._suspects.get(node_id)
        if suspect and now - suspect.began_at > TURNS_WITHIN:
            del self._suspects[node_id]
            suspect = None
        if suspect is None:
            if is_other and now - max(key, newest) > GRACE:
                _bounded(self._suspects)
                self._suspects[node_id] = _Keys(now)
            return False
        if suspect.is_other != is_other:
            suspect.is_other = is_other
            suspect.turns += 1
        if suspect.turns < 2:
            return False
        del self._suspects[node_id]
        return True

    def __len__(self) -> int:
        return len(self._suspects)


@attrs.define
class _Reads:
    reads: int = 0
    turns: int = 0
    last: tuple[str, str] = ("", "")


@attrs.define
class ReadsAtOnce:
    """
    Distributed reads of one node that are held at one time for two addresses, in turns.

    osquery makes one read after the other, so a read that begins while another is held comes from another machine, or
    from the same one at a new address whose old connection has not been noticed to be dead.  That happens once for each
    move; two machines do it with almost every read.

    :ivar shares: how many processes serve the nodes; each sees that part of the reads.
    """

    shares: int = 1
    _held: dict[str, str] = attrs.field(factory=dict, init=False)
    _suspects: OrderedDict[str, _Reads] = attrs.field(factory=OrderedDict, init=False)

    def begin(self, node_id: str, address: str) -> tuple[str, str] | None:
        """Note that a read begins; answers with the two addresses once it is shown that there are two machines."""
        over = self._held.get(node_id, address)
        self._held[node_id] = address
        suspect = self._suspects.get(node_id)
        if suspect is None:
            if over == address:
                return None
            _bounded(self._suspects)
            suspect = self._suspects[node_id] = _Reads()
        suspect.reads += 1
        if over != address:
            suspect.turns += suspect.last == (over, address)
            suspect.last = (address, over)
        is_shown = suspect.turns >= READ_TURNS
        if is_shown or suspect.reads >= READS_LOOKED_AT * self.shares:
            del self._suspects[node_id]
        return (address, over) if is_shown else None

    def end(self, node_id: str, address: str) -> None:
        """Note that a read is over."""
        if self._held.get(node_id) == address:
            del self._held[node_id]

    def __len__(self) -> int:
        return len(self._suspects)


def _bounded(suspects: OrderedDict[str, Any]) -> None:
    if len(suspects) >= MOST_SUSPECTS:
        suspects.popitem(last=False)
