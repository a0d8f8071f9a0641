"""
Carves: files that a node sends, block by block.

osquery sends ``carve_size`` bytes in ``block_count`` blocks of ``block_size``, the last one shorter, strictly in
order and each at most three times (carver.cpp).  Nothing here relies on the order.
"""

from __future__ import annotations

import secrets

import msgspec

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class BadCarve(ValueError):
    """The figures of a carve contradict each other or pass a limit; the text says which."""


class CarveSession(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One carve.

    :ivar session_id: unguessable; clients before 5.23 show nothing else with a block.
    :ivar carve_id: osquery's own id of the carve (``carve_guid`` in its ``carves`` table).
    :ivar request_id: osquery's id of the request; not the name of a distributed query.
    :ivar identity: of the certificate that was shown at the start, or nothing.
    :ivar sha256: of the whole file, in hexadecimal, once it is complete.
    :ivar file_name: the name under the carve folder once it is complete.
    """

    session_id: str
    node_id: str
    node_name: str
    carve_id: str
    request_id: str
    block_count: int
    block_size: int
    carve_size: int
    started_at: float
    identity: str = ""
    completed_at: float = 0.0
    sha256: str = ""
    file_name: str = ""

    def size_of(self, block_id: int) -> int:
        """
        How many bytes a block must have.

        :raise BadCarve: there is no such block.
        """
        if not 0 <= block_id < self.block_count:
            raise BadCarve(f"block {block_id} is not one of {self.block_count}")
        return min(self.block_size, self.carve_size - block_id * self.block_size)

    @property
    def is_complete(self) -> bool:
        """Whether every block is in and the digest is known."""
        return bool(self.completed_at)


def check_figures(block_count: int, block_size: int, carve_size: int, max_bytes: int, max_block_bytes: int) -> None:
    """
    See that the figures of a start request agree and keep to the limits.

    :raise BadCarve: they do not.
    """
    if block_size < 1 or block_count < 0 or carve_size < 0:
        raise BadCarve("block_count, block_size and carve_size must not be negative")
    if carve_size > max_bytes:
        raise BadCarve(f"carve_size {carve_size} is over the limit of {max_bytes} bytes")
    if block_size > max_block_bytes:
        raise BadCarve(f"block_size {block_size} is over the limit of {max_block_bytes} bytes")
    if block_count != -(-carve_size // block_size):
        raise BadCarve(f"{block_count} blocks of {block_size} bytes do not make {carve_size} bytes")


def new_session_id() -> str:
    """A new session id, 192 random bits in URL-safe letters."""
    return secrets.token_urlsafe(24)
