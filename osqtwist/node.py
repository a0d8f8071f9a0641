"""
Nodes: what is known of a machine that runs osqueryd, and how sure we are of it.

A node's id is opaque, 20 hexadecimal digits made from what proves the node (see :mod:`osqtwist.identity`), so it
is safe in a key, a header and a path, and enrolling again gives the same one.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from osqtwist.targeting import NodeFacts

TAG_PATTERN = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")
"""What a tag may look like: nothing in it needs quoting anywhere."""

# osquery/core/platform_type.h: the bits of platform_type, most telling first.
_PLATFORM_BITS = ((16, "darwin"), (8, "linux"), (2, "windows"), (32, "freebsd"), (4, "bsd"), (1, "posix"))
_FAMILIES = {
    "macos": "darwin",
    "darwin": "darwin",
    "windows": "windows",
    "freebsd": "freebsd",
}
_MAX_PLATFORM_WORD = 64

HostDetails = dict[str, dict[str, str]]
"""The first rows of os_version, osquery_info, system_info and platform_info; a table without a row is absent."""


class FormerCertificate(msgspec.Struct, frozen=True):
    """A certificate that a node shows no more."""

    issuer: str
    serial: str
    not_after: float


class CertificateRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    The certificate a node last showed: enough to find it again and to see it expire.

    :ivar shown_at: Unix time at which it was new here; the store keeps it, and ``before``, as long as this is the one.
    :ivar before: the one it came in place of, if there was one.
    """

    identity: str
    issuer: str
    serial: str
    fingerprint: str
    not_after: float
    key_type: str
    tags: tuple[str, ...] = ()
    shown_at: float = 0.0
    before: FormerCertificate | None = None


class FormerNode(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node whose record was merged into another's: what it was called, and when that was."""

    node_id: str
    name: str
    host_identifier: str = ""
    merged_at: float = 0.0


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One node, as the store keeps it.

    :ivar proof: what the id rests on: a certificate, or an enroll secret and the node's own word.
    :ivar platform_type: osquery's bit mask, a decimal string, as the node sent it.
    :ivar tags: tags from the enroll secret; those from the certificate are with that.
    :ivar secret: the name of the enroll secret that it came by; empty for one without a name, or none.
    :ivar given_tags: tags that operators gave it.  They, and all down to ``former``, stay through enrollments and are
        no part of the record.
    :ivar found_tags: tags whose tag query gave rows here; which of them count, :mod:`osqtwist.tagging` decides.
    :ivar note: what operators want to remember of it.
    :ivar former: nodes that were merged into it.
    :ivar enrolled_at: Unix time of the newest enrollment, 0 for a node that never enrolled (it shows a
        certificate and runs with ``--disable_enrollment``).  Node keys say the same second, each enrollment another.
    :ivar machine_before: the mark (see :mod:`osqtwist.clone`) of the machine that enrolled as this node before the
        present one, if that was another.
    """

    node_id: str
    name: str
    proof: Literal["certificate", "secret"]
    host_identifier: str = ""
    platform_type: str = ""
    tags: tuple[str, ...] = ()
    secret: str = ""
    given_tags: tuple[str, ...] = ()
    found_tags: tuple[str, ...] = ()
    note: str = ""
    former: tuple[FormerNode, ...] = ()
    host_details: HostDetails = {}
    certificate: CertificateRecord | None = None
    enrolled_at: float = 0.0
    machine_before: str = ""

    @property
    def platforms(self) -> frozenset[str]:
        """Every platform word that fits: the family from ``platform_type``, and what os_version says."""
        words: set[str] = set()
        if self.platform_type.isascii() and self.platform_type.isdecimal() and len(self.platform_type) < 10:
            mask = int(self.platform_type)
            words.update(word for bit, word in _PLATFORM_BITS if mask & bit)
        os_version = self.host_details.get("os_version", {})
        words.update(os_version.get("platform", "").lower().split())
        words.update(os_version.get("platform_like", "").lower().split())
        build = self.host_details.get("osquery_info", {}).get("build_platform", "").lower()
        words.add(_FAMILIES.get(build, "linux" if build else ""))
        return frozenset(word for word in words if word and len(word) <= _MAX_PLATFORM_WORD)

    @property
    def platform(self) -> str:
        """The family in one word, or nothing if the node never said."""
        return next((family for family in ("darwin", "linux", "windows", "freebsd") if family in self.platforms), "")

    @property
    def osquery_version(self) -> str:
        """The version from the newest enrollment, or nothing."""
        return self.host_details.get("osquery_info", {}).get("version", "")

    @property
    def firm_tags(self) -> frozenset[str]:
        """The tags that depend on nothing else: of operators, secret and certificate."""
        return frozenset((*self.tags, *self.given_tags, *(self.certificate.tags if self.certificate else ())))

    def facts(self) -> NodeFacts:
        """What a target can look at, but for what :mod:`osqtwist.tagging` adds."""
        tags = self.firm_tags
        return NodeFacts(
            node_id=self.node_id,
            name=self.name,
            host_identifier=self.host_identifier,
            platforms=self.platforms,
            tags=tags,
            firm_tags=tags,
            found_tags=frozenset(self.found_tags),
            osquery_version=self.osquery_version,
            secret=self.secret,
            identity=self.certificate.identity if self.certificate else "",
            issuer=self.certificate.issuer if self.certificate else "",
        )


ConfigState = Literal["confirmed", "sent", "unconfirmed"]


class ConfigServed(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    The config that a node was answered last.

    :ivar state: ``confirmed``: the node said that it has it; ``sent``: it got it, and will say so next time;
        ``unconfirmed``: it got it, and its osquery does not know of etags.
    """

    etag: str
    state: ConfigState
    at: float


class AddressSeen(msgspec.Struct, frozen=True):
    """An address that a node came from, and when it did last."""

    address: str
    at: float


MOST_ADDRESSES = 5
"""Addresses that are kept of a node."""


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    The last time a node was heard of.

    :ivar seen_at: Unix time of its newest request.
    :ivar first_seen_at: Unix time of its first.
    :ivar user_agent: what its requests call themselves, for instance ``osquery/5.23.1``.
    :ivar config: the config it was answered; written down, ``None`` leaves what is kept.
    :ivar addresses: the last :data:`MOST_ADDRESSES` that differ, newest first; the store makes them of :attr:`address`.
    """

    seen_at: float
    first_seen_at: float = 0.0
    address: str = ""
    user_agent: str = ""
    config: ConfigServed | None = None
    addresses: tuple[AddressSeen, ...] = ()


class Revocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Why a node, or the keys it was given before a moment, are refused.

    :ivar keys_before: node keys issued before this Unix time are refused; 0 refuses the node altogether.
    """

    node_id: str
    revoked_at: float
    reason: str = ""
    keys_before: float = 0.0
