"""
Enrollment: an enroll secret or a certificate buys a node key.

Never held: while osquery enrolls, all its other threads wait (enroll.cpp).  Enrolling again gives the same node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from osqtwist.enrollinterfaces import ISecretStore
from osqtwist.enrollsecret import EnrollSecret, EnrollSecrets
from osqtwist.identity import CertificateIdentity, node_id_for_certificate, node_id_for_host
from osqtwist.interfaces import INodeStore, ISignals, Report, StoreFull, StoreUnavailable
from osqtwist.node import CertificateRecord, Node
from osqtwist.nodekey import NodeKeys
from osqtwist.wire import EnrollRequest


class EnrollmentRefused(Exception):
    """Neither the secret nor a certificate lets this node in."""


@attrs.frozen
class Enrollment:
    """
    :ivar is_revoked: whether a node may not come back.
    :ivar by_certificate: whether a certificate suffices, without a secret.
    :ivar used: where it is noted who enrolled by which secret that operators handed out.
    :ivar approve: raises :class:`osqtwist.approval.ApprovalPending` for a node that nobody approved of.
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
    used: ISecretStore
    approve: Callable[[Node, str], Awaitable[None]]
    by_certificate: bool = True
    report: Report = lambda kind, node_id, facts: None

    async def enroll(
        self, request: EnrollRequest, certificate: CertificateIdentity | None, address: str
    ) -> tuple[Node, str]:
        """
        Let a node in; answers with the node and its key when the store has it.

        :raise EnrollmentRefused: it is not let in.
        :raise ApprovalPending: not yet.
        :raise StoreUnavailable: nothing is known of the node's right; it should try again.
        """
        secret = self._right_of(request, certificate)
        if certificate:
            node = Node(
                node_id=node_id_for_certificate(certificate.value),
                name=certificate.value,
                proof="certificate",
                certificate=certificate_record(certificate, self.clock.seconds()),
                **self._own_word(request),
            )
        elif request.host_identifier:
            node = Node(
                node_id=node_id_for_host(request.host_identifier),
                name=request.host_identifier,
                proof="secret",
                **self._own_word(request),
            )
        else:
            raise EnrollmentRefused("host_identifier is empty, and no certificate was shown")
        if secret:
            node = msgspec.structs.replace(node, tags=secret.tags, secret=secret.name)
        node = await self.placed(node)
        if self.is_revoked(node.node_id):
            raise EnrollmentRefused("this node is revoked")
        await self.approve(node, address)
        if secret and secret.secret_id:
            node = await self._use(secret, node, certificate)
        node = await self.nodes.record(node)
        with contextlib.suppress(StoreUnavailable, StoreFull):
            # Lost, it only costs other processes a moment of knowing the node as it was.
            await self.signals.publish("nodes", node.node_id)
        self.report("node_new", node.node_id, {"name": node.name, "proof": node.proof})
        identity = certificate.value if certificate else ""
        return node, self.node_keys.issue(node.node_id, node.enrolled_at, identity)

    def _right_of(self, request: EnrollRequest, certificate: CertificateIdentity | None) -> EnrollSecret | None:
        """The secret that lets a node in; none if its certificate does, and no secret is good."""
        now = self.clock.seconds()
        secret = self.secrets.match(request.enroll_secret, now)
        trouble = ""
        if secret is None:
            trouble = "the enroll secret is wrong" if request.enroll_secret else "no enroll secret"
        elif secret.has_ended(now):
            trouble = "the enroll secret has ended"
        elif not secret.allows(certificate.value if certificate else request.host_identifier):
            trouble = "the enroll secret is not for a node of this name"
        if not trouble:
            return secret
        if certificate and self.by_certificate:
            return None
        if secret is None and request.enroll_secret and self.secrets.stored is None:
            raise StoreUnavailable("the enroll secrets that operators handed out are not known yet")
        raise EnrollmentRefused(trouble)

    async def _use(self, secret: EnrollSecret, node: Node, certificate: CertificateIdentity | None) -> Node:
        """Note that a secret is used; a node that its certificate lets in has no tags of one that is used up."""
        if await self.used.use(secret, node.node_id, node.name, node.enrolled_at):
            return node
        if certificate and self.by_certificate:
            return msgspec.structs.replace(node, tags=(), secret="")
        raise EnrollmentRefused("as many nodes have enrolled by this secret as may")

    def _own_word(self, request: EnrollRequest) -> dict[str, Any]:
        return {
            "host_identifier": request.host_identifier,
            "platform_type": request.platform_type,
            "host_details": request.host_details,
            "enrolled_at": self.clock.seconds(),
        }


def certificate_record(certificate: CertificateIdentity, now: float) -> CertificateRecord:
    """What the store keeps of a certificate that is shown now."""
    return CertificateRecord(
        identity=certificate.value,
        issuer=certificate.issuer,
        serial=certificate.serial,
        fingerprint=certificate.fingerprint,
        not_after=certificate.not_after,
        key_type=certificate.key_type,
        tags=certificate.tags,
        shown_at=now,
    )
