"""How fast a sink takes lines, and what went wrong lately."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

_SPAN = 30.0


@attrs.define
class Pace:
    """Counts of one sink since its process started."""

    clock: IReactorTime
    since: float = attrs.field(init=False)
    lines: int = 0
    bytes: int = 0
    batches: int = 0
    left_out: int = 0
    refused: int = 0
    failures: int = 0
    last_trouble: str = ""
    trouble_at: float = 0.0
    _marks: list[tuple[float, int]] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.since = self.clock.seconds()
        self._marks = [(self.since, 0)]

    def took(self, lines: int, size: int) -> None:
        """The sink has so many more lines."""
        self.lines += lines
        self.bytes += size

    def trouble(self, text: str) -> None:
        """Something failed; it is tried again."""
        self.failures += 1
        self.last_trouble = text[:500]
        self.trouble_at = self.clock.seconds()

    def rate(self) -> float:
        """Lines a second over the last half minute; call it every few seconds."""
        now = self.clock.seconds()
        self._marks = [mark for mark in self._marks if now - mark[0] <= _SPAN] or self._marks[-1:]
        self._marks.append((now, self.lines))
        at, lines = self._marks[0]
        return (self.lines - lines) / (now - at) if now > at else 0.0
