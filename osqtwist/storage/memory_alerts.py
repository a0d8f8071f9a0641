"""Alerts in memory, for tests and trials."""

from __future__ import annotations

from collections import Counter

import attrs
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from osqtwist.alertinterfaces import IAlertStore, Silence


@implementer(IAlertStore)
@attrs.frozen
class MemoryAlertStore:
    """See :class:`osqtwist.alertinterfaces.IAlertStore`."""

    _clock: IReactorTime
    _told: dict[str, tuple[str, float]] = attrs.field(factory=dict, init=False)
    _counts: Counter[tuple[str, str]] = attrs.field(factory=Counter, init=False)
    _silences: dict[str, Silence] = attrs.field(factory=dict, init=False)

    async def claim(self, rule: str, group: str, alert_id: str, window: float) -> bool:
        """See the interface."""
        now = self._clock.seconds()
        group = group if window else alert_id
        told, until = self._told.get(group, ("", 0.0))
        if until > now:
            self._counts[rule, "repeated"] += bool(rule) and told.removesuffix("?") != alert_id
            return told == f"{alert_id}?"
        self._told[group] = (f"{alert_id}?", now + (window or 60.0))
        self._counts[rule, "raised"] += bool(rule)
        return True

    async def told(self, group: str, alert_id: str, window: float) -> None:
        """See the interface."""
        group = group if window else alert_id
        if group in self._told:
            self._told[group] = (alert_id, self._told[group][1])

    async def keep_quiet(self, rule: str) -> None:
        """See the interface."""
        self._counts[rule, "silenced"] += 1

    async def counts(self) -> dict[tuple[str, str], int]:
        """See the interface."""
        return {key: count for key, count in self._counts.items() if count}

    async def silence(self, silence: Silence) -> None:
        """See the interface."""
        self._silences[silence.silence_id] = silence

    async def unsilence(self, silence_id: str) -> bool:
        """See the interface."""
        return self._silences.pop(silence_id, None) is not None

    async def silences(self, now: float) -> list[Silence]:
        """See the interface."""
        for over in [each.silence_id for each in self._silences.values() if each.until <= now]:
            del self._silences[over]
        return sorted(self._silences.values(), key=lambda each: each.until)
