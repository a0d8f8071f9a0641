"""
The contract between alerts and their store.

As in :mod:`osqtwist.interfaces`: every method is a coroutine, and fails with ``StoreUnavailable`` or ``StoreFull``.
"""

from __future__ import annotations

import msgspec
from zope.interface import Interface


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """
    A time in which alerts are not told.

    :ivar rule: of which rule; empty for all.
    :ivar when: and of which lines, an expression; empty for all.
    :ivar until: Unix time.
    """

    silence_id: str
    rule: str = ""
    when: str = ""
    until: float
    created_at: float
    created_by: str
    why: str = ""


class IAlertStore(Interface):
    """Which alerts were told, and which are not to be."""

    async def claim(rule: str, group: str, alert_id: str, window: float) -> bool:
        """
        Whether to tell of an alert: the first of its group in this window, until it is :meth:`told`.

        Who dies before that finds it again with its line, and may tell it.

        :param rule: whose it is, and is counted for; empty for what is not of a rule, and not counted.
        """

    async def told(group: str, alert_id: str, window: float) -> None:
        """Note that a claimed alert is told."""

    async def keep_quiet(rule: str) -> None:
        """Count an alert that is not told because of a silence."""

    async def counts() -> dict[tuple[str, str], int]:
        """How many alerts of each rule were ``raised``, ``repeated`` (within a window) and ``silenced``."""

    async def silence(silence: Silence) -> None:
        """Keep a silence."""

    async def unsilence(silence_id: str) -> bool:
        """End one; false if there is none."""

    async def silences(now: float) -> list[Silence]:
        """Those that are in force, the first to end first."""
