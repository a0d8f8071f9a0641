"""
Distributed queries: what is asked, of whom, and what came back.

A query is stored once, with its target.  A node takes it under a *lease*; if no result comes before the lease
ends it is offered again, up to :attr:`DistributedQuery.max_attempts` times.  A node's result counts once.

A query that may do harm is kept *waiting*: nobody is offered it until a second person approves of it.
"""

from __future__ import annotations

import enum
import secrets
import time
from typing import Literal

import attrs
import msgspec

from osqtwist.targeting import Target

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_DAY = 86400.0

QueryState = Literal["waiting", "scheduled", "open", "expired", "cancelled"]


class NotWaiting(Exception):
    """A query needs nobody's approval, or not any more."""


class OwnQuery(Exception):
    """Whoever issued a query cannot be the one who approves of it."""


class DistributedQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One distributed query.

    :ivar query_id: its name on the wire too, hence unique and printable (see :func:`new_query_id`).
    :ivar discovery: a query that must give a row on the node before :attr:`sql` runs there, or nothing.
    :ivar expires_at: Unix time after which no node is offered it.  Results of nodes that took it count even then.
    :ivar opens_at: Unix time before which no node is offered it.
    :ivar lasts: how many seconds it is open; from its approval, if that comes later than :attr:`opens_at`.  0 where
        its end was given as a time.
    :ivar lease: seconds a node has to answer before the query is offered to it again.
    :ivar max_attempts: how often one node is offered it at most.
    :ivar max_results_bytes: rows past this many bytes, over all nodes, are not kept; the answers still count.
    :ivar max_results_rows: the same for the number of rows.
    :ivar keep: seconds after :attr:`expires_at` at which the query and its results are deleted.
    :ivar created_by: who issued it.
    :ivar dangers: what in it may do harm, each a few words; see :mod:`osqtwist.liverules`.
    :ivar is_waiting: whether nobody is offered it before somebody else approves of it.
    :ivar approved_by: who did, at :attr:`approved_at`.
    :ivar cancelled_at: Unix time at which somebody called it off, or 0.
    """

    query_id: str
    sql: str
    target: Target
    created_at: float
    expires_at: float
    opens_at: float = 0.0
    lasts: float = 0.0
    discovery: str = ""
    created_by: str = ""
    lease: float = 30.0
    max_attempts: int = 3
    max_results_bytes: int = 256 * 2**20
    max_results_rows: int = 1_000_000
    keep: float = 7 * _DAY
    dangers: tuple[str, ...] = ()
    is_waiting: bool = False
    approved_by: str = ""
    approved_at: float = 0.0
    cancelled_at: float = 0.0

    def state(self, now: float) -> QueryState:
        """How it stands."""
        if self.cancelled_at:
            return "cancelled"
        if now >= self.expires_at:
            return "expired"
        if self.is_waiting:
            return "waiting"
        return "open" if now >= self.opens_at else "scheduled"

    def is_open(self, now: float) -> bool:
        """Whether nodes are offered it."""
        return self.opens_at <= now < self.expires_at and not self.cancelled_at and not self.is_waiting

    def is_over(self, now: float) -> bool:
        """Whether no node will be offered it any more."""
        return bool(self.cancelled_at) or now >= self.expires_at

    def approved(self, by: str, now: float) -> DistributedQuery:
        """
        The same, with somebody's approval.

        :raise NotWaiting: it needs none.
        :raise OwnQuery: that is who issued it.
        """
        if self.state(now) != "waiting":
            raise NotWaiting(f"the query {self.query_id} is {self.state(now)}, it does not wait for approval")
        if not by or by == self.created_by:
            raise OwnQuery(f"{by or 'somebody unknown'} issued the query {self.query_id}: somebody else must approve")
        expires_at = max(now, self.opens_at) + self.lasts if self.lasts else self.expires_at
        return msgspec.structs.replace(self, is_waiting=False, approved_by=by, approved_at=now, expires_at=expires_at)


class QueryResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What one node answered to one query.

    :ivar status: osquery's code: 0 is good.
    :ivar message: osquery's text for a status that is not 0.
    :ivar rows: a JSON array of objects, column to string, in the order of the SELECT, as the node sent it.
    :ivar stats: what the query cost the node: ``wall_time_ms``, ``user_time``, ``system_time``, ``memory``.
    :ivar row_count: how many rows it sent.
    :ivar rows_dropped: whether the rows were left out because the query had reached a limit.
    :ivar elapsed: seconds from when the node was given the query to when its result was here; 0 if that is not known.
        Set by the store.
    """

    query_id: str
    node_id: str
    node_name: str
    received_at: float
    status: int = 0
    message: str = ""
    rows: msgspec.Raw = msgspec.Raw(b"[]")
    stats: dict[str, int | float] = {}
    row_count: int = 0
    rows_dropped: bool = False
    elapsed: float = 0.0


class Offer(enum.Enum):
    """What became of a node's wish to take a query."""

    TAKEN = "taken"
    """The node has it now, under a lease."""
    LEASED = "leased"
    """The node was given it before, and its lease still runs."""
    ANSWERED = "answered"
    """The node's result is in."""
    EXHAUSTED = "exhausted"
    """The node was offered it as often as allowed and never answered."""
    CLOSED = "closed"
    """The query is unknown, cancelled, expired, not open yet, or waiting for approval."""
    LEFT = "left"
    """The node was given as many others as it can have at one time."""


@attrs.frozen
class Taken:
    """The outcome of one offer; :attr:`lease_ends_at` is 0 unless a lease runs."""

    offer: Offer
    lease_ends_at: float = 0.0


class QueryProgress(msgspec.Struct, frozen=True):
    """
    How far a query has come.

    :ivar offered: nodes that took it at least once.
    :ivar answered: nodes whose result is in, of which :attr:`failed` had a status other than 0.
    :ivar results_bytes: the size of all rows kept, :attr:`results_rows` their number.
    """

    offered: int = 0
    answered: int = 0
    failed: int = 0
    results_bytes: int = 0
    results_rows: int = 0


def new_query_id(now: float | None = None) -> str:
    """A new id: sorted by time, unguessable enough not to repeat, safe in a key, a path and osquery's database."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    letters = []
    for _ in range(9):
        milliseconds, digit = divmod(milliseconds, 32)
        letters.append(_ALPHABET[digit])
    return "q" + "".join(reversed(letters)) + "".join(secrets.choice(_ALPHABET) for _ in range(6))
