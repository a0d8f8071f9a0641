"""Unix sockets that are bound already, by us before the reactor runs, or by systemd."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.python.failure import Failure

_BACKLOG = 4096


class _PathPort(unix.Port):
    """Leaves the socket and its file alone: other processes may listen on it, and more come after this one."""

    # To shut it would end it for them too; twisted knows that of its TCP ports only.
    _shouldShutdown = False

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket, and nothing else."""
        tcp.Port.connectionLost(self, reason)


def listen_on_path(reactor: Any, listening: socket.socket, factory: IProtocolFactory) -> IListeningPort:
    """Serve a factory's protocols on a listening unix socket; the rights of its file stay as they are."""
    listening.setblocking(False)
    port = _PathPort._fromListeningDescriptor(reactor, listening.fileno(), factory)
    port.backlog = _BACKLOG
    # Abstract sockets have no file.
    with contextlib.suppress(OSError, ValueError):
        port.mode = stat.S_IMODE(Path(listening.getsockname()).stat().st_mode)
    port.startListening()
    return port  # type: ignore[no-any-return]


def bind_path(path: Path, mode: int) -> socket.socket:
    """
    Make a listening unix socket, in the place of one that nobody listens on any more.

    :raise OSError: it cannot be made; somebody may listen there.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        bound.bind(str(path))
        path.chmod(mode)
        bound.listen(_BACKLOG)
    except BaseException:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def _clear(path: Path) -> None:
    """Remove a socket that was left behind; anything else stays, and is in the way."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
