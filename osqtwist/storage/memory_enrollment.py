"""Enroll secrets and nodes that wait for approval, in the memory of one process."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.enrollinterfaces import MOST_PENDING, IPendingStore, ISecretStore, PendingNode, SecretUse
from osqtwist.enrollsecret import EnrollSecret


@implementer(ISecretStore)
@attrs.frozen
class MemorySecretStore:
    """Secrets in dicts."""

    _secrets: dict[str, EnrollSecret] = attrs.field(factory=dict, init=False)
    _uses: dict[str, SecretUse] = attrs.field(factory=dict, init=False)
    _nodes: dict[str, set[str]] = attrs.field(factory=dict, init=False)

    async def put(self, secret: EnrollSecret) -> None:
        """See the interface."""
        self._secrets[secret.secret_id] = secret

    async def all(self) -> list[EnrollSecret]:
        """See the interface."""
        return sorted(self._secrets.values(), key=lambda secret: (secret.created_at, secret.secret_id))

    async def remove(self, secret_id: str) -> None:
        """See the interface."""
        for kept in (self._secrets, self._uses, self._nodes):
            kept.pop(secret_id, None)

    async def use(self, secret: EnrollSecret, node_id: str, name: str, at: float) -> bool:
        """See the interface."""
        nodes = self._nodes.setdefault(secret.secret_id, set())
        if secret.quota:
            if node_id not in nodes and len(nodes) >= secret.quota:
                return False
            nodes.add(node_id)
        before = self._uses.get(secret.secret_id, SecretUse())
        self._uses[secret.secret_id] = SecretUse(before.enrollments + 1, len(nodes), at, name)
        return True

    async def uses(self, secret_ids: Sequence[str]) -> list[SecretUse]:
        """See the interface."""
        return [self._uses.get(secret_id, SecretUse()) for secret_id in secret_ids]


@implementer(IPendingStore)
@attrs.frozen
class MemoryPendingStore:
    """Who waits, in a dict."""

    _pending: dict[str, PendingNode] = attrs.field(factory=dict, init=False)

    async def ask(self, pending: PendingNode) -> bool:
        """See the interface."""
        node_id = pending.node.node_id
        before = self._pending.get(node_id)
        self._pending[node_id] = msgspec.structs.replace(pending, first_at=before.first_at) if before else pending
        for other in (await self.all())[MOST_PENDING:]:
            del self._pending[other.node.node_id]
        return before is None

    async def get(self, node_id: str) -> PendingNode | None:
        """See the interface."""
        return self._pending.get(node_id)

    async def all(self) -> list[PendingNode]:
        """See the interface."""
        return sorted(self._pending.values(), key=lambda each: (-each.asked_at, each.node.node_id))

    async def count(self) -> int:
        """See the interface."""
        return len(self._pending)

    async def remove(self, node_ids: Sequence[str]) -> None:
        """See the interface."""
        for node_id in node_ids:
            self._pending.pop(node_id, None)

    async def remove_before(self, moment: float) -> int:
        """See the interface."""
        gone = [node_id for node_id, each in self._pending.items() if each.asked_at < moment]
        await self.remove(gone)
        return len(gone)
