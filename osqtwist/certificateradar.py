"""Which nodes' certificates end soon, which were renewed, and how many are of which CA: ready to be JSON."""

from __future__ import annotations

import math
from typing import TypedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.interfaces import INodeStore
from osqtwist.metrics import Metrics
from osqtwist.noderow import DAY, CertificateRow, certificate_row

MOST_ISSUERS = 20
"""Issuers that metrics name, those of most nodes; the rest is counted together, as ``other``."""

_ENDS = (("expired", -math.inf, 0), ("7 days", 0, 7), ("30 days", 7, 30), ("later", 30, math.inf))
_RENEWED_DAYS = 7


class NodeCertificateRow(CertificateRow):
    """The certificate that a node showed last."""

    node: str
    name: str
    seen_at: float | None


class IssuerRow(TypedDict):
    """Who issued the certificates of so many nodes."""

    issuer: str
    nodes: int


@attrs.frozen
class CertificateRadar:
    """Nodes by the certificate that they showed last; each question is of an index in the store, not of each node."""

    clock: IReactorTime
    nodes: INodeStore
    metrics: Metrics

    async def ending(self, within_days: float, limit: int) -> list[NodeCertificateRow]:
        """Nodes whose certificate has ended, or ends within so many days: the first to end first."""
        now = self.clock.seconds()
        return await self._rows(await self.nodes.expiring(0.0, now + within_days * DAY, limit))

    async def renewed(self, within_days: float, limit: int) -> list[NodeCertificateRow]:
        """Nodes that came with another certificate in the last so many days, the last to come first."""
        return await self._rows(await self.nodes.renewed(self.clock.seconds() - within_days * DAY, limit))

    async def issuers(self) -> list[IssuerRow]:
        """Who issued the nodes' certificates, and to how many nodes; the most first."""
        found = await self.nodes.issuers()
        return [{"issuer": issuer, "nodes": count} for issuer, count in sorted(found.items(), key=_most_first)]

    async def update_metrics(self) -> None:
        """Look up the figures."""
        now = self.clock.seconds()
        for word, start, end in _ENDS:
            count = await self.nodes.count_expiring(now + start * DAY, now + end * DAY)
            self.metrics.node_certificates.labels(ends=word).set(count)
        self.metrics.nodes_renewed.set(await self.nodes.count_renewed(now - _RENEWED_DAYS * DAY))
        issuers = sorted((await self.nodes.issuers()).items(), key=_most_first)
        self.metrics.node_issuers.clear()
        for issuer, count in issuers[:MOST_ISSUERS]:
            self.metrics.node_issuers.labels(issuer=issuer).set(count)
        if rest := sum(count for _, count in issuers[MOST_ISSUERS:]):
            self.metrics.node_issuers.labels(issuer="other").set(rest)

    async def _rows(self, node_ids: list[str]) -> list[NodeCertificateRow]:
        now = self.clock.seconds()
        nodes = await self.nodes.get_many(node_ids)
        sightings = await self.nodes.sightings(node_ids)
        rows: list[NodeCertificateRow] = []
        for node_id in node_ids:
            if (node := nodes.get(node_id)) and (row := certificate_row(node, now)):
                seen_at = sightings[node_id].seen_at if node_id in sightings else None
                rows.append({"node": node_id, "name": node.name, **row, "seen_at": seen_at})
        return rows


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
