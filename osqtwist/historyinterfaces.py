"""
The contract between the history of figures and its store.

As in :mod:`osqtwist.interfaces`: every method is a coroutine, and fails with ``StoreUnavailable`` or ``StoreFull``.
"""

from __future__ import annotations

from collections.abc import Mapping

from zope.interface import Interface

from osqtwist.sample import Sample


class IHistoryStore(Interface):
    """Samples of figures, in several series."""

    async def add(sample: Sample, oldest: Mapping[str, float]) -> None:
        """Put a sample into each series that is named, and delete from it what is older than the time given."""

    async def since(series: str, at: float) -> list[Sample]:
        """The samples of a series from a time on, the oldest first."""
