"""A deadline that is moved more often than it passes."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime


@attrs.define(eq=False)
class Deadline:
    """
    Calls back when a moment has passed that was set and neither moved nor lifted since.

    A connection passes through several phases in a millisecond, each with its own deadline.  The reactor is asked
    for one call; when it comes and the moment has moved, for another.

    :ivar on_passed: called once for a moment, by the reactor.
    """

    clock: IReactorTime
    on_passed: Callable[[], None]
    _moment: float | None = attrs.field(default=None, init=False)
    _asked_for: float = attrs.field(default=0.0, init=False)
    _call: IDelayedCall | None = attrs.field(default=None, init=False)

    def set(self, moment: float) -> None:
        """Set it, in place of the one before, to a moment of the clock."""
        self._moment = moment
        if self._call is None or moment < self._asked_for:
            self._ask(moment)

    def lift(self) -> None:
        """There is none for now."""
        self._moment = None

    def end(self) -> None:
        """There will be none any more: the reactor forgets it."""
        self._moment = None
        if self._call is not None:
            self._call.cancel()
            self._call = None
        # Whoever has this deadline would otherwise have itself.
        self.on_passed = _nothing

    def _ask(self, moment: float) -> None:
        if self._call is not None:
            self._call.cancel()
        self._asked_for = moment
        self._call = self.clock.callLater(max(0.0, moment - self.clock.seconds()), self._look)

    def _look(self) -> None:
        self._call = None
        if self._moment is None:
            return
        if self._moment > self.clock.seconds():
            self._ask(self._moment)
            return
        self._moment = None
        self.on_passed()


def _nothing() -> None:
    pass
