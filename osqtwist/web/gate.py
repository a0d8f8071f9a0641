"""Who asks something of the operators' API."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.web.server import Request

from osqtwist.access import Access, OperatorRules
from osqtwist.operator import Actor, NotKnown

_BEARER = "bearer "


@attrs.frozen
class OperatorGate:
    """Finds out who asks: by a token, else by who opened the unix socket, else by the certificate of the connection."""

    rules: OperatorRules
    access: Access

    async def actor_of(self, request: Request) -> Actor:
        """
        Who asks, as proven.

        A token counts alone: who shows one has its role, whoever opened the connection.

        :raise NotKnown: nothing shows it, or it is not true.
        :raise NotAllowed: somebody who has no role.
        """
        said = request.getHeader("authorization")
        if said is not None:
            if not said.lower().startswith(_BEARER):
                raise NotKnown("the header Authorization must be: Bearer TOKEN")
            return await self.access.actor_with_token(said[len(_BEARER) :].strip())
        user = user_of(request)
        if user is not None:
            return self.rules.actor_on_socket(user)
        certificate = _certificate_of(request)
        if certificate is None:
            raise NotKnown("nothing shows who you are: come with a certificate or a token")
        return self.rules.actor_with(certificate)


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


def _certificate_of(request: Request) -> Any:
    get_handle = getattr(request.transport, "getHandle", None)
    connection = get_handle() if get_handle else None
    if not isinstance(connection, SSL.Connection):
        return None
    return connection.get_peer_certificate(as_cryptography=True)
