"""
Approval: new nodes that wait until an operator lets them in.

Who has a record needs none: a node is approved by being recorded, and waits again after it was forgotten.  Turning
approval on locks nobody out.  Who waits is answered with an error, which osquery takes for a server that is not ready:
it asks again, after ten minutes at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from osqtwist.enrollinterfaces import PendingNode
from osqtwist.interfaces import IStores, NoSuchThing, Report
from osqtwist.node import Node, Revocation
from osqtwist.targeting import Target, parsed

_NOTED_EVERY = 30.0
_MOST_NOTED = 10_000
KEPT_FOR = 7 * 86400.0
"""Seconds after which who does not ask any more is not kept."""
MOST_AT_ONCE = 1000


class CertificateName(TypedDict):
    """Which certificate."""

    issuer: str
    serial: str


class PendingRow(TypedDict):
    """A node that waits for approval: since when, and when it asked last."""

    node: str
    name: str
    proof: Literal["certificate", "secret"]
    secret: str | None
    host_identifier: str
    platform: str
    osquery_version: str
    tags: list[str]
    address: str
    certificate: CertificateName | None
    first_at: float
    asked_at: float


class NodeName(TypedDict):
    """A node's id and name."""

    node: str
    name: str


class NodesApproved(TypedDict):
    """Nodes that were let in."""

    approved: list[NodeName]


class NodesRefused(TypedDict):
    """Nodes that stay out."""

    refused: list[NodeName]


class ApprovalPending(Exception):
    """Nobody has approved of this node yet."""


@attrs.frozen
class Approval:
    """
    What keeps new nodes waiting.

    :ivar needed_by: an expression: the new nodes that wait; empty for none.
    """

    clock: IReactorTime
    stores: IStores
    needed_by: str = ""
    report: Report = lambda kind, node_id, facts: None
    _noted: dict[str, float] = attrs.field(factory=dict, init=False)
    _log = Logger()

    async def check(self, node: Node, address: str) -> None:
        """
        Let a node pass that is known, or needs no approval.

        :raise ApprovalPending: it waits from now on, or goes on to.
        """
        if not self.needed_by or not parsed(self.needed_by).matches(node.facts().values):
            return
        if await self.stores.nodes.get(node.node_id):
            return
        now = self.clock.seconds()
        if now - self._noted.get(node.node_id, -_NOTED_EVERY) >= _NOTED_EVERY:
            if len(self._noted) >= _MOST_NOTED:
                self._noted.clear()
            self._noted[node.node_id] = now
            if await self.stores.pending.ask(PendingNode(node, address, now, now)):
                self._log.info("{name!r} ({node}) waits for approval", name=node.name, node=node.node_id)
                self.report("node_pending", node.node_id, {"name": node.name, "proof": node.proof})
        raise ApprovalPending("this node waits until an operator approves of it")


@attrs.frozen
class Approvals:
    """Who waits, as operators see and decide it."""

    clock: IReactorTime
    stores: IStores

    async def waiting(self, where: str, offset: int, limit: int) -> list[PendingRow]:
        """Nodes that wait, who asked last first; one more than ``limit`` from ``offset`` on if there is."""
        await self.stores.pending.remove_before(self.clock.seconds() - KEPT_FOR)
        target = Target(where=where)
        found = [each for each in await self.stores.pending.all() if target.matches(each.node.facts())]
        return [_row(each) for each in found[: offset + limit + 1]]

    async def approve(self, names: Sequence[str], where: str) -> NodesApproved:
        """
        Let in who waits under these names or ids, or all that an expression means.

        :raise NoSuchThing: nobody waits under a name; then nobody is let in.
        """
        found = await self._named(names)
        if where:
            target = Target(where=where)
            found |= {
                each.node.node_id: each for each in await self.stores.pending.all() if target.matches(each.node.facts())
            }
        for each in found.values():
            # It has not enrolled yet: that is still to come.
            await self.stores.nodes.record(msgspec.structs.replace(each.node, enrolled_at=0.0))
            await self.stores.pending.remove([each.node.node_id])
        return {"approved": [{"node": each.node.node_id, "name": each.node.name} for each in found.values()]}

    async def refuse(self, name: str, reason: str) -> NodesRefused:
        """
        Revoke a node that waits: it is refused until that is taken back.

        :raise NoSuchThing: nobody waits under this name.
        """
        found = await self._named([name])
        for node_id in found:
            await self.stores.nodes.revoke(Revocation(node_id, self.clock.seconds(), reason))
            await self.stores.pending.remove([node_id])
            await self.stores.signals.publish("nodes", node_id)
        return {"refused": [{"node": each.node.node_id, "name": each.node.name} for each in found.values()]}

    async def _named(self, names: Sequence[str]) -> dict[str, PendingNode]:
        found: dict[str, PendingNode] = {}
        everybody: list[PendingNode] | None = None
        for name in names:
            exact = await self.stores.pending.get(name)
            if exact is None:
                everybody = await self.stores.pending.all() if everybody is None else everybody
                called = [each for each in everybody if name in (each.node.name, each.node.host_identifier)]
                if len(called) > 1:
                    raise NoSuchThing(f"{len(called)} nodes that wait are called {name!r}; take the id of one")
                exact = called[0] if called else None
            if exact is None:
                raise NoSuchThing(f"no node {name!r} waits for approval")
            found[exact.node.node_id] = exact
        return found


def _row(each: PendingNode) -> PendingRow:
    node, certificate = each.node, each.node.certificate
    return {
        "node": node.node_id,
        "name": node.name,
        "proof": node.proof,
        "secret": node.secret or None,
        "host_identifier": node.host_identifier,
        "platform": node.platform,
        "osquery_version": node.osquery_version,
        "tags": sorted(node.firm_tags),
        "address": each.address,
        "certificate": {"issuer": certificate.issuer, "serial": certificate.serial} if certificate else None,
        "first_at": each.first_at,
        "asked_at": each.asked_at,
    }
