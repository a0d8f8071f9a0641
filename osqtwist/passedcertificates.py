"""
Certificates that were not shown to us, but to a proxy that ends TLS: who is it then?

The proxy has had the node prove that it has the key.  Everything else is looked at again here, with the CAs and
revocation lists in force now, so that a proxy which still has the lists of yesterday lets nobody in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.web.server import Request

from osqtwist.certificatechecks import CertificateRefused
from osqtwist.identity import CertificateIdentity
from osqtwist.namedpeers import NamedPeers, is_address, plain
from osqtwist.passedheaders import (
    BadPassedHeaders,
    TrustedProxy,
    certificate_in,
    last_address,
    names_a_certificate,
)
from osqtwist.proxiedport import proxy_of
from osqtwist.tls import LoadedTLS, PeerIdentities, ReloadingServerTLS

_MOST_KNOWN = 100_000
GOOD_FOR = 60.0
"""Seconds after which a certificate is verified again: its CA, or a list, may have come to its end."""
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


@attrs.frozen
class Passed:
    """
    What a proxy said of a request.

    :ivar certificate: that of the node, not verified yet; nothing if it showed none.
    :ivar problem: why nothing of it can be believed.
    """

    certificate: x509.Certificate | None = None
    problem: str = ""


@attrs.define(eq=False)
class Verification:
    """Verifies certificates against the CAs and lists in force; a good one once in :data:`GOOD_FOR` under the same."""

    tls: ReloadingServerTLS
    now: Callable[[], float] = time.time
    _loaded: LoadedTLS | None = attrs.field(default=None, init=False)
    _store: Any = attrs.field(default=None, init=False)
    _known: dict[bytes, float] = attrs.field(factory=dict, init=False)

    def problem_with(self, certificate: x509.Certificate) -> str:
        """Why a certificate is refused now; empty if it is not."""
        loaded = self.tls.loaded
        if loaded is not self._loaded:
            self._loaded, self._store, self._known = loaded, _store_of(loaded), {}
        now = self.now()
        if certificate.not_valid_after_utc.timestamp() <= now:
            return "it expired"
        fingerprint = certificate.fingerprint(hashes.SHA256())
        if 0 <= now - self._known.get(fingerprint, -math.inf) < GOOD_FOR:
            return ""
        if problem := self._look(certificate):
            return problem
        self._known.pop(fingerprint, None)
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[fingerprint] = now
        return ""

    def chain_of(self, certificate: x509.Certificate) -> list[x509.Certificate]:
        """A certificate that :meth:`problem_with` has nothing against, and those above it."""
        context = crypto.X509StoreContext(self._store, crypto.X509.from_cryptography(certificate))
        return [each.to_cryptography() for each in context.get_verified_chain()]

    def _look(self, certificate: x509.Certificate) -> str:
        loaded = self._loaded
        if loaded is None or not loaded.trusted:
            return "there is no --client-ca that it could be of"
        try:
            crypto.X509StoreContext(self._store, crypto.X509.from_cryptography(certificate)).verify_certificate()
        except crypto.X509StoreContextError as problem:
            return str(problem)
        except crypto.Error:
            return "OpenSSL cannot read it"
        if loaded.lists.have(certificate):
            return "certificate revoked"
        return "" if _is_for_clients(certificate) else "it is not for clients"


def _store_of(loaded: LoadedTLS) -> crypto.X509Store:
    store = crypto.X509Store()
    for authority in loaded.trusted:
        store.add_cert(crypto.X509.from_cryptography(authority))
    # A list that is past its time, and is to count all the same, is looked into by ourselves.
    if loaded.lists.lists and not loaded.tolerates:
        for each in loaded.lists.lists:
            store.add_crl(each.crl)
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    return store


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    return any(each in usage for each in _CLIENT)


@attrs.define(eq=False)
class ProxiedIdentities:
    """
    Who sends a request that may come through a proxy; in the place of :class:`osqtwist.tls.PeerIdentities`.

    :ivar direct: for whoever is no proxy.
    :ivar required: whether a node must have shown a certificate.
    """

    direct: PeerIdentities
    verification: Verification
    proxy: TrustedProxy
    peers: NamedPeers
    required: bool

    def arrive(self, request: Request) -> None:
        """Take down what a proxy says of a request, before anything is done with it."""
        headers = request.requestHeaders

        def values(name: str) -> list[str]:
            return [each.decode("latin-1") for each in headers.getRawHeaders(name.encode(), [])]

        visitor: Any = request
        if not self.peers.have(proxy_of(request.transport)):
            name = names_a_certificate(values)
            visitor.passed = Passed(problem=f"{name} does not come from a trusted proxy") if name else None
        else:
            visitor.passed = self._passed(values)
            # Where the PROXY protocol has said it, a header is the node's own word.
            by_header = self.proxy.address and not hasattr(request.transport, "via")
            if by_header and (address := last_address(self.proxy.address, values)):
                visitor.client = _address(address) or request.client
        visitor.channel.passed = visitor.passed

    def of(self, visitor: Any) -> CertificateIdentity | None:
        """
        The identity of a node's certificate; nothing if it showed none.

        :param visitor: a request, or the connection that it came by.
        :raise UnidentifiedCertificate: no rule makes an identity of it.
        :raise CertificateRefused: it is not verified, or what a proxy says of it cannot be believed.
        """
        passed: Passed | None = visitor.passed
        if passed is None:
            return self.direct.of(visitor)
        if passed.problem:
            raise CertificateRefused(passed.problem)
        if passed.certificate is None:
            return None
        if problem := self.verification.problem_with(passed.certificate):
            raise CertificateRefused(f"the certificate that the proxy passes is refused: {problem}")
        return self.direct.cache.identify(passed.certificate.public_bytes(Encoding.DER))

    def chain_of(self, visitor: Any) -> list[x509.Certificate]:
        """That certificate and those above it."""
        passed: Passed | None = visitor.passed
        if passed is None or passed.certificate is None:
            return self.direct.chain_of(visitor)
        return self.verification.chain_of(passed.certificate)

    def _passed(self, values: Callable[[str], list[str]]) -> Passed:
        try:
            certificate = certificate_in(self.proxy.headers, values)
        except BadPassedHeaders as problem:
            return Passed(problem=str(problem))
        if certificate is None and self.required:
            return Passed(problem="--client-auth is required, and the proxy passes no certificate")
        return Passed(certificate)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as a transport gives it; nothing if this is none."""
    host = plain(text)
    if not is_address(host):
        return None
    return IPv6Address("TCP", host, 0) if ":" in host else IPv4Address("TCP", host, 0)
