"""A deadline passes at its moment and at no other, however it is moved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from osqtwist.web.deadline import Deadline


@pytest.mark.parametrize(
    ("moves", "passes_at"),
    [
        ([(0, 5)], [5]),
        ([(0, 5), (1, 9)], [9]),
        ([(0, 5), (1, 2)], [2]),
        ([(0, 5), (1, 9), (6, 7)], [7]),
        ([(0, 5), (1, None)], []),
        ([(0, 5), (1, None), (2, 4)], [4]),
        ([(0, 5), (1, None), (6, 8)], [8]),
        ([(0, 5), (6, 8)], [5, 8]),
        ([(0, 5), (3, 1)], [3]),
    ],
)
def test_it_passes_when_it_should(moves: list[tuple[int, int | None]], passes_at: list[int]) -> None:
    """Set, moved later, moved earlier, lifted, and set again."""
    clock, passed = Clock(), list[float]()
    deadline = Deadline(clock, lambda: passed.append(clock.seconds()))
    for second in range(12):
        for at, moment in moves:
            if at == second:
                deadline.lift() if moment is None else deadline.set(moment)
        clock.advance(0)
        clock.advance(1)
    # Clock.advance shows the second that follows to what was due within it.
    assert [int(moment) for moment in passed] == passes_at
    deadline.end()
    assert not clock.getDelayedCalls()


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 20)), max_size=20))
def test_it_is_as_good_as_a_call_for_each_moment(steps: list[tuple[int, int | None]]) -> None:
    """Beside a plain delayed call that is cancelled and made again."""
    clock, ours, plain = Clock(), list[float](), list[float]()
    deadline = Deadline(clock, lambda: ours.append(clock.seconds()))
    call = None
    for wait, ahead in steps:
        for _ in range(wait):
            clock.advance(1)
        if call and call.active():
            call.cancel()
        if ahead is None:
            deadline.lift()
        else:
            deadline.set(clock.seconds() + ahead)
            call = clock.callLater(ahead, lambda: plain.append(clock.seconds()))
    for _ in range(25):
        clock.advance(1)
    assert ours == plain


def test_at_its_end_nothing_is_left() -> None:
    """Not even what was asked of the reactor."""
    clock, passed = Clock(), list[float]()
    deadline = Deadline(clock, lambda: passed.append(clock.seconds()))
    deadline.set(5)
    deadline.set(9)
    deadline.end()
    deadline.end()
    assert not clock.getDelayedCalls()
    clock.advance(20)
    assert passed == []
