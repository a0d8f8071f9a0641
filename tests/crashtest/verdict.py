"""What the crash test found."""

from __future__ import annotations

from collections import Counter

import attrs

from tests.crashtest.machine import Machine


@attrs.frozen
class SinkVerdict:
    """How a sink did, in lines."""

    sink: str
    received: int
    lost: int
    twice: int

    @property
    def share_twice(self) -> float:
        """Of what arrived, the share that had arrived before."""
        return self.twice / self.received if self.received else 0.0


def judge(machine: Machine, sink: str, acknowledged: set[tuple[str, int]]) -> SinkVerdict:
    """Compare what was acknowledged with what a sink has."""
    counted = Counter(machine.received(sink))
    received = counted.total()
    return SinkVerdict(sink, received, len(acknowledged - counted.keys()), received - len(counted))
