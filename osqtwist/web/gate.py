"""Who asks something of the operators' API."""

from __future__ import annotations

import pwd
import socket
import struct

import attrs
from twisted.web.server import Request

from osqtwist.operator import Actor, NotKnown, Role


@attrs.frozen
class Gate:
    """Finds out who asks."""

    async def actor_of(self, request: Request) -> Actor:
        """
        Who asks, as proven.

        :raise NotKnown: nothing shows it.
        """
        user = user_of(request)
        if user is None:
            raise NotKnown("nothing shows who you are")
        return Actor(user, Role.ADMIN, "socket")


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
