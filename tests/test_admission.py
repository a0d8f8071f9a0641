"""Admission of log posts: a node that floods is told to wait, and the others are not."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from osqtwist import admission as module
from osqtwist.admission import Admission, NotNow


def make(rate: float = 100.0, burst: float = 1000.0, max_under_way: int = 10**9) -> tuple[Clock, Admission]:
    clock = Clock()
    return clock, Admission(clock, rate, burst, max_under_way)


def is_taken(admission: Admission, node: str, size: int) -> bool:
    try:
        admission.enter(node, size)
    except NotNow:
        return False
    admission.leave(size)
    return True


def test_a_node_posts_its_burst_and_then_its_rate() -> None:
    """One that has been silent may catch up; on average it keeps to the rate."""
    clock, admission = make()
    assert [is_taken(admission, "a", 500) for _ in range(3)] == [True, True, False]
    clock.advance(1)
    assert is_taken(admission, "a", 500)
    assert not is_taken(admission, "a", 1)
    clock.advance(4.1)
    assert is_taken(admission, "a", 1)


def test_no_post_is_too_large_for_ever() -> None:
    """A debt is paid off in time; a post that could never be taken would block its node."""
    clock, admission = make()
    assert is_taken(admission, "a", 5000)
    assert not is_taken(admission, "a", 5000)
    clock.advance(41)
    assert is_taken(admission, "a", 5000)


def test_one_node_does_not_touch_another() -> None:
    """Buckets are each node's own."""
    _, admission = make()
    while is_taken(admission, "loud", 700):
        pass
    assert is_taken(admission, "quiet", 700)


def test_under_pressure_the_loud_wait_first() -> None:
    """From half full on the rate shrinks; a node that sends little still gets through."""
    clock, admission = make()
    outcomes: dict[float, list[bool]] = {}
    for fill in (0.0, 0.9):
        admission.fill = fill
        clock.advance(10_000)
        is_taken(admission, "loud", 1000)
        outcomes[fill] = []
        for _ in range(20):
            clock.advance(1)
            outcomes[fill].append(is_taken(admission, "loud", 100))
            assert is_taken(admission, f"quiet-{fill}", 5)
    assert sum(outcomes[0.0]) > 15
    assert sum(outcomes[0.9]) < 8


def test_bytes_under_way_are_bounded() -> None:
    """What is being stored at one time; a single post always may."""
    _, admission = make(rate=0.0, max_under_way=1000)
    admission.enter("a", 5000)
    with pytest.raises(NotNow, match="at once"):
        admission.enter("b", 1)
    admission.leave(5000)
    admission.enter("b", 600)
    with pytest.raises(NotNow):
        admission.enter("c", 600)
    admission.leave(600)
    admission.enter("c", 600)
    admission.leave(600)


def test_no_rate_is_no_limit() -> None:
    """0 switches it off."""
    _, admission = make(rate=0.0)
    assert all(is_taken(admission, "a", 10**6) for _ in range(100))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that are back at their burst are forgotten first."""
    monkeypatch.setattr(module, "_MAX_BUCKETS", 10)
    clock, admission = make()
    is_taken(admission, "debtor", 3000)
    for number in range(50):
        clock.advance(1)
        assert is_taken(admission, str(number), 10)
        assert len(admission._buckets) <= 10
    assert "debtor" in admission._buckets or clock.seconds() > 30
