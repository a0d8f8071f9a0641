"""A node as operators see it, in a shape that is ready to be JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from osqtwist.node import Node, Sighting
from osqtwist.tagging import Tagging

ONLINE_WITHIN = 60.0
"""A node that was heard of in this many seconds counts as online."""
DAY = 86400.0

_AGENT = "osquery/"


def node_row(
    node: Node, sighting: Sighting | None, tagging: Tagging, now: float, revoked: bool, clones: list[str]
) -> dict[str, Any]:
    """
    A node in a list.

    :param clones: ids of the nodes that share its host identifier or certificate; its own if they cannot be parted.
    """
    seen = sighting or Sighting(seen_at=0.0)
    sources = tagging.sources(node)
    return {
        "node": node.node_id,
        "name": node.name,
        "proof": node.proof,
        "secret": node.secret or None,
        "host_identifier": node.host_identifier,
        "platform": node.platform,
        "osquery_version": version_of(node, seen),
        "tags": list(sources),
        "tag_sources": sources,
        "given_tags": list(node.given_tags),
        "note": node.note,
        "enrolled_at": node.enrolled_at or None,
        "first_seen_at": seen.first_seen_at or None,
        "seen_at": seen.seen_at or None,
        "online": seen.seen_at >= now - ONLINE_WITHIN,
        "address": seen.address,
        "addresses": [{"address": each.address, "at": each.at} for each in seen.addresses],
        "user_agent": seen.user_agent,
        "certificate": certificate_row(node, now),
        "config": msgspec.to_builtins(seen.config) if seen.config else None,
        "revoked": revoked,
        "clones": clones,
    }


def certificate_row(node: Node, now: float) -> dict[str, Any] | None:
    """The certificate that a node showed last."""
    if node.certificate is None:
        return None
    days = round((node.certificate.not_after - now) / DAY, 1)
    row: dict[str, Any] = {"before": None} | msgspec.to_builtins(node.certificate)
    return row | {"tags": list(node.certificate.tags), "days": days}


def version_of(node: Node, sighting: Sighting) -> str:
    """The version of its osquery: as its requests say, since an upgrade is no reason to enroll."""
    said = sighting.user_agent
    return said.removeprefix(_AGENT) if said.startswith(_AGENT) else node.osquery_version
