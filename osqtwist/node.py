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


class CertificateRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The certificate a node last showed: enough to find it again and to see it expire."""

    identity: str
    issuer: str
    serial: str
    fingerprint: str
    not_after: float
    key_type: str


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One node, as the store keeps it.

    :ivar proof: what the id rests on: a certificate, or an enroll secret and the node's own word.
    :ivar platform_type: osquery's bit mask, a decimal string, as the node sent it.
    :ivar tags: tags from the enroll secret and from the certificate; the node cannot choose them.
    :ivar given_tags: tags that operators gave it; they stay through enrollments, and are no part of the record.
    :ivar enrolled_at: Unix time of the newest enrollment, 0 for a node that never enrolled (it shows a
        certificate and runs with ``--disable_enrollment``).
    """

    node_id: str
    name: str
    proof: Literal["certificate", "secret"]
    host_identifier: str = ""
    platform_type: str = ""
    tags: tuple[str, ...] = ()
    given_tags: tuple[str, ...] = ()
    host_details: HostDetails = {}
    certificate: CertificateRecord | None = None
    enrolled_at: float = 0.0

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

    def facts(self) -> NodeFacts:
        """What a target can look at."""
        return NodeFacts(
            node_id=self.node_id,
            name=self.name,
            host_identifier=self.host_identifier,
            platforms=self.platforms,
            tags=frozenset((*self.tags, *self.given_tags)),
            osquery_version=self.osquery_version,
            identity=self.certificate.identity if self.certificate else "",
            issuer=self.certificate.issuer if self.certificate else "",
        )


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    The last time a node was heard of.

    :ivar seen_at: Unix time of its newest request.
    :ivar first_seen_at: Unix time of its first.
    :ivar user_agent: what its requests call themselves, for instance ``osquery/5.23.1``.
    """

    seen_at: float
    first_seen_at: float = 0.0
    address: str = ""
    user_agent: str = ""


class Revocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Why a node, or the keys it was given before a moment, are refused.

    :ivar keys_before: node keys issued before this Unix time are refused; 0 refuses the node altogether.
    """

    node_id: str
    revoked_at: float
    reason: str = ""
    keys_before: float = 0.0
