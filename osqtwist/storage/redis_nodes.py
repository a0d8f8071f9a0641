"""
Nodes in Redis.

=====================  =======  =======================================================================
``node:ID``            hash     ``record``, ``name``, ``host``; ``tags``, ``found``, ``note``, ``former``; ``seen``,
                                ``first``, ``addresses``, ``config``; ``fingerprint``, ``issuer``, ``certificate``,
                                ``shown``, ``before``: some 3 kB a node
``named:TEXT``         set      ids of the nodes with that name or host identifier, or that took over from one
``seen``               zset     id, by the time it was last seen
``expiring``           zset     id, by the time at which its newest certificate ends
``issuers``            hash     issuer to how many nodes' newest certificate is of it
``renewed``            zset     id, by the time at which it came with another certificate
``revoked``            hash     id to revocation; an empty id once the list was begun
=====================  =======  =======================================================================

They are kept until the node is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.interfaces import INodeStore, ListLost
from osqtwist.node import (
    MOST_ADDRESSES,
    AddressSeen,
    ConfigServed,
    FormerCertificate,
    FormerNode,
    Node,
    Revocation,
    Sighting,
)
from osqtwist.storage.redis_connection import RedisConnection, Script
from osqtwist.storage.redis_node_scripts import ANNOTATE, FORGET, MERGE, RECORD, SAW, TAG

_SAW_AT_ONCE = 500
_KEPT = ("tags", "found", "note", "former", "shown", "before")

_node_decoder = msgspec.json.Decoder(Node)
_sighting_decoder = msgspec.json.Decoder(Sighting)
_config_decoder = msgspec.json.Decoder(ConfigServed)
_certificate_decoder = msgspec.json.Decoder(FormerCertificate)
_former_decoder = msgspec.json.Decoder(tuple[FormerNode, ...])
_revocation_decoder = msgspec.json.Decoder(Revocation)
# The value of a field without a name.  A store that comes back empty must not pass for one where nobody is revoked.
_BEGUN = b"begun"
# KEYS: revoked.  ARGV: the value, then field and value of each revocation.
_BEGIN = Script(
    """
    if redis.call('HEXISTS', KEYS[1], '') == 1 then return 0 end
    for place = 2, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[place], ARGV[place + 1]) end
    redis.call('HSET', KEYS[1], '', ARGV[1])
    return 1
    """
)


@implementer(INodeStore)
@attrs.frozen
class RedisNodeStore:
    """See :class:`osqtwist.interfaces.INodeStore`."""

    _redis: RedisConnection
    _prefix: str

    async def record(self, node: Node) -> Node:
        """One script call."""
        node = msgspec.structs.replace(node, given_tags=(), found_tags=(), note="", former=())
        words: list[str | bytes] = [node.node_id, msgspec.json.encode(node), node.name, node.host_identifier]
        if (shown := node.certificate) is None:
            words += [""] * 5
        else:
            brief = FormerCertificate(shown.issuer, shown.serial, shown.not_after)
            words += [repr(shown.not_after), shown.fingerprint, shown.issuer, msgspec.json.encode(brief)]
            words += [repr(shown.shown_at)]
        keys = [self._key(node.node_id), f"{self._prefix}named:", self._expiring, self._issuers, self._renewed]
        return _with_kept(node, *await self._redis.run(RECORD, keys, words))

    async def tag(self, node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """One script call."""
        await self._redis.run(TAG, [self._key(node_id)], ["tags", len(added), *added, *removed])

    async def tag_found(self, node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """One script call."""
        await self._redis.run(TAG, [self._key(node_id)], ["found", len(added), *added, *removed])

    async def annotate(self, node_id: str, note: str) -> None:
        """One script call."""
        await self._redis.run(ANNOTATE, [self._key(node_id)], [note])

    async def merge(self, former: FormerNode, node_id: str) -> None:
        """One script call."""
        keys = [self._key(former.node_id), *self._shared_keys, self._key(node_id)]
        await self._redis.run(MERGE, keys, [former.node_id, node_id, msgspec.json.encode(former)])

    async def forget(self, node_id: str) -> None:
        """One script call."""
        await self._redis.run(FORGET, [self._key(node_id), *self._shared_keys], [node_id])

    async def get(self, node_id: str) -> Node | None:
        """One command."""
        return (await self.get_many([node_id])).get(node_id)

    async def get_many(self, node_ids: Sequence[str]) -> dict[str, Node]:
        """One command for each node, sent together."""
        records = await self._redis.execute_all([("HMGET", self._key(each), "record", *_KEPT) for each in node_ids])
        return {
            node_id: _with_kept(_node_decoder.decode(record), *kept)
            for node_id, (record, *kept) in zip(node_ids, records, strict=True)
            if record
        }

    async def saw(self, sightings: Mapping[str, Sighting]) -> None:
        """One script call for each 500."""
        words: list[str | bytes] = []
        for node_id, seen in sightings.items():
            config = msgspec.json.encode(seen.config) if seen.config else b""
            brief = msgspec.structs.replace(seen, config=None, addresses=())
            words += [node_id, repr(seen.seen_at), repr(seen.first_seen_at), msgspec.json.encode(brief)]
            words += [seen.address, config]
        keys = [f"{self._prefix}seen", f"{self._prefix}node:"]
        for start in range(0, len(words), 6 * _SAW_AT_ONCE):
            await self._redis.run(SAW, keys, [MOST_ADDRESSES, *words[start : start + 6 * _SAW_AT_ONCE]])

    async def sightings(self, node_ids: Sequence[str]) -> dict[str, Sighting]:
        """One command for each node, sent together."""
        found = await self._redis.execute_all(
            [("HMGET", self._key(each), "seen", "first", "addresses", "config") for each in node_ids]
        )
        return {
            node_id: msgspec.structs.replace(
                _sighting_decoder.decode(seen),
                first_seen_at=float(first),
                addresses=_addresses(addresses),
                config=_config_decoder.decode(config) if config else None,
            )
            for node_id, (seen, first, addresses, config) in zip(node_ids, found, strict=True)
            if seen and first
        }

    async def seen_since(self, moment: float, offset: int, count: int) -> list[str]:
        """One command."""
        found = await self._redis.execute(
            "ZREVRANGEBYSCORE", f"{self._prefix}seen", "+inf", repr(moment), "LIMIT", offset, count
        )
        return [each.decode() for each in found]

    async def count_since(self, moment: float) -> int:
        """One command."""
        return int(await self._redis.execute("ZCOUNT", f"{self._prefix}seen", repr(moment), "+inf"))

    async def last_seen_between(self, start: float, end: float, offset: int, count: int) -> list[tuple[str, float]]:
        """One command."""
        words = (repr(start), f"({end!r}", "WITHSCORES", "LIMIT", offset, count)
        found = await self._redis.execute("ZRANGEBYSCORE", f"{self._prefix}seen", *words)
        return [(each.decode(), float(at)) for each, at in zip(found[::2], found[1::2], strict=True)]

    async def expiring(self, start: float, end: float, count: int) -> list[str]:
        """One command."""
        found = await self._redis.execute("ZRANGEBYSCORE", self._expiring, repr(start), f"({end!r}", "LIMIT", 0, count)
        return [each.decode() for each in found]

    async def count_expiring(self, start: float, end: float) -> int:
        """One command."""
        return int(await self._redis.execute("ZCOUNT", self._expiring, repr(start), f"({end!r}"))

    async def issuers(self) -> dict[str, int]:
        """One command."""
        found = await self._redis.execute("HGETALL", self._issuers)
        return {issuer.decode(): int(count) for issuer, count in zip(found[::2], found[1::2], strict=True)}

    async def renewed(self, start: float, count: int) -> list[str]:
        """One command."""
        found = await self._redis.execute("ZREVRANGEBYSCORE", self._renewed, "+inf", repr(start), "LIMIT", 0, count)
        return [each.decode() for each in found]

    async def count_renewed(self, start: float) -> int:
        """One command."""
        return int(await self._redis.execute("ZCOUNT", self._renewed, repr(start), "+inf"))

    async def find(self, text: str, limit: int) -> list[Node]:
        """Two rounds."""
        named = await self._redis.execute("SRANDMEMBER", f"{self._prefix}named:{text}", limit)
        node_ids = dict.fromkeys([text, *sorted(each.decode() for each in named)])
        return list((await self.get_many(list(node_ids))).values())[:limit]

    async def revoke(self, revocation: Revocation) -> None:
        """One command."""
        await self._redis.execute("HSET", self._revoked, revocation.node_id, msgspec.json.encode(revocation))

    async def restore(self, node_id: str) -> None:
        """One command."""
        await self._redis.execute("HDEL", self._revoked, node_id)

    async def revocations(self) -> list[Revocation]:
        """One command."""
        found = await self._redis.execute("HVALS", self._revoked)
        if _BEGUN not in found:
            raise ListLost("the store does not know which nodes are revoked: it is new, or lost its data")
        return [_revocation_decoder.decode(each) for each in found if each != _BEGUN]

    async def begin_revocations(self, those: Sequence[Revocation]) -> bool:
        """One script."""
        fields = [word for each in those for word in (each.node_id, msgspec.json.encode(each))]
        return bool(await self._redis.run(_BEGIN, [self._revoked], [_BEGUN, *fields]))

    @property
    def _shared_keys(self) -> list[str]:
        return [f"{self._prefix}named:", self._expiring, self._issuers, self._renewed, f"{self._prefix}seen"]

    @property
    def _expiring(self) -> str:
        return f"{self._prefix}expiring"

    @property
    def _issuers(self) -> str:
        return f"{self._prefix}issuers"

    @property
    def _renewed(self) -> str:
        return f"{self._prefix}renewed"

    @property
    def _revoked(self) -> str:
        return f"{self._prefix}revoked"

    def _key(self, node_id: str) -> str:
        return f"{self._prefix}node:{node_id}"


def _with_kept(
    node: Node,
    tags: bytes | None,
    found: bytes | None,
    note: bytes | None,
    former: bytes | None,
    shown: bytes | None,
    before: bytes | None,
) -> Node:
    certificate = node.certificate
    if certificate and shown:
        old = _certificate_decoder.decode(before) if before else None
        certificate = msgspec.structs.replace(certificate, shown_at=float(shown), before=old)
    elif not (tags or found or note or former):
        return node
    return msgspec.structs.replace(
        node,
        certificate=certificate,
        given_tags=tuple((tags or b"").decode().split()),
        found_tags=tuple((found or b"").decode().split()),
        note=(note or b"").decode(),
        former=_former_decoder.decode(former) if former else (),
    )


def _addresses(text: bytes | None) -> tuple[AddressSeen, ...]:
    words = (text or b"").decode().split()
    return tuple(AddressSeen(address, float(at)) for address, at in zip(words[::2], words[1::2], strict=True))
