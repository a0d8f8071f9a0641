"""
Enrollment: an enroll secret or a certificate buys a node key.

Never held: while osquery enrolls, all its other threads wait (enroll.cpp).  Enrolling again gives the same node.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.identity import CertificateIdentity, node_id_for_certificate, node_id_for_host
from osqtwist.interfaces import INodeStore, ISignals, Report, StoreFull, StoreUnavailable
from osqtwist.node import TAG_PATTERN, CertificateRecord, Node
from osqtwist.nodekey import NodeKeys
from osqtwist.wire import EnrollRequest


class EnrollmentRefused(Exception):
    """Neither the secret nor a certificate lets this node in."""


@attrs.frozen
class EnrollSecret:
    """One enroll secret, kept as its SHA-256, and the tags that nodes get by it."""

    digest: bytes = attrs.field(repr=False)
    tags: tuple[str, ...] = ()


@attrs.define
class EnrollSecrets:
    """The enroll secrets in force; :attr:`secrets` is replaced whole when their file changes."""

    secrets: tuple[EnrollSecret, ...] = ()

    def match(self, secret: str) -> EnrollSecret | None:
        """The secret that was given, compared with all of them in constant time."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        found = None
        for candidate in self.secrets:
            if hmac.compare_digest(candidate.digest, digest):
                found = candidate
        return found if secret else None


def parse_enroll_secrets(text: str) -> tuple[EnrollSecret, ...]:
    """
    Enroll secrets from their file: ``SECRET [TAG ...]`` a line; ``#`` begins a comment line.

    :raise ValueError: a line is something else, or a tag has other letters than a tag may have.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        secret, *tags = words
        wrong = [tag for tag in tags if not TAG_PATTERN.fullmatch(tag)]
        if wrong:
            raise ValueError(f"line {number}: {wrong[0][:64]!r} cannot be a tag")
        found.append(EnrollSecret(hashlib.sha256(secret.encode()).digest(), tuple(tags)))
    return tuple(found)


@attrs.frozen
class Enrollment:
    """
    :ivar is_revoked: whether a node may not come back.
    :ivar by_certificate: whether a certificate suffices, without a secret.
    :ivar report: told of the node; who hears it finds out whether it is new.
    :ivar placed: which node a machine is that enrolls, and when: see :meth:`osqtwist.clonewatch.CloneWatch.placed`.
    """

    clock: IReactorTime
    nodes: INodeStore
    signals: ISignals
    node_keys: NodeKeys
    secrets: EnrollSecrets
    is_revoked: Callable[[str], bool]
    placed: Callable[[Node], Awaitable[Node]]
    by_certificate: bool = True
    report: Report = lambda kind, node_id, facts: None

    async def enroll(self, request: EnrollRequest, certificate: CertificateIdentity | None) -> tuple[Node, str]:
        """
        Let a node in; answers with the node and its key when the store has it.

        :raise EnrollmentRefused: it is not let in.
        :raise StoreUnavailable: nothing is known of the node's right; it should try again.
        """
        secret = self.secrets.match(request.enroll_secret)
        if secret is None and (certificate is None or not self.by_certificate):
            raise EnrollmentRefused("the enroll secret is wrong" if request.enroll_secret else "no enroll secret")
        tags = secret.tags if secret else ()
        if certificate:
            node = Node(
                node_id=node_id_for_certificate(certificate.value),
                name=certificate.value,
                proof="certificate",
                certificate=certificate_record(certificate),
                tags=tags,
                **self._own_word(request),
            )
        elif request.host_identifier:
            node = Node(
                node_id=node_id_for_host(request.host_identifier),
                name=request.host_identifier,
                proof="secret",
                tags=tags,
                **self._own_word(request),
            )
        else:
            raise EnrollmentRefused("host_identifier is empty, and no certificate was shown")
        node = await self.placed(node)
        if self.is_revoked(node.node_id):
            raise EnrollmentRefused("this node is revoked")
        node = await self.nodes.record(node)
        with contextlib.suppress(StoreUnavailable, StoreFull):
            # Lost, it only costs other processes a moment of knowing the node as it was.
            await self.signals.publish("nodes", node.node_id)
        self.report("node_new", node.node_id, {"name": node.name, "proof": node.proof})
        identity = certificate.value if certificate else ""
        return node, self.node_keys.issue(node.node_id, node.enrolled_at, identity)

    def _own_word(self, request: EnrollRequest) -> dict[str, Any]:
        return {
            "host_identifier": request.host_identifier,
            "platform_type": request.platform_type,
            "host_details": request.host_details,
            "enrolled_at": self.clock.seconds(),
        }


def certificate_record(certificate: CertificateIdentity) -> CertificateRecord:
    """What the store keeps of a certificate."""
    return CertificateRecord(
        identity=certificate.value,
        issuer=certificate.issuer,
        serial=certificate.serial,
        fingerprint=certificate.fingerprint,
        not_after=certificate.not_after,
        key_type=certificate.key_type,
        tags=certificate.tags,
    )
