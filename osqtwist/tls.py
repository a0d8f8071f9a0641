"""
TLS towards nodes: contexts made of files, read again when the files change.

OpenSSL's own verdict decides in the handshake: other CA, expired, revoked, wrong key usage.  A Python verification
callback is used only where a revocation list would otherwise lock a fleet out (see
:meth:`osqtwist.revocationlists.RevocationLists.tolerances`).  There is
no session resumption: osqueryd never resumes (http_client.cpp makes a new context each time), and a resumed session
would not be checked again.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.identity import CertificateIdentity, IdentityCache
from osqtwist.revocationlists import OF_SCOPE, RevocationLists, read_lists
from osqtwist.steadyloop import steady_loop
from osqtwist.tlsfiles import (
    UNREADABLE,
    TLSFiles,
    UnusableCredential,
    authorities,
    certificates,
    intermediates,
    is_issued_by,
    private_key,
    public_key,
)

CHECK_INTERVAL = 0.5
"""Seconds between two looks at the files: a revoked certificate is to be out within two, open connections and all."""
WARN_BEFORE_EXPIRY = 14 * 86400.0
WARN_AGAIN = 3600.0
"""Seconds after which a warning is repeated, as long as it is true."""

# What osqueryd offers (tls.h), with ChaCha20 for other clients.  AES-128 comes first: its hash, SHA-256, is the
# cheaper one, and the handshake of TLS 1.3 is full of it.
_CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    b"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_CIPHERS_13 = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
# SSL_MODE_NO_AUTO_CHAIN (ssl.h), which pyOpenSSL has no name for: left to itself, OpenSSL makes up and verifies a chain
# for the server's own certificate in each handshake, out of the store that is for nodes.
_MODE_NO_AUTO_CHAIN = 0x8
_VERIFY = {
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
    "optional": SSL.VERIFY_PEER,
    "none": SSL.VERIFY_NONE,
}


@attrs.frozen
class LoadedTLS:
    """
    A context, and what there is to know of it.

    :ivar not_after: Unix time at which the server's certificate ends.
    :ivar lists: the revocation lists in force.
    :ivar warnings: what an operator should know, beside what the lists say of their times.
    :ivar trusted: the CAs of those who connect.
    :ivar contents: what was in the files; the private key too.
    :ivar tolerates: whether a list past its time is no reason to refuse anybody.
    """

    context: SSL.Context
    not_after: float
    lists: RevocationLists
    warnings: tuple[str, ...]
    trusted: tuple[x509.Certificate, ...] = ()
    contents: Mapping[Path, bytes] = attrs.field(factory=dict, repr=False)
    tolerates: bool = False

    def trusts(self, chain: Sequence[x509.Certificate]) -> bool:
        """Whether a chain, which was verified when the CAs were others, still ends at one; a renewed CA is the same."""
        return any(
            each == authority or is_issued_by(each, authority) for each in reversed(chain) for authority in self.trusted
        )


def load(files: TLSFiles, now: float, before: RevocationLists | None = None) -> LoadedTLS:
    """
    Read the files and make a context of them.

    :param before: revocation lists that stay in force where the files have none.
    :raise UnusableCredential: one of them cannot be used.
    """
    files = attrs.evolve(files, was_read={})
    try:
        return _load(files, now, before)
    except UNREADABLE as problem:
        # Cryptography reads a certificate part by part, when it is asked, and OpenSSL once more.
        named = ", ".join(files.said(name) for name in ("cert", "client_ca") if getattr(files, name))
        raise UnusableCredential(f"{named}: a part of a certificate cannot be read: {problem}") from None


def _load(files: TLSFiles, now: float, before: RevocationLists | None) -> LoadedTLS:
    if files.client_auth == "required" and not files.client_ca:
        raise UnusableCredential(f"--client-auth required needs {files.options['client_ca']}")
    chain = certificates(files) if files.cert is not None else []
    trusted = authorities(files)
    context = _new_context()
    not_after, warnings = math.inf, list[str]()
    if chain:
        not_after, warnings = _show_certificate(context, files, chain, trusted, now)
    lists = RevocationLists()
    tolerated: frozenset[int] = frozenset()
    if trusted:
        store = context.get_cert_store()
        if store is None:
            raise UnusableCredential("OpenSSL has no certificate store")
        _trust(store, trusted, files.said("client_ca"))
        if files.client_crl:
            lists = read_lists(files, trusted, before)
            for each in lists.lists:
                _forbid(store, each.crl, files.said("client_crl"))
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
            tolerated, more = lists.tolerances(files, trusted)
            warnings += more
        located = lists.located()
        context.set_verify(
            _VERIFY[files.client_auth], _tolerating(tolerated, located) if tolerated or located else None
        )
    return LoadedTLS(context, not_after, lists, tuple(warnings), tuple(trusted), files.was_read, bool(tolerated))


def _show_certificate(
    context: SSL.Context,
    files: TLSFiles,
    chain: list[x509.Certificate],
    trusted: list[x509.Certificate],
    now: float,
) -> tuple[float, list[str]]:
    """Have a context show the server's certificate; answers with its end, and what there is to warn of."""
    leaf = chain[0]
    key = private_key(files)
    if key.public_key() != public_key(files, leaf):
        raise UnusableCredential(f"{files.said('key')} is not the key of {files.said('cert')}")
    not_after = leaf.not_valid_after_utc.timestamp()
    if not_after <= now:
        raise UnusableCredential(f"{files.said('cert')} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if leaf.not_valid_before_utc.timestamp() > now:
        raise UnusableCredential(
            f"{files.said('cert')} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )
    warnings = []
    if not_after - now < WARN_BEFORE_EXPIRY:
        warnings.append(f"{files.said('cert')} expires on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    try:
        context.use_certificate(leaf)
        for issuer in chain[1:] or intermediates(leaf, trusted):
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(key)
    except (SSL.Error, crypto.Error, ValueError, TypeError) as problem:
        # Such as a key too short for OpenSSL's security level, or a certificate that only cryptography can read.
        is_ours = isinstance(problem, SSL.Error | crypto.Error) and any(problem.args)
        reason = problem.args[0][-1][-1] if is_ours else problem
        raise UnusableCredential(f"{files.said('cert')} is refused by OpenSSL: {reason}") from None
    return not_after, warnings


def _trust(store: crypto.X509Store, authorities: Sequence[x509.Certificate], said: str) -> None:
    for number, authority in enumerate(authorities, 1):
        try:
            store.add_cert(crypto.X509.from_cryptography(authority))
        except crypto.Error:
            raise UnusableCredential(f"{said}: OpenSSL cannot read certificate {number} of it") from None


def _forbid(store: crypto.X509Store, crl: x509.CertificateRevocationList, said: str) -> None:
    try:
        store.add_crl(crl)
    except crypto.Error:
        raise UnusableCredential(f"{said}: OpenSSL cannot read the list of {crl.issuer.rfc4514_string()}") from None


def _new_context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | _MODE_NO_AUTO_CHAIN)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"osqtwist")
    context.set_cipher_list(_CIPHERS)
    context.set_tls13_ciphersuites(_CIPHERS_13)
    # HTTP/2 hides the peer's certificate from twisted.web, and osqueryd does not speak it.
    context.set_alpn_select_callback(_choose_http1)
    return context


def _choose_http1(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _tolerating(
    tolerated: frozenset[int], located: frozenset[bytes]
) -> Callable[[SSL.Connection, crypto.X509, int, int, int], bool]:
    def verdict(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        return bool(ok) or error in tolerated or (error in OF_SCOPE and _is_in_the_list(certificate, located))

    return verdict


def _is_in_the_list(certificate: crypto.X509, located: frozenset[bytes]) -> bool:
    """Whether the list of its CA is about it, though that says where it is and the certificate does not."""
    try:
        plain = certificate.to_cryptography()
        if plain.issuer.public_bytes() not in located:
            return False
        plain.extensions.get_extension_for_class(x509.CRLDistributionPoints)
    except x509.ExtensionNotFound:
        return True
    except UNREADABLE:
        return False
    return False


class ReloadingServerTLS:
    """
    Gives each new connection the newest good context.

    A reload drops no connection: those that are open keep the context they began with.

    :param on_reload: called with whether a reload was good, and with the loaded state in force.
    :param spare: contents of the files when they were last good, for when they are not.
    :ivar good: contents of the files when they were last good.
    :ivar on_lists: called when there are other revocation lists in force, or a CA is trusted no more: whoever is on
        them, or of it, should be put out.
    :raise UnusableCredential: the files cannot be used at all.
    """

    on_lists: Callable[[], object] = staticmethod(lambda: None)
    _log = Logger()

    def __init__(
        self,
        files: TLSFiles,
        on_reload: Callable[[bool, LoadedTLS], None] = lambda ok, loaded: None,
        now: Callable[[], float] = time.time,
        spare: Mapping[Path, bytes] | None = None,
    ) -> None:
        self.files = files
        self._on_reload = on_reload
        self._now = now
        self._signature = self._sign()
        self._told: dict[str, float] = {}
        self._taken_out: frozenset[str] = frozenset()
        is_good = True
        try:
            self.loaded = load(files, now())
        except UnusableCredential as problem:
            if not spare:
                raise
            self.loaded, is_good = load(attrs.evolve(files, contents=spare), now()), False
            self._log.error("certificates stay as they were when they were last good: {problem}", problem=problem)
        self.good = self.loaded.contents
        self._tell(self.loaded.warnings)
        self._tell_of_lists()
        on_reload(is_good, self.loaded)

    def connection(self, accepted: socket.socket) -> SSL.Connection:
        """A connection on a socket, with the context in force now."""
        return SSL.Connection(self.loaded.context, accepted)

    def is_refused_since(self, connection: SSL.Connection) -> bool:
        """
        Whether the peer would not be let in any more, which was when its connection began.

        Its certificate is on a list that came into force since then, or its CA was taken out.
        """
        if connection.get_context() is self.loaded.context:
            return False
        chain = connection.get_verified_chain(as_cryptography=True) or []
        return bool(chain) and (self.loaded.lists.have(chain[0]) or not self.loaded.trusts(chain))

    def may_be_refused(self, certificate: CertificateIdentity) -> bool:
        """What can be said of that for what is known of a certificate, without reading it: ``False`` is sure."""
        if self.loaded.lists.may_have(certificate.issuer, int(certificate.serial, 16)):
            return True
        # A certificate right below a CA that is trusted, as almost all are, is of that one, unless two have its name.
        still_there = {each.subject.rfc4514_string() for each in self.loaded.trusted} - self._taken_out
        return bool(self._taken_out) and certificate.issuer not in still_there

    def check(self) -> None:
        """Read the files again if one changed; and say it if a revocation list is stale, or soon will be."""
        signature = self._sign()
        if signature != self._signature:
            self._signature = signature
            self.reload("a file changed")
        else:
            self._tell_of_lists()

    def reload(self, why: str) -> None:
        """Read the files again; if one cannot be used, what is in force of it stays, and the log says which."""
        old = self.loaded
        before = old.lists
        try:
            self.loaded = load(self.files, self._now(), before if before.lists else None)
        except UnusableCredential as problem:
            self._log.error("certificates stay as they were ({why}): {problem}", why=why, problem=problem)
            self._on_reload(False, self.loaded)
            return
        lists = self.loaded.lists
        if not lists.problems:
            self.good = self.loaded.contents
        for trouble in lists.problems:
            self._log.error("revocation lists of before stay in force: {problem}", problem=trouble)
        self._log.info("certificates are read again ({why})", why=why)
        self._tell(self.loaded.warnings)
        self._tell_of_lists()
        self._on_reload(not lists.problems, self.loaded)
        removed = [each for each in old.trusted if not self.loaded.trusts([each])]
        for authority in removed:
            name = authority.subject.rfc4514_string()
            self._taken_out |= {name}
            self._tell([f"{name} is trusted no more: open connections of its certificates end"])
        if removed or not lists.is_same_as(before):
            self.on_lists()

    def _tell(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self._log.warn("{warning}", warning=warning)

    def _tell_of_lists(self) -> None:
        """Say what is wrong with the times of the lists, once an hour as long as it is so."""
        now = self._now()
        for about, warning in self.loaded.lists.warnings(self.files, now):
            if now - self._told.get(about, -WARN_AGAIN) >= WARN_AGAIN:
                self._told[about] = now
                self._tell([warning])

    def _sign(self) -> tuple[object, ...]:
        return tuple(_signature(path) for path in self.files.paths)


def _signature(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@attrs.define(eq=False)
class CredentialWatch(Service):
    """Looks at the files of TLS every :data:`CHECK_INTERVAL`."""

    clock: IReactorTime
    tls: ReloadingServerTLS
    _loop: LoopingCall | None = attrs.field(default=None, init=False)

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._loop = steady_loop(self.clock, "the files of TLS", self.tls.check)
        self._loop.start(CHECK_INTERVAL, now=False)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()


@attrs.frozen
class PeerIdentities:
    """Who is at the other end of a connection."""

    cache: IdentityCache

    def of(self, visitor: Any) -> CertificateIdentity | None:
        """
        The identity of the certificate that the peer showed; ``None`` if it showed none.

        :param visitor: a request, a channel, or whatever else has a ``transport``.

        It was verified in the handshake, or the handshake would have failed.

        :raise UnidentifiedCertificate: no rule makes an identity of it.
        """
        connection = connection_of(visitor.transport)
        certificate = connection.get_peer_certificate() if connection else None
        if certificate is None:
            return None
        return self.cache.identify(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))

    def chain_of(self, visitor: Any) -> list[x509.Certificate]:
        """The certificate that the peer showed and those above it, as verified in the handshake; maybe none."""
        connection = connection_of(visitor.transport)
        return (connection.get_verified_chain(as_cryptography=True) or []) if connection else []


def connection_of(transport: Any) -> SSL.Connection | None:
    """The OpenSSL connection of a transport; nothing if it has none, or no longer."""
    get_handle = getattr(transport, "getHandle", None)
    connection = get_handle() if get_handle else None
    return connection if isinstance(connection, SSL.Connection) else None
