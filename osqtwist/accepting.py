"""
Accepting connections no faster than they are served.

A herd (every node at once, after a restart) is kept in the kernel's queue: a connection that is not accepted yet costs
nothing, and its handshake deadline does not run.  Were all of them accepted at once, each would get a share of the
processor so small that most would miss their deadline after the work on them was done.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.internet.tcp import Port

ACCEPTS_AT_ONCE = 8
"""Connections accepted in one turn of the reactor; in each turn whoever has sent something is served too."""


class PacedPort(Port):
    """A TCP port that takes a few connections a turn, however many wait."""

    @property
    def numberAccepts(self) -> int:
        """How many; twisted's own port would take ever more while there are more."""
        return ACCEPTS_AT_ONCE

    @numberAccepts.setter
    def numberAccepts(self, count: int) -> None:
        """Stay as it is."""


def listen(reactor: Any, listening: socket.socket, factory: Any) -> IListeningPort:
    """Serve a socket that is bound and listens already; the descriptor is duplicated."""
    # What reactor.adoptStreamPort() does, with another class.
    port: IListeningPort = PacedPort._fromListeningDescriptor(reactor, listening.fileno(), listening.family, factory)
    port.startListening()
    return port
