"""
Entries of the audit trail: what operators did, or tried to.

Each entry has the hash of the one before in its own, so none can be changed, left out or put in without it showing
from there on.  Who can write to the store can still make up a whole trail anew; the newest hash, noted elsewhere now
and then, gives that away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

NO_ENTRY = "0" * 64
"""What the first entry has in the place of a hash before it."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """
    One of them.

    :ivar number: counts from 1.
    :ivar at: Unix time.
    :ivar actor: who, as the operators' socket knows: the name of the user at the other end.
    :ivar action: method and path.
    :ivar detail: the body, as far as it is short.
    :ivar outcome: ``begun``, written before anything is done, or why it was refused, written after.
    :ivar hash: over all this and :attr:`previous`, the hash of the entry before.
    """

    number: int
    at: float
    actor: str
    action: str
    detail: str
    outcome: str
    previous: str = NO_ENTRY
    hash: str = ""

    def chained(self, number: int, previous: str) -> AuditEntry:
        """The same at its place in the trail."""
        placed = msgspec.structs.replace(self, number=number, previous=previous, hash="")
        return msgspec.structs.replace(placed, hash=placed.digest())

    def digest(self) -> str:
        """What :attr:`hash` has to be."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, hash=""))).hexdigest()


def first_break(entries: Iterable[AuditEntry], previous: str = "", number: int = 0) -> int:
    """
    The number of the first entry that does not follow from the one before it, or 0.

    :param previous: the hash before the first one; if empty, whatever that says.
    :param number: and its number.
    """
    for entry in entries:
        if entry.hash != entry.digest() or (previous and (entry.previous, entry.number) != (previous, number + 1)):
            return entry.number
        previous, number = entry.hash, entry.number
    return 0
