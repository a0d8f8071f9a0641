"""What operators see of the fleet and do to nodes, in shapes that are ready to be JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from osqtwist import __version__
from osqtwist.certificateradar import CertificateRadar
from osqtwist.clones import Clones
from osqtwist.configuration import NodeConfiguration
from osqtwist.directory import Directory
from osqtwist.explaining import ConfigReasons
from osqtwist.figures import SummedFigures
from osqtwist.interfaces import IStores, NoSuchThing, StoreFull, StoreUnavailable
from osqtwist.metrics import Metrics
from osqtwist.node import TAG_PATTERN, Node, Revocation, Sighting
from osqtwist.noderow import ONLINE_WITHIN, NodeRow, NodeStory, node_row
from osqtwist.targeting import NodeFacts, Target

LOOKED_THROUGH = 5000
"""Nodes that one page of a search may look at."""

MOST_GIVEN_TAGS = 100

_PAGE = 500
_NAMESAKES = 100


class BadTag(ValueError):
    """A text cannot be a tag, or there are too many; says why."""


class BufferFigures(TypedDict):
    """The log buffer; `away` are servers of it that do not answer."""

    batches: int
    bytes: int
    budget_bytes: int
    dead_letters: int
    shut: bool
    away: list[str]


class EaseFigures(TypedDict):
    """How far habits of nodes are eased, since when, and how busy each process is (1: altogether)."""

    level: int
    since: float | None
    busy: list[float]


class FleetFigures(TypedDict):
    """The fleet, and the server, in figures."""

    version: str
    uptime_seconds: float
    nodes: int
    nodes_online: int
    nodes_revoked: int
    nodes_pending: int
    node_clones: int
    parked_reads: int
    open_queries: int
    scheduled_queries: int
    log_buffer: BufferFigures
    config_layers: list[str]
    ease: EaseFigures


class NodePage(TypedDict):
    """Some nodes; `next_offset` is where to go on, null at the end."""

    nodes: list[NodeRow]
    next_offset: int | None


class NodeConfig(TypedDict):
    """What a node gets: the config itself, the layers it is made of, and why of these."""

    node: str
    name: str
    layers: list[str]
    etag: str
    why: ConfigReasons
    config: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]


class NodeRevoked(TypedDict):
    """Whether a node is refused."""

    node: str
    revoked: bool


class NodeTags(TypedDict):
    """All tags that a node has now."""

    node: str
    tags: list[str]


class NodeForgotten(TypedDict):
    """A node that nothing is known of any more."""

    node: str
    forgotten: bool


@attrs.frozen
class Inventory:
    """
    Nodes, and the figures of it all.

    :ivar figures: those of every process, :attr:`metrics` of this one.
    """

    clock: IReactorTime
    stores: IStores
    directory: Directory
    configuration: NodeConfiguration
    clones: Clones
    figures: SummedFigures
    metrics: Metrics
    certificates: CertificateRadar = attrs.field(init=False)
    started_at: float = attrs.field(factory=time.time)

    @certificates.default
    def _(self) -> CertificateRadar:
        return CertificateRadar(self.clock, self.stores.nodes, self.metrics)

    async def ping(self) -> None:
        """Fire if the store answers."""
        await self.stores.ping()

    async def update_metrics(self) -> None:
        """Look up the figures that live in the store."""
        metrics = self.metrics
        try:
            size = await self.stores.logs.size()
            now = self.clock.seconds()
            metrics.nodes_online.set(await self.stores.nodes.count_since(now - ONLINE_WITHIN))
            metrics.nodes_known.set(await self.stores.nodes.count_since(0))
            metrics.nodes_pending.set(await self.stores.pending.count())
            await self.certificates.update_metrics()
            for (rule, outcome), count in (await self.stores.alerts.counts()).items():
                metrics.alerts.labels(rule=rule, outcome=outcome).set(count)
        except (StoreUnavailable, StoreFull):
            metrics.store_up.set(0)
            return
        metrics.store_up.set(1)
        metrics.node_clones.set(self.clones.count())
        metrics.log_buffer_bytes.set(size.bytes)
        metrics.log_buffer_budget_bytes.set(size.budget_bytes)
        metrics.log_buffer_shut.set(size.is_shut)
        metrics.log_servers_away.set(len(size.away))
        metrics.dead_letters.set(size.dead_letters)
        metrics.dead_letters_dropped.set(size.dropped_dead_letters)

    async def status(self) -> FleetFigures:
        """One page of figures."""
        now = self.clock.seconds()
        size = await self.stores.logs.size()
        queries = await self.stores.queries.get_many(await self.stores.queries.open_ids(now))
        open_queries = sum(query.is_open(now) for query in queries.values())
        return {
            "version": __version__,
            "uptime_seconds": round(now - self.started_at, 1),
            "nodes": await self.stores.nodes.count_since(0),
            "nodes_online": await self.stores.nodes.count_since(now - ONLINE_WITHIN),
            "nodes_revoked": sum(not each.keys_before for each in await self.stores.nodes.revocations()),
            "nodes_pending": await self.stores.pending.count(),
            "node_clones": self.clones.count(),
            "parked_reads": int(self.figures.value("osqtwist_parked_reads")),
            "open_queries": open_queries,
            "scheduled_queries": len(queries) - open_queries,
            "log_buffer": {
                "batches": size.batches,
                "bytes": size.bytes,
                "budget_bytes": size.budget_bytes,
                "dead_letters": size.dead_letters,
                "shut": size.is_shut,
                "away": list(size.away),
            },
            "config_layers": self.configuration.layer_names(),
            "ease": await self._ease(),
        }

    async def _ease(self) -> EaseFigures:
        load = await self.stores.loads.report("", None, self.clock.seconds())
        return {"level": load.level, "since": load.since or None, "busy": [round(each, 3) for each in load.busy]}

    async def nodes(self, offset: int, limit: int, online: bool, target: Target = Target()) -> NodePage:
        """
        Nodes, the one heard of last first.

        ``next_offset`` is where to go on, or nothing at the end.  A page has up to ``limit`` nodes of the target; one
        that few nodes match may have fewer, since no more than :data:`LOOKED_THROUGH` are looked at for it.
        """
        now = self.clock.seconds()
        since = now - ONLINE_WITHIN if online else 0.0
        found: list[NodeRow] = []
        end = offset + (limit if target.is_everything else LOOKED_THROUGH)
        while offset < end:
            wanted = min(_PAGE, end - offset)
            node_ids = await self.stores.nodes.seen_since(since, offset, wanted)
            nodes = await self.stores.nodes.get_many(node_ids)
            sightings = await self.stores.nodes.sightings(node_ids)
            for node_id in node_ids:
                offset += 1
                if node_id in nodes and target.matches(self.facts_of(nodes[node_id])):
                    found.append(self._row(nodes[node_id], sightings.get(node_id)))
                    if len(found) == limit:
                        return {"nodes": found, "next_offset": offset}
            if len(node_ids) < wanted:
                return {"nodes": found, "next_offset": None}
        return {"nodes": found, "next_offset": offset}

    async def node(self, name: str) -> NodeStory:
        """One node, with everything known of it."""
        node = await self.find(name)
        sightings = await self.stores.nodes.sightings([node.node_id])
        row = self._row(node, sightings.get(node.node_id))
        newest = self.configuration.etag_for(self.facts_of(node))
        if row["config"]:
            row["config"]["is_newest"] = row["config"]["etag"] == newest
        return {
            **row,
            "platforms": sorted(node.platforms),
            "former": list(node.former),
            "host_details": node.host_details,
        }

    async def config_of(self, name: str) -> NodeConfig:
        """The config that a node gets, which layers it is made of, and why of these and not of others."""
        node = await self.find(name)
        facts = self.facts_of(node)
        answer = self.configuration.config_for(facts, None)
        return {
            "node": node.node_id,
            "name": node.name,
            "layers": list(answer.layers),
            "etag": answer.etag,
            "why": self.configuration.why(node),
            "config": msgspec.Raw(answer.body),
        }

    async def revoke(self, name: str, reason: str) -> NodeRevoked:
        """Refuse a node everywhere from now on."""
        node = await self.find(name)
        now = self.clock.seconds()
        await self.stores.nodes.revoke(Revocation(node_id=node.node_id, revoked_at=now, reason=reason[:500]))
        await self.announce(node.node_id)
        return {"node": node.node_id, "revoked": True}

    async def restore(self, name: str) -> NodeRevoked:
        """Take a revocation back."""
        node = await self.find(name)
        await self.stores.nodes.restore(node.node_id)
        await self.announce(node.node_id)
        return {"node": node.node_id, "revoked": False}

    async def tag(self, name: str, added: Sequence[str], removed: Sequence[str]) -> NodeTags:
        """
        Change the tags that operators gave a node; those of its secret and its certificate stay.

        :raise BadTag: one of them cannot be a tag.
        """
        for tag in (*added, *removed):
            if not TAG_PATTERN.fullmatch(tag):
                raise BadTag(f"{tag[:64]!r} cannot be a tag: letters, digits and _.:/@- only, at most 128")
        node = await self.find(name)
        if len({*node.given_tags, *added} - set(removed)) > MOST_GIVEN_TAGS:
            raise BadTag(f"a node can be given {MOST_GIVEN_TAGS} tags")
        await self.stores.nodes.tag(node.node_id, added, removed)
        await self.announce(node.node_id)
        return {"node": node.node_id, "tags": sorted(self.facts_of(await self.find(node.node_id)).tags)}

    async def forget(self, name: str) -> NodeForgotten:
        """
        Keep nothing of a node any more; it comes back, as new, if it asks again with a good key or certificate.

        What it posted and answered stays, and so does a revocation.
        """
        node = await self.find(name)
        await self.stores.nodes.forget(node.node_id)
        self.directory.forget(node.node_id)
        await self.clones.forget(node.node_id)
        await self.announce(node.node_id)
        return {"node": node.node_id, "forgotten": True}

    async def find(self, name: str) -> Node:
        """
        The node with this id, or else the only one of this name, host identifier, or that it had before a merge.

        :raise NoSuchThing: there is none, or more than one.
        """
        found: list[Node] = await self.stores.nodes.find(name, _NAMESAKES)
        for fits in (
            [each for each in found if each.node_id == name],
            [each for each in found if each.name == name],
            [each for each in found if each.host_identifier == name],
            found,
        ):
            if len(fits) == 1:
                return fits[0]
            if fits:
                raise NoSuchThing(f"{name!r} names more than one node; give its id")
        raise NoSuchThing(f"there is no node {name!r}")

    async def announce(self, node_id: str) -> None:
        """Have every process look at a node again, and at the revocations."""
        try:
            await self.stores.signals.publish("nodes", node_id)
        finally:
            await self.directory.refresh_revocations()

    async def online_names(self, target: Target) -> dict[str, str]:
        """Id and name of every node of a target that was heard of lately and is not refused."""
        await self.directory.flush()
        since = self.clock.seconds() - ONLINE_WITHIN
        names: dict[str, str] = {}
        offset = 0
        while page := await self.stores.nodes.seen_since(since, offset, _PAGE):
            nodes = await self.stores.nodes.get_many(page)
            for node in nodes.values():
                if target.matches(self.facts_of(node)) and not self.directory.is_revoked(node.node_id):
                    names[node.node_id] = node.name
            offset += _PAGE
        return names

    def facts_of(self, node: Node) -> NodeFacts:
        """What a target can look at, all tags included."""
        return self.configuration.tagging.applied(node.facts())

    def _row(self, node: Node, sighting: Sighting | None) -> NodeRow:
        return node_row(
            node,
            sighting,
            self.configuration.tagging,
            self.clock.seconds(),
            self.directory.is_revoked(node.node_id),
            self.clones.of(node.node_id),
        )
