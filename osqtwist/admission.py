"""
Admission of log posts: no node starves the rest, and a flood of backlogs does not exhaust memory.

Each node has a bucket of bytes that fills at a steady rate; a post is admitted while there is anything in it, and may
leave a debt, so that no post is too large for ever.  While the log buffer is more than half full the rate shrinks, and
is nothing when it is full: then a node that sends little gets through, and one that sends much is told to wait.
"""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

_PRESSURE_FROM = 0.5
_MAX_BUCKETS = 100_000


class NotNow(Exception):
    """The post is not taken now, though it might be later; the node keeps its lines.  The text says why."""


@attrs.define
class _Bucket:
    level: float
    at: float


@attrs.define
class Admission:
    """
    Says which log posts are taken.

    :ivar rate: bytes a second that a node may post on average; 0 for no limit.
    :ivar burst: bytes that it may post at once after a silence.
    :ivar max_under_way: bytes of all posts that are being stored at one time.
    :ivar fill: how full the log buffer is, from 0 to 1; set by whoever looks.
    """

    clock: IReactorTime
    rate: float
    burst: float
    max_under_way: int
    fill: float = 0.0
    _buckets: dict[str, _Bucket] = attrs.field(factory=dict, init=False)
    _under_way: int = attrs.field(default=0, init=False)

    def enter(self, node_id: str, size: int) -> None:
        """
        Count a post in; :meth:`leave` must follow.

        :raise NotNow: it is not taken, and nothing follows.
        """
        if self._under_way and self._under_way + size > self.max_under_way:
            raise NotNow("too many log posts at once; try again")
        if self.rate:
            bucket = self._bucket(node_id)
            if bucket.level <= 0:
                raise NotNow("this node posts more logs than its share; try again")
            bucket.level -= size
        self._under_way += size

    def leave(self, size: int) -> None:
        """A post that entered is stored or refused."""
        self._under_way -= size

    def _bucket(self, node_id: str) -> _Bucket:
        now = self.clock.seconds()
        ease = min(1.0, max(0.0, (1 - self.fill) / (1 - _PRESSURE_FROM)))
        # Never quite nothing: a debt must end some day, whatever the buffer does.
        rate, burst = self.rate * max(ease, 0.01), max(self.burst * ease, self.rate)
        bucket = self._buckets.get(node_id)
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                self._forget_full(now)
            bucket = self._buckets[node_id] = _Bucket(burst, now)
        else:
            bucket.level = min(burst, bucket.level + max(0.0, now - bucket.at) * rate)
            bucket.at = now
        return bucket

    def _forget_full(self, now: float) -> None:
        self._buckets = {
            node_id: bucket
            for node_id, bucket in self._buckets.items()
            if bucket.level + (now - bucket.at) * self.rate < self.burst
        }
        while len(self._buckets) >= _MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
