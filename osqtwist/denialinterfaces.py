"""
The contract between denials of certificates and their store.

As in :mod:`osqtwist.interfaces`: every method is a coroutine, and fails with ``StoreUnavailable`` or ``StoreFull``.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from zope.interface import Interface

from osqtwist.denial import Denial

MOST_DENIALS = 10_000
"""Denials that are kept."""


@attrs.frozen
class DenialList:
    """
    All denials.

    :ivar version: another text after each change; not a number, as a replica that takes over may have missed some.
    """

    version: str
    denials: Sequence[Denial] = ()


class IDenialStore(Interface):
    """Which certificates operators deny."""

    async def add(denial: Denial) -> bool:
        """Keep a denial; false if there are :data:`MOST_DENIALS` already."""

    async def remove(denial_ids: Sequence[str]) -> int:
        """Keep these no more; answers with how many there were."""

    async def changed(version: str) -> DenialList | None:
        """
        All of them, the oldest first; nothing if the version is still this one.  The first one is empty.

        :raise ListLost: the version is not empty, and that of the store is.
        """

    async def begin(denials: Sequence[Denial]) -> bool:
        """
        Begin the list with these, and with a version that is not empty, unless it has begun; false if it had.

        Nothing that is on it already is changed.
        """
