"""What operators change of nodes beyond tags and revocations: one merged into another, notes, new keys."""

from __future__ import annotations

import math
from typing import TypedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.interfaces import INodeStore
from osqtwist.inventory import MOST_GIVEN_TAGS, Inventory
from osqtwist.node import FormerNode, Revocation
from osqtwist.noderow import ONLINE_WITHIN

MOST_FORMER = 16
"""Nodes that can be merged into one."""
LONGEST_NOTE = 2000


class BadChange(ValueError):
    """A change of a node that makes no sense as things are; says why."""


class NodesMerged(TypedDict):
    """The node that goes on, and the id of the one that is no more."""

    node: str
    merged: str


class NodeNoted(TypedDict):
    """The note that a node has now."""

    node: str
    note: str


class NodeRekeyed(TypedDict):
    """A node whose keys are refused from now on."""

    node: str
    rekeyed: bool


@attrs.frozen
class NodeChanges:
    """Changes of nodes."""

    clock: IReactorTime
    nodes: INodeStore
    inventory: Inventory

    async def merge(self, name: str, into: str, force: bool = False) -> NodesMerged:
        """
        Have a node take over from one that it was before: its machine was imaged anew, or renamed.

        It gets that one's given tags, note and first sighting, and is found by its names.  What the other posted and
        answered stays under the other's id and name.  The other's node keys are refused, so if its machine lives after
        all, it enrolls again and is a node of its own; they do not stand for this node, which may be better proven.

        :param force: merge also a node that was heard of in the last minute.
        :raise BadChange: it cannot be merged.
        """
        old, new = await self.inventory.find(name), await self.inventory.find(into)
        if old.node_id == new.node_id:
            raise BadChange(f"{name!r} and {into!r} are the same node")
        now = self.clock.seconds()
        await self.inventory.directory.flush()
        sighting = (await self.nodes.sightings([old.node_id])).get(old.node_id)
        if sighting and sighting.seen_at >= now - ONLINE_WITHIN and not force:
            raise BadChange(f"{old.name!r} was heard of in the last minute: it would come back as a node of its own")
        if len({*old.given_tags, *new.given_tags}) > MOST_GIVEN_TAGS:
            raise BadChange(f"together they have more than {MOST_GIVEN_TAGS} given tags")
        if len(old.former) + len(new.former) >= MOST_FORMER:
            raise BadChange(f"no more than {MOST_FORMER} nodes can be merged into one")
        if len(old.note) + len(new.note) + 2 > LONGEST_NOTE:
            raise BadChange(f"together their notes are longer than {LONGEST_NOTE} letters")
        await self._refuse_keys(old.node_id, f"merged into {new.node_id}")
        former = FormerNode(old.node_id, old.name, old.host_identifier, round(now, 3))
        await self.nodes.merge(former, new.node_id)
        self.inventory.directory.forget(old.node_id)
        await self.inventory.clones.forget(old.node_id)
        for changed in (old.node_id, new.node_id):
            await self.inventory.announce(changed)
        return {"node": new.node_id, "merged": old.node_id}

    async def annotate(self, name: str, note: str) -> NodeNoted:
        """
        Replace a node's note.

        :raise BadChange: it is too long.
        """
        if len(note) > LONGEST_NOTE:
            raise BadChange(f"a note has at most {LONGEST_NOTE} letters")
        node = await self.inventory.find(name)
        await self.nodes.annotate(node.node_id, note)
        await self.inventory.announce(node.node_id)
        return {"node": node.node_id, "note": note}

    async def rekey(self, name: str) -> NodeRekeyed:
        """
        Have every machine that uses a key of a node enroll again: so those that share a copied one become two.

        :raise BadChange: the node is revoked.
        """
        node = await self.inventory.find(name)
        if self.inventory.directory.is_revoked(node.node_id):
            raise BadChange(f"{node.name!r} is revoked")
        await self._refuse_keys(node.node_id, "rekeyed")
        await self.inventory.announce(node.node_id)
        return {"node": node.node_id, "rekeyed": True}

    async def _refuse_keys(self, node_id: str, reason: str) -> None:
        # Who is refused altogether stays so.
        if not self.inventory.directory.is_revoked(node_id):
            now = self.clock.seconds()
            await self.nodes.revoke(Revocation(node_id, now, reason, keys_before=math.floor(now) + 1.0))
