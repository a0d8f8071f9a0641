"""
Distributed queries: what is asked, of whom, and what came back.

A query is stored once, with its target.  A node takes it under a *lease*; if no result comes before the lease
ends it is offered again, up to :attr:`DistributedQuery.max_attempts` times.  A node's result counts once.
"""

from __future__ import annotations

import enum
import secrets
import time

import attrs
import msgspec

from osqtwist.targeting import Target

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class DistributedQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One distributed query.

    :ivar query_id: its name on the wire too, hence unique and printable (see :func:`new_query_id`).
    :ivar discovery: a query that must give a row on the node before :attr:`sql` runs there, or nothing.
    :ivar expires_at: Unix time after which no node is offered it.  Results of nodes that took it count even then.
    :ivar lease: seconds a node has to answer before the query is offered to it again.
    :ivar max_attempts: how often one node is offered it at most.
    :ivar max_results_bytes: rows past this many bytes, over all nodes, are not kept; the answers still count.
    :ivar cancelled_at: Unix time at which somebody called it off, or 0.
    """

    query_id: str
    sql: str
    target: Target
    created_at: float
    expires_at: float
    discovery: str = ""
    created_by: str = ""
    lease: float = 30.0
    max_attempts: int = 3
    max_results_bytes: int = 256 * 2**20
    cancelled_at: float = 0.0

    def is_open(self, now: float) -> bool:
        """Whether nodes are still offered it."""
        return not self.cancelled_at and now < self.expires_at


class QueryResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What one node answered to one query.

    :ivar status: osquery's code: 0 is good.
    :ivar message: osquery's text for a status that is not 0.
    :ivar rows: a JSON array of objects, column to string, in the order of the SELECT, as the node sent it.
    :ivar stats: what the query cost the node: ``wall_time_ms``, ``user_time``, ``system_time``, ``memory``.
    :ivar rows_dropped: whether the rows were left out because the query had reached its size limit.
    """

    query_id: str
    node_id: str
    node_name: str
    received_at: float
    status: int = 0
    message: str = ""
    rows: msgspec.Raw = msgspec.Raw(b"[]")
    stats: dict[str, int | float] = {}
    rows_dropped: bool = False


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
    """The query is unknown, cancelled or expired."""


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
    :ivar results_bytes: the size of all rows kept.
    """

    offered: int
    answered: int
    failed: int
    results_bytes: int


def new_query_id(now: float | None = None) -> str:
    """A new id: sorted by time, unguessable enough not to repeat, safe in a key, a path and osquery's database."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    letters = []
    for _ in range(9):
        milliseconds, digit = divmod(milliseconds, 32)
        letters.append(_ALPHABET[digit])
    return "q" + "".join(reversed(letters)) + "".join(secrets.choice(_ALPHABET) for _ in range(6))
