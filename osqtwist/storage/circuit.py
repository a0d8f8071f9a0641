"""
The circuit breaker of a connection to Redis.

A call to a store that is known to be away fails at once: a node that waits for it would wait for nothing, and so would
everybody behind it.  A store that answers a PING may still hang on everything else (a slow disk, a path that loses
large packets), so after a call that was not answered in time only a few are let through until one of them is answered.
"""

from __future__ import annotations

from typing import Literal

import attrs

from osqtwist.metrics import StoreMetrics

AT_ONCE_ON_TRIAL = 8
"""Calls under way at one time while it is not known whether any will be answered."""

State = Literal["shut off", "on trial", "closed"]


@attrs.define(eq=False)
class Circuit:
    """
    Whether calls go through, and what is counted of that.

    :ivar server: what the server is called in metrics.
    :ivar most: calls that may be under way at one time.
    :ivar state: ``closed`` as current flows; ``on trial``: some calls go through; ``shut off``: none does.
    """

    server: str
    metrics: StoreMetrics | None = None
    most: int = 10_000
    on_trial: int = AT_ONCE_ON_TRIAL
    state: State = attrs.field(default="shut off", init=False)
    _is_counted: bool = attrs.field(default=False, init=False)
    _was_too_late: bool = attrs.field(default=False, init=False)

    def begin(self) -> None:
        """Count as shut off from now on: a connection is wanted."""
        if self.state == "shut off":
            self._count(True)

    def end(self) -> None:
        """Count no more: no connection is wanted."""
        self.state = "shut off"
        self._count(False)

    def connected(self) -> None:
        """Let calls through: a few if the last connection was given up because of one that was not answered."""
        self.state = "on trial" if self._was_too_late else "closed"
        self._count(False)

    def answered(self) -> None:
        """A call was answered in time."""
        self._was_too_late = False
        self.state = "closed"

    def too_late(self) -> None:
        """A call was not."""
        self._was_too_late = True
        if self.metrics:
            self.metrics.timeouts.labels(server=self.server).inc()

    def lost(self) -> None:
        """There is no connection."""
        self.state = "shut off"
        self._count(True)

    def refusal(self, under_way: int) -> str:
        """Why a call must not go through now; nothing if it may."""
        if self.state == "shut off":
            return self._refused("away", "does not answer")
        if under_way >= self.most:
            return self._refused("behind", "is behind: too many commands under way")
        if self.state == "on trial" and under_way >= self.on_trial:
            return self._refused("trial", "did not answer in time; it is being tried again")
        return ""

    def _refused(self, why: str, text: str) -> str:
        if self.metrics:
            self.metrics.calls_refused.labels(server=self.server, why=why).inc()
        return text

    def _count(self, is_off: bool) -> None:
        if is_off != self._is_counted and self.metrics:
            self._is_counted = is_off
            gauge = self.metrics.connections_down.labels(server=self.server)
            if is_off:
                gauge.inc()
            else:
                gauge.dec()
