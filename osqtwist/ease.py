"""
How nodes' habits follow the server's load.

Every request of osquery is a connection with a full handshake, so what a node costs is how often it comes.  When the
processes that serve nodes are busy, the options that say so are eased, a level at a time, and tightened again when
there is room.  Only options that osquery takes from its configuration while it runs are here (flags.cpp, tls.cpp,
distributed.cpp): ``config_refresh`` is not one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

RISE_AFTER = 60.0
FALL_AFTER = 300.0
"""Seconds that a level lasts at least, before the next one above or below."""
_ROOM = 0.8


@attrs.frozen
class EaseLevel:
    """
    One level.

    :ivar options: what osquery is told, unless the operator's own configuration sets it.
    :ivar share: the connections of a node, as a share of those at level 0: a read held for 10 s and asked for again
        after ``distributed_interval``, the config each minute, logs each ``logger_tls_period``.
    :ivar price: what it costs, for people.
    """

    options: Mapping[str, Any]
    share: float
    price: str


LEVELS = (
    EaseLevel({}, 1.0, "nothing"),
    EaseLevel({"logger_tls_period": 20}, 0.76, "log lines come up to 20 s late instead of 10"),
    EaseLevel({"logger_tls_period": 30}, 0.68, "log lines come up to 30 s late"),
    EaseLevel(
        {"logger_tls_period": 60, "distributed_interval": 5},
        0.48,
        "log lines come up to 60 s late, and a live query reaches a third of the nodes up to 5 s late",
    ),
)


class EaseRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The table ``[easing]`` of the settings.

    :ivar busy: for each level from 1 on the share of a processor, over a minute and of the processes that serve nodes
        on the average, from which it begins.
    """

    busy: tuple[float, ...] = (0.5, 0.65, 0.8)

    def __post_init__(self) -> None:
        if not 0 < len(self.busy) < len(LEVELS) or list(self.busy) != sorted(set(self.busy)) or self.busy[0] <= 0:
            raise ValueError(f"busy must be up to {len(LEVELS) - 1} numbers over 0, each larger than the one before")


def next_level(rule: EaseRule, level: int, lasted: float, busy: Sequence[float]) -> int:
    """
    The level from now on.

    It rises by one when the processes are busy, and falls by one only if they would not be busy even then.

    :param lasted: seconds since the level last changed.
    :param busy: of each process, the share of a processor.
    """
    if not busy:
        return level
    average = sum(busy) / len(busy)
    if level < len(rule.busy) and average >= rule.busy[level] and lasted >= RISE_AFTER:
        return level + 1
    if level > 0 and lasted >= FALL_AFTER:
        then = average * LEVELS[level - 1].share / LEVELS[level].share
        if then < rule.busy[level - 1] * _ROOM:
            return level - 1
    return level
