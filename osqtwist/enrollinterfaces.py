"""
The contracts between what lets nodes in and its stores.

As in :mod:`osqtwist.interfaces`: every method is a coroutine, and fails with ``StoreUnavailable`` or ``StoreFull``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from zope.interface import Interface

from osqtwist.enrollsecret import EnrollSecret
from osqtwist.node import Node


class SecretUse(msgspec.Struct, frozen=True):
    """
    What a secret was used for.

    :ivar enrollments: how often; :attr:`nodes`: by how many nodes, counted for a secret with a quota only.
    :ivar used_at: Unix time of the last; :attr:`used_by`: the name of its node.
    """

    enrollments: int = 0
    nodes: int = 0
    used_at: float = 0.0
    used_by: str = ""


class ISecretStore(Interface):
    """The enroll secrets that operators handed out."""

    async def put(secret: EnrollSecret) -> None:
        """Keep a secret, over what was kept under its id."""

    async def all() -> list[EnrollSecret]:
        """All of them, the oldest first."""

    async def remove(secret_id: str) -> None:
        """Keep a secret and its uses no more; nothing happens if there is none."""

    async def use(secret: EnrollSecret, node_id: str, name: str, at: float) -> bool:
        """
        Note that a node enrolls; false, and nothing is noted, if the quota is used up.

        A node that enrolled by it before uses up nothing more.
        """

    async def uses(secret_ids: Sequence[str]) -> list[SecretUse]:
        """What each was used for, in their order."""


class PendingNode(msgspec.Struct, frozen=True):
    """
    A node that waits for approval.

    :ivar node: as it would be recorded.
    :ivar first_at: Unix time when it asked first; :attr:`asked_at`: when it did last.
    """

    node: Node
    address: str
    first_at: float
    asked_at: float


MOST_PENDING = 10_000
"""Nodes that wait; of others it is only counted that they asked."""


class IPendingStore(Interface):
    """The nodes that wait for approval."""

    async def ask(pending: PendingNode) -> bool:
        """
        Keep who asks, with the ``first_at`` of before; true if it did not wait yet.

        Past :data:`MOST_PENDING` who did not ask for longest makes room.
        """

    async def get(node_id: str) -> PendingNode | None:
        """The node that waits under this id."""

    async def all() -> list[PendingNode]:
        """Everybody who waits, who asked last first."""

    async def count() -> int:
        """How many wait."""

    async def remove(node_ids: Sequence[str]) -> None:
        """Keep these no more."""

    async def remove_before(moment: float) -> int:
        """Keep nobody who asked last before this; answers with how many those were."""
