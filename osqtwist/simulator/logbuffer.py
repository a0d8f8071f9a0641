"""
A node's buffered log lines (buffered.cpp).

One scan takes at most ``max_lines`` lines of both types together, results first.  Lines are deleted when the server
acknowledged their batch, and never otherwise but by the purge past ``buffered_log_max``.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs


@attrs.define
class LogBuffer:
    """
    Lines that wait, and the numbers of those that were acknowledged.

    :ivar acknowledged: numbers of lines that the server promised to have.
    """

    max_lines: int = 1024
    buffered_max: int = 1_000_000
    results: deque[tuple[int, dict[str, Any]]] = attrs.field(factory=deque)
    statuses: deque[tuple[int, dict[str, Any]]] = attrs.field(factory=deque)
    acknowledged: list[int] = attrs.field(factory=list)
    generated: int = 0
    purged: int = 0

    def add(self, log_type: str, line: dict[str, Any]) -> int:
        """Keep a line; answers with its number."""
        self.generated += 1
        (self.results if log_type == "result" else self.statuses).append((self.generated, line))
        return self.generated

    def scan(self) -> dict[str, list[tuple[int, dict[str, Any]]]]:
        """The next batches, by log type; statuses starve while there are many results, as with the real client."""
        results = list(self.results)[: self.max_lines]
        statuses = list(self.statuses)[: self.max_lines - len(results)]
        return {name: lines for name, lines in (("result", results), ("status", statuses)) if lines}

    def delete(self, log_type: str, batch: list[tuple[int, dict[str, Any]]]) -> None:
        """The server has a batch."""
        lines = self.results if log_type == "result" else self.statuses
        for _ in batch:
            lines.popleft()
        self.acknowledged += [number for number, _ in batch]

    def purge(self) -> None:
        """Drop the oldest lines past the limit, as the client does after each try to send."""
        while len(self) > self.buffered_max:
            (self.results or self.statuses).popleft()
            self.purged += 1

    def __len__(self) -> int:
        return len(self.results) + len(self.statuses)
