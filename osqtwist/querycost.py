"""What a distributed query cost the nodes that answered it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NotRequired, TypedDict

import msgspec

from osqtwist.query import QueryResult

_MEASURES = ("wall_time_ms", "user_time", "system_time", "memory")


class ResultCost(msgspec.Struct, frozen=True, array_like=True):
    """
    What one result cost.

    :ivar elapsed: seconds from when the node was given the query to when its result was here; 0 if that is not known.
    :ivar wall_time_ms: milliseconds that the query took, as osquery says from 5.8.1 on; ``None`` of older ones.
    :ivar user_time: milliseconds of CPU, as :attr:`system_time`.
    :ivar memory: bytes by which osquery grew.
    """

    node_id: str
    node_name: str
    elapsed: float = 0.0
    wall_time_ms: float | None = None
    user_time: float | None = None
    system_time: float | None = None
    memory: float | None = None

    @classmethod
    def of(cls, result: QueryResult) -> ResultCost:
        """The cost of a result."""
        return cls(
            result.node_id, result.node_name, result.elapsed, *(result.stats.get(measure) for measure in _MEASURES)
        )


class Measured(TypedDict):
    """What so many nodes gave of one measure: together, in the middle, at most, and whose the most was."""

    nodes: int
    total: NotRequired[float]
    median: float
    max: float
    max_node: str


def summary(costs: Iterable[ResultCost]) -> dict[str, Measured]:
    """
    For each measure that some node gave: of how many nodes, the sum, the median, the most and whose that was.

    Seconds for ``elapsed``, which includes the way to the node and back; else osquery's units.
    """
    costs = list(costs)
    found: dict[str, Measured] = {}
    for measure in (*_MEASURES, "elapsed"):
        values = [(value, cost.node_name) for cost in costs if (value := getattr(cost, measure)) is not None]
        if measure == "elapsed":
            values = [each for each in values if each[0] > 0]
        if values:
            most, whose = max(values)
            median = statistics.median(value for value, _ in values)
            found[measure] = {"nodes": len(values), "median": median, "max": most, "max_node": whose}
            if measure != "elapsed":
                found[measure]["total"] = sum(value for value, _ in values)
    return found
