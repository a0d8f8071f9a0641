"""Who asks something of the operators' API."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.web.server import Request

from osqtwist.access import Access, OperatorRules
from osqtwist.operator import Actor, NotAllowed, NotKnown
from osqtwist.sessions import Sessions
from osqtwist.web.browsers import TOKEN_HEADER, is_browser, is_change, must_be_from_us, session_of

_BEARER = "bearer "


@attrs.frozen
class OperatorGate:
    """
    Finds out who asks: by a token, else by a browser's session, else by who opened the unix socket, else by the
    certificate of the connection.
    """

    rules: OperatorRules
    access: Access
    sessions: Sessions

    async def actor_of(self, request: Request) -> Actor:
        """
        Who asks, as proven.

        A token counts alone: who shows one has its role, whoever opened the connection.  A change that a browser asks
        for counts with the change token of its session only.

        :raise NotKnown: nothing shows it, or it is not true.
        :raise NotAllowed: somebody who has no role; or a page of somebody else makes a browser ask.
        """
        said = request.getHeader("authorization")
        if said is not None:
            if not said.lower().startswith(_BEARER):
                raise NotKnown("the header Authorization must be: Bearer TOKEN")
            return await self.access.actor_with_token(said[len(_BEARER) :].strip())
        if session_of(request):
            actor = await self.actor_in_session(request)
            if is_change(request):
                must_be_from_us(request, session_of(request), request.getHeader(TOKEN_HEADER) or "")
            return actor
        if is_change(request) and is_browser(request):
            raise NotAllowed("a browser has to sign in before it changes anything")
        return self.actor_without_session(request)

    async def actor_in_session(self, request: Request) -> Actor:
        """
        Who a browser's session is; whether a change is asked for by a page of ours is for the caller to check.

        :raise NotKnown: there is no session.
        """
        if not session_of(request):
            raise NotKnown("sign in first")
        return await self.sessions.actor_in(session_of(request), lambda: certificate_of(request))

    def actor_without_session(self, request: Request) -> Actor:
        """
        Who is at the other end of the connection itself.

        :raise NotKnown: nothing shows it.
        :raise NotAllowed: somebody who has no role.
        """
        user = user_of(request)
        if user is not None:
            return self.rules.actor_on_socket(user)
        shown = certificate_of(request)
        if shown is None:
            raise NotKnown("nothing shows who you are: come with a certificate or a token")
        return self.rules.actor_with(shown[1])


def user_of(request: Request) -> str | None:
    """The name of the user whose process is at the other end of a unix socket; nothing for other connections."""
    peer = getattr(request.transport, "socket", None)
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def certificate_of(request: Request) -> tuple[str, x509.Certificate] | None:
    """SHA-256 of the certificate that the peer showed in the handshake, and the certificate."""
    get_handle = getattr(request.transport, "getHandle", None)
    connection: Any = get_handle() if get_handle else None
    if not isinstance(connection, SSL.Connection):
        return None
    certificate = connection.get_peer_certificate(as_cryptography=True)
    return (certificate.fingerprint(hashes.SHA256()).hex(), certificate) if certificate else None
