"""Nodes in the memory of one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.interfaces import INodeStore
from osqtwist.node import (
    MOST_ADDRESSES,
    AddressSeen,
    CertificateRecord,
    FormerCertificate,
    FormerNode,
    Node,
    Revocation,
    Sighting,
)


@implementer(INodeStore)
@attrs.define
class MemoryNodeStore:
    """Nodes in dicts."""

    _nodes: dict[str, Node] = attrs.field(factory=dict, init=False)
    _seen: dict[str, Sighting] = attrs.field(factory=dict, init=False)
    _revoked: dict[str, Revocation] = attrs.field(factory=dict, init=False)

    async def record(self, node: Node) -> Node:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        before = self._nodes.get(node.node_id)
        before = before or Node(node_id=node.node_id, name="", proof="secret")
        node = msgspec.structs.replace(
            node,
            certificate=_certificate_after(before.certificate, node.certificate),
            given_tags=before.given_tags,
            found_tags=before.found_tags,
            note=before.note,
            former=before.former,
        )
        self._nodes[node.node_id] = node
        return node

    async def tag(self, node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        if node_id in self._nodes:
            node = self._nodes[node_id]
            tags = tuple(sorted({*node.given_tags, *added} - set(removed)))
            self._nodes[node_id] = msgspec.structs.replace(node, given_tags=tags)

    async def tag_found(self, node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        if node_id in self._nodes:
            node = self._nodes[node_id]
            tags = tuple(sorted({*node.found_tags, *added} - set(removed)))
            self._nodes[node_id] = msgspec.structs.replace(node, found_tags=tags)

    async def annotate(self, node_id: str, note: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        if node_id in self._nodes:
            self._nodes[node_id] = msgspec.structs.replace(self._nodes[node_id], note=note)

    async def merge(self, former: FormerNode, node_id: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        into = self._nodes.get(node_id)
        if into is None:
            return
        gone = self._nodes.pop(former.node_id, None) or msgspec.structs.replace(into, given_tags=(), note="", former=())
        self._nodes[node_id] = msgspec.structs.replace(
            into,
            given_tags=tuple(sorted({*into.given_tags, *gone.given_tags})),
            note="; ".join(filter(None, (into.note, gone.note))),
            former=(*into.former, *gone.former, former),
        )
        before, seen = self._seen.pop(former.node_id, None), self._seen.get(node_id)
        if before and seen:
            first = min(before.first_seen_at, seen.first_seen_at)
            self._seen[node_id] = msgspec.structs.replace(seen, first_seen_at=first)

    async def forget(self, node_id: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        self._nodes.pop(node_id, None)
        self._seen.pop(node_id, None)

    async def get(self, node_id: str) -> Node | None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return self._nodes.get(node_id)

    async def get_many(self, node_ids: Sequence[str]) -> dict[str, Node]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return {node_id: self._nodes[node_id] for node_id in node_ids if node_id in self._nodes}

    async def saw(self, sightings: Mapping[str, Sighting]) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        for node_id, new in sightings.items():
            old = self._seen.get(node_id)
            if old and new.seen_at < old.seen_at:
                self._seen[node_id] = msgspec.structs.replace(old, config=new.config or old.config)
                continue
            known = old.addresses if old else ()
            if new.address and (not known or known[0].address != new.address):
                left = [AddressSeen(each.address, old.seen_at) for each in known[:1] if old]
                others = [each for each in (*left, *known[1:]) if each.address != new.address]
                known = (AddressSeen(new.address, new.seen_at), *others)[:MOST_ADDRESSES]
            self._seen[node_id] = msgspec.structs.replace(
                new,
                first_seen_at=old.first_seen_at if old else new.first_seen_at,
                config=new.config or (old.config if old else None),
                addresses=known,
            )

    async def sightings(self, node_ids: Sequence[str]) -> dict[str, Sighting]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return {node_id: self._seen[node_id] for node_id in node_ids if node_id in self._seen}

    async def seen_since(self, moment: float, offset: int, count: int) -> list[str]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        found = [(seen.seen_at, node_id) for node_id, seen in self._seen.items() if seen.seen_at >= moment]
        return [node_id for _, node_id in sorted(found, reverse=True)[offset : offset + count]]

    async def count_since(self, moment: float) -> int:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return sum(seen.seen_at >= moment for seen in self._seen.values())

    async def last_seen_between(self, start: float, end: float, offset: int, count: int) -> list[tuple[str, float]]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        found = sorted((seen.seen_at, node_id) for node_id, seen in self._seen.items() if start <= seen.seen_at < end)
        return [(node_id, seen_at) for seen_at, node_id in found[offset : offset + count]]

    async def expiring(self, start: float, end: float, count: int) -> list[str]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        ends = [(node.certificate.not_after, node_id) for node_id, node in self._nodes.items() if node.certificate]
        return [node_id for moment, node_id in sorted(ends) if start <= moment < end][:count]

    async def count_expiring(self, start: float, end: float) -> int:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return len(await self.expiring(start, end, len(self._nodes)))

    async def issuers(self) -> dict[str, int]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return dict(Counter(node.certificate.issuer for node in self._nodes.values() if node.certificate))

    async def renewed(self, start: float, count: int) -> list[str]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        found = [(shown_at, node_id) for node_id, shown_at in self._renewals() if shown_at >= start]
        return [node_id for _, node_id in sorted(found, reverse=True)][:count]

    async def count_renewed(self, start: float) -> int:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return sum(shown_at >= start for _, shown_at in self._renewals())

    def _renewals(self) -> Iterator[tuple[str, float]]:
        for node_id, node in self._nodes.items():
            if node.certificate and node.certificate.before:
                yield node_id, node.certificate.shown_at

    async def find(self, text: str, limit: int) -> list[Node]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return [node for node in self._nodes.values() if text in _names(node)][:limit]

    async def revoke(self, revocation: Revocation) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        self._revoked[revocation.node_id] = revocation

    async def restore(self, node_id: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        self._revoked.pop(node_id, None)

    async def revocations(self) -> list[Revocation]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return list(self._revoked.values())

    async def begin_revocations(self, those: Sequence[Revocation]) -> bool:
        """See :class:`osqtwist.interfaces.INodeStore`; memory does not come back without its data."""
        return False


def _certificate_after(old: CertificateRecord | None, new: CertificateRecord | None) -> CertificateRecord | None:
    if old is None or new is None:
        return new
    if old.fingerprint == new.fingerprint:
        return msgspec.structs.replace(new, shown_at=old.shown_at, before=old.before)
    return msgspec.structs.replace(new, before=FormerCertificate(old.issuer, old.serial, old.not_after))


def _names(node: Node) -> set[str]:
    own = {node.node_id, node.name, node.host_identifier}
    return own.union(*((former.node_id, former.name, former.host_identifier) for former in node.former))
