"""Child processes that cannot even be started."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.task import Clock

from osqtwist.supervision import ChildProcess


class CrampedReactor(Clock):
    """Has no file descriptors left for a while."""

    attempts = 0

    def spawnProcess(self, *words: Any, **more: Any) -> Any:
        self.attempts += 1
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_child_that_cannot_be_started_is_tried_again() -> None:
    """No file descriptors, no memory, no processes left: each of them is for now."""
    clock, heard = CrampedReactor(), list[str]()
    child = ChildProcess(clock, "worker 1", ["/bin/true"], lambda: b"", on_event=heard.append)
    child.startService()
    clock.pump([0.5, 1.0])
    assert (clock.attempts, child.pid, heard) == (3, 0, ["died"] * 3)
    done = child.stopService()
    assert done.called
    clock.advance(60)
    assert clock.attempts == 3
