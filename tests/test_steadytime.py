"""Timers do not go by a clock that somebody sets."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock

from osqtwist.metrics import Metrics
from osqtwist.steadytime import ClockWatch, steady


def test_a_reactor_keeps_its_timers_when_the_clock_is_set() -> None:
    """Back or forward: a call comes when its seconds have passed, those from before included."""
    reactor: Any = SelectReactor()
    passed = [1000.0]
    fired: list[str] = []
    reactor.callLater(5, fired.append, "before")
    loop = steady(reactor, lambda: passed[0])
    loop.callLater(3, fired.append, "after")
    for seconds, expected in ((2.9, []), (0.2, ["after"]), (1.7, ["after"]), (0.3, ["after", "before"])):
        passed[0] += seconds
        reactor.runUntilCurrent()
        assert fired == expected
    assert abs(loop.seconds() - time.time()) < 1
    assert IReactorTCP.providedBy(loop)
    assert IReactorTime.providedBy(loop)


def test_a_clock_that_was_set_is_counted() -> None:
    """Forward and back; small corrections, as NTP makes them, are not."""
    wall, passed, metrics = Clock(), [0.0], Metrics()
    watch = ClockWatch(wall, metrics, lambda: passed[0])
    watch.startService()
    for jump in (0.0, 0.5, 3600.0, 0.0, -7200.0):
        passed[0] += 1
        wall.rightNow += jump + 1
        watch.look()
    watch.stopService()
    counted = {
        sample.labels["direction"]: sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "osqtwist_clock_jumps_total"
    }
    assert counted == {"forward": 1, "back": 1}
