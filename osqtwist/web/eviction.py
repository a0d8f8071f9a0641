"""
Putting out whoever is connected and is refused from some moment on, whatever the connection is at.

New handshakes and requests are refused by those who look at them.  This is for connections that are open by then.
"""

from __future__ import annotations

import attrs

from osqtwist.passedcertificates import Verification
from osqtwist.tls import ReloadingServerTLS, connection_of
from osqtwist.web.nodes import NodeAPI
from osqtwist.web.site import NodeChannel, NodeSite


@attrs.define(eq=False)
class Eviction:
    """
    For nodes: revoked, denied, revoked by their CA.

    :ivar verification: of certificates that proxies pass, if any do.
    """

    site: NodeSite
    api: NodeAPI
    tls: ReloadingServerTLS
    verification: Verification | None = None

    def begin(self) -> None:
        """Be told from now on."""
        api = self.api
        api.directory.end_connections = self.end
        api.checks.denials.on_new = self.answer_and_end
        if api.checks.responders is not None:
            api.checks.responders.on_revoked = self.answer_and_end
        end_revoked(self.site, self.tls, self.verification)

    def answer_and_end(self) -> None:
        """Have the held reads of whoever is refused answered; in a moment end what is still open then."""
        for channel in list(self.site.channels):
            if channel.caller is not None and self.api.is_out(channel):
                self.api.distributed.end_reads_of(channel.caller.node_id)
        self.api.directory.end_soon()

    def end(self) -> None:
        """End the connections of whoever is refused."""
        self.site.put_out(self.api.is_out)


def end_revoked(site: NodeSite, tls: ReloadingServerTLS, verification: Verification | None = None) -> None:
    """
    Have connections end, from now on, whose certificates are on a revocation list that comes into force, or of a CA
    that is trusted no more.

    Those whose handshake began before that and ends after it too; whoever comes then, OpenSSL refuses in the handshake.
    """

    def is_refused(channel: NodeChannel) -> bool:
        if channel.passed is not None and verification is not None:
            shown = channel.passed.certificate
            return shown is not None and bool(verification.problem_with(shown))
        caller = channel.caller
        if caller is not None:
            # Reading all certificates again would take long.
            certificate = caller.certificate
            if certificate is None or not tls.may_be_refused(certificate):
                return False
        connection = connection_of(channel.transport)
        return connection is not None and tls.is_refused_since(connection)

    def end_one(channel: NodeChannel) -> None:
        connection = connection_of(channel.transport)
        if connection is not None and tls.is_refused_since(connection):
            site.put_out(lambda each: each is channel)

    tls.on_lists = lambda: site.put_out(is_refused)
    site.after_handshake = end_one
