"""A node as operators see it, in a shape that is ready to be JSON."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from osqtwist.node import (
    AddressSeen,
    ConfigServed,
    ConfigState,
    FormerCertificate,
    FormerNode,
    HostDetails,
    Node,
    Sighting,
)
from osqtwist.tagging import Tagging

ONLINE_WITHIN = 60.0
"""A node that was heard of in this many seconds counts as online."""
DAY = 86400.0

_AGENT = "osquery/"


class CertificateRow(TypedDict):
    """A certificate as operators see it; `days` until it ends, `before` what the node showed before it."""

    identity: str
    issuer: str
    serial: str
    fingerprint: str
    not_after: float
    key_type: str
    tags: list[str]
    shown_at: float
    before: FormerCertificate | None
    days: float


class ConfigRow(TypedDict):
    """
    The config that a node was answered last.

    `is_newest`, where one node is asked for: no other would be served now.
    """

    etag: str
    state: ConfigState
    at: float
    is_newest: NotRequired[bool]


class NodeRow(TypedDict):
    """A node in a list; `clones` are ids of nodes that share its host identifier, key or certificate."""

    node: str
    name: str
    proof: Literal["certificate", "secret"]
    secret: str | None
    host_identifier: str
    platform: str
    osquery_version: str
    tags: list[str]
    tag_sources: dict[str, list[str]]
    given_tags: list[str]
    note: str
    enrolled_at: float | None
    first_seen_at: float | None
    seen_at: float | None
    online: bool
    address: str
    addresses: list[AddressSeen]
    user_agent: str
    certificate: CertificateRow | None
    config: ConfigRow | None
    revoked: bool
    clones: list[str]


class NodeStory(NodeRow):
    """All that is known of a node."""

    platforms: list[str]
    former: list[FormerNode]
    host_details: HostDetails


def node_row(
    node: Node, sighting: Sighting | None, tagging: Tagging, now: float, revoked: bool, clones: list[str]
) -> NodeRow:
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
        "addresses": list(seen.addresses),
        "user_agent": seen.user_agent,
        "certificate": certificate_row(node, now),
        "config": _config_row(seen.config) if seen.config else None,
        "revoked": revoked,
        "clones": clones,
    }


def _config_row(served: ConfigServed) -> ConfigRow:
    return {"etag": served.etag, "state": served.state, "at": served.at}


def certificate_row(node: Node, now: float) -> CertificateRow | None:
    """The certificate that a node showed last."""
    shown = node.certificate
    if shown is None:
        return None
    return {
        "identity": shown.identity,
        "issuer": shown.issuer,
        "serial": shown.serial,
        "fingerprint": shown.fingerprint,
        "not_after": shown.not_after,
        "key_type": shown.key_type,
        "tags": list(shown.tags),
        "shown_at": shown.shown_at,
        "before": shown.before,
        "days": round((shown.not_after - now) / DAY, 1),
    }


def version_of(node: Node, sighting: Sighting) -> str:
    """The version of its osquery: as its requests say, since an upgrade is no reason to enroll."""
    said = sighting.user_agent
    return said.removeprefix(_AGENT) if said.startswith(_AGENT) else node.osquery_version
