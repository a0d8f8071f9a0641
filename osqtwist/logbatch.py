"""
Log batches: the lines of one log post, with who sent them, as proven.

An event id names one line for ever: it is made from the node, the digest of the batch and the place of the line,
so a batch that is sent twice gives the same ids.
"""

from __future__ import annotations

import hashlib

import msgspec


class DeadLine(msgspec.Struct, frozen=True):
    """A line that cannot be delivered, as it came, and why."""

    line: bytes
    reason: str


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """
    All that a node sent at once, to know it again when it comes again.

    osquery sends its oldest lines until they are acknowledged (buffered.cpp): if an answer is lost, the next post
    begins with the same lines, and ends with those that were logged meanwhile.

    :ivar digest: over all lines; a post with the digest of the one before is that post.
    :ivar lines: how many there are, good ones and bad ones.
    :ivar opening: digest of the first line; empty if no post may be taken for a beginning of this one.
    :ivar after: the digest of the earlier post that was compared with this one already.
    """

    digest: str
    lines: int
    opening: str = ""
    after: str = ""


class LogBatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One log post.

    :ivar log_type: ``result`` or ``status``; snapshots come as results.
    :ivar data: the lines: a JSON array of objects.
    :ivar count: how many lines :attr:`data` holds.
    :ivar digest: SHA-256 over log type and lines as they came, in hexadecimal.
    :ivar identity: the identity of the certificate shown, or nothing.
    :ivar issuer: the issuer of that certificate (RFC 4514), :attr:`serial` its serial in hexadecimal.
    :ivar dead: the lines that were kept apart.
    """

    node_id: str
    node_name: str
    log_type: str
    data: bytes
    count: int
    digest: str
    received_at: float
    address: str = ""
    identity: str = ""
    issuer: str = ""
    serial: str = ""
    tags: tuple[str, ...] = ()
    dead: tuple[DeadLine, ...] = ()

    @property
    def size(self) -> int:
        """Bytes this batch counts for in the buffer's budget: its lines, kept or dead, and a share for the rest."""
        return len(self.data) + sum(len(dead.line) for dead in self.dead) + BATCH_OVERHEAD_BYTES

    @property
    def lines(self) -> int:
        """How many lines there are, good ones and dead ones."""
        return self.count + len(self.dead)

    def as_post(self) -> Post:
        """The post that had just these lines."""
        return Post(digest=self.digest, lines=self.lines)

    def live(self) -> LogBatch | None:
        """The part to deliver, if there is any."""
        return msgspec.structs.replace(self, dead=()) if self.count else None

    def dead_letter(self) -> LogBatch | None:
        """The part that cannot be delivered, if there is any."""
        return msgspec.structs.replace(self, data=b"[]", count=0) if self.dead else None


BATCH_OVERHEAD_BYTES = 512
"""What a stored batch costs beside its lines: a stream entry with its fields."""


def event_id(node_id: str, digest: str, index: int) -> str:
    """The id of line ``index`` of a batch: 32 hexadecimal digits."""
    return hashlib.sha256(f"{node_id}\0{digest}\0{index}".encode()).hexdigest()[:32]
