"""A look that is taken again and again outlives what one of them raises."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from osqtwist.steadyloop import steady_loop


def test_it_goes_on_after_an_exception_and_says_what_failed() -> None:
    """At the next time, whether the look is a function or a coroutine."""
    clock, looks, said = Clock(), list[str](), list[str]()

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "osqtwist.steadyloop":
            said.append(str(event["log_format"]).format(**event))

    def plain() -> None:
        looks.append("plain")
        raise ValueError("no")

    async def waiting() -> None:
        looks.append("waiting")
        raise ValueError("no")

    globalLogPublisher.addObserver(observe)
    loops = [steady_loop(clock, "files", plain), steady_loop(clock, "lists", waiting)]
    for loop in loops:
        loop.start(1.0)
    clock.pump([1.0, 1.0])
    globalLogPublisher.removeObserver(observe)
    assert looks == ["plain", "waiting"] * 3
    assert said.count("a look at files failed; it is looked at again") == 3
    assert said.count("a look at lists failed; it is looked at again") == 3
    for loop in loops:
        loop.stop()
    assert clock.getDelayedCalls() == []


def test_the_next_look_waits_for_the_one_before() -> None:
    """A store that takes its time is asked once."""
    clock, answer, looks = Clock(), Deferred[None](), list[int]()

    async def look() -> None:
        looks.append(1)
        await answer

    loop = steady_loop(clock, "the store", look)
    loop.start(1.0)
    clock.pump([1.0] * 5)
    assert len(looks) == 1
    answer.callback(None)
    clock.pump([1.0] * 2)
    assert len(looks) == 3
    loop.stop()
