"""
Who is this?  From the certificate of the connection and the node key of the request, without asking the store.

Certificate mode: a certificate and no key; the node is the certificate's.  Key mode: a signed key.  Bound mode: a
key that was issued over a certificate, worthless with any other.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from osqtwist.identity import CertificateIdentity, node_id_for_certificate
from osqtwist.nodekey import CertificateMissing, InvalidNodeKey, NodeKeys, WrongCertificate


class NodeInvalid(Exception):
    """The credential is proven bad; the node should drop its key and enroll again."""


class Unproven(Exception):
    """The request does not say who sends it, or contradicts itself; the node keeps its key and tries again."""


@attrs.frozen
class Caller:
    """
    A node that has proven itself.

    :ivar name: the identity of its certificate; empty when only the key is known.
    :ivar certificate: what the certificate of this connection says, if one was shown.
    :ivar issued_at: when its key was issued; 0 without one.
    :ivar signing_key: the id of what signed its key.
    """

    node_id: str
    name: str
    certificate: CertificateIdentity | None
    issued_at: float = 0.0
    signing_key: str = ""


@attrs.frozen
class Authentication:
    """
    :ivar require_certificate: keys that are not bound to a certificate are refused, so that a fleet that moves
        to certificates enrolls again and gets bound ones.
    :ivar is_revoked: whether a node, or a key of it issued at a moment, is refused.
    :ivar node_of: the node that a key stands for which was issued for a node at a moment, as long as it is not bound.
    """

    node_keys: NodeKeys
    is_revoked: Callable[[str, float], bool]
    require_certificate: bool
    node_of: Callable[[str, float], str] = lambda node_id, issued_at: node_id

    def authenticate(
        self, body_key: str | None, header_key: str | None, certificate: CertificateIdentity | None
    ) -> Caller:
        """
        Who sends a request.

        :param body_key: ``node_key`` of the body; absent in the blocks of a carve.
        :param header_key: of ``Authorization: NodeKey``, which clients send from 5.23 on.
        :raise NodeInvalid: the credential is proven bad.
        :raise Unproven: it is not, but it does not suffice either.
        """
        if body_key and header_key and body_key != header_key:
            raise Unproven("the node keys in the header and in the body differ")
        node_key = body_key or header_key
        if node_key:
            return self._by_key(node_key, certificate)
        if certificate is None:
            # A client without a key sends this after a round of failed enrolling; it expects to be told to enroll.
            raise NodeInvalid("no node key and no certificate")
        caller = Caller(node_id_for_certificate(certificate.value), certificate.value, certificate)
        if self.is_revoked(caller.node_id, 0.0):
            raise NodeInvalid("this node is revoked")
        return caller

    def _by_key(self, node_key: str, certificate: CertificateIdentity | None) -> Caller:
        try:
            claims = self.node_keys.verify(node_key, certificate.value if certificate else "")
        except (InvalidNodeKey, WrongCertificate) as problem:
            raise NodeInvalid(str(problem)) from None
        except CertificateMissing as problem:
            raise Unproven(str(problem)) from None
        node_id = claims.node_id if claims.is_bound else self.node_of(claims.node_id, claims.issued_at)
        if self.is_revoked(node_id, claims.issued_at):
            raise NodeInvalid("this node is revoked")
        if self.require_certificate and not claims.is_bound:
            raise NodeInvalid("this node key is not bound to a certificate")
        name = certificate.value if certificate and claims.is_bound else ""
        return Caller(node_id, name, certificate, claims.issued_at, claims.key_id)
