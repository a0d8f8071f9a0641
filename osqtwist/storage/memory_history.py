"""Samples of figures in memory, for tests and trials."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from zope.interface import implementer

from osqtwist.historyinterfaces import IHistoryStore
from osqtwist.sample import Sample


@implementer(IHistoryStore)
@attrs.frozen
class MemoryHistoryStore:
    """See :class:`osqtwist.historyinterfaces.IHistoryStore`."""

    _series: dict[str, list[Sample]] = attrs.field(factory=dict, init=False)

    async def add(self, sample: Sample, oldest: Mapping[str, float]) -> None:
        """See the interface."""
        for name, at in oldest.items():
            kept = [each for each in self._series.get(name, []) if each.at >= at]
            self._series[name] = sorted([*kept, sample], key=lambda each: each.at)

    async def since(self, series: str, at: float) -> list[Sample]:
        """See the interface."""
        return [each for each in self._series.get(series, []) if each.at >= at]
