"""
The ports that nodes connect to, bound before anything else happens.

They are bound at start-up with whatever rights the process has then, so that a port in use is one sentence on the
terminal, a low port needs root only until twistd sheds it, and connections made meanwhile wait in the kernel.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import resource
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.endpoints import _SystemdParser
from twisted.python.systemd import ListenFDs

from osqtwist.pathport import bind_path

BACKLOG = 4096
_LOOPBACK = ("127.0.0.1", "::1")
PLAIN = ("tcp:", "unix:")
"""What the ports begin with that a proxy ends TLS before."""


class UnusablePort(Exception):
    """A port cannot be bound or understood; one sentence that names it."""


def allow_many_connections() -> int:
    """
    Let this process, and those it starts, have as many open files as the system lets them; answers with how many.

    A connection is an open file, and systems begin with 1,024, which is a thousand held reads.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def most_connections_of_an_address(said: int) -> int:
    """How many connections one address may have of this process; by default a part of the files it may open."""
    return said or resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4


@attrs.frozen
class BoundPort:
    """
    A listening socket.

    :ivar spoken: the endpoint description it came from.
    """

    spoken: str
    socket: socket.socket

    @property
    def is_plain(self) -> bool:
        """Whether a proxy ends TLS before it."""
        return self.spoken.startswith(PLAIN)

    @property
    def number(self) -> int:
        """The port number, as bound; 0 for a socket that has none."""
        name = self.socket.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    @property
    def queued(self) -> int:
        """How many connections wait to be accepted, where the system tells (Linux); otherwise 0."""
        if not sys.platform.startswith("linux") or self.socket.family == socket.AF_UNIX:
            return 0
        # struct tcp_info: of a listening socket tcpi_unacked is the length of its queue.
        found = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
        return int.from_bytes(found[24:28], sys.byteorder)

    def __str__(self) -> str:
        name = self.socket.getsockname()
        return f"{self.spoken} ({name[0]} port {self.number})" if isinstance(name, tuple) else self.spoken


def bind_for_operators(description: str) -> BoundPort:
    """
    Bind the port of operators: as that of nodes, or ``tcp:PORT:interface=127.0.0.1`` without TLS for this machine only.

    :raise UnusablePort: it cannot be bound.
    """
    if description.startswith("unix:"):
        raise UnusablePort(
            f"--admin-port {description}: it must begin with ssl:, tcp: or systemd:; --admin is for unix:"
        )
    if not description.startswith("tcp:"):
        return bind_all([description], option="--admin-port")[0][0]
    number, fields = _number_and_fields(description, "--admin-port")
    interface = fields.get("interface", "")
    if interface not in _LOOPBACK:
        raise UnusablePort(
            f"--admin-port {description}: without TLS it is for this machine only: use ssl:, or "
            f"tcp:{number}:interface=127.0.0.1"
        )
    try:
        return BoundPort(description, _bound(number, interface, False))
    except OSError as problem:
        raise UnusablePort(f"--admin-port {description}: {problem.strerror or problem}") from None


def bind_all(descriptions: Sequence[str], shares: int = 1, option: str = "--port") -> list[list[BoundPort]]:
    """
    Bind every port, or none.

    :param shares: how many processes will listen.  Each gets a socket of its own for each port, and the kernel spreads
        connections evenly over them; what waits in the queue of one that died is served by the one after it, as long
        as we keep the socket.  A socket of systemd is one for all.
    :param option: where the descriptions come from, for errors to name.
    :return: for each share its sockets.
    :raise UnusablePort: one of them cannot be bound; those bound before it are closed again.
    """
    # Asking for systemd's sockets removes them from the environment, and twistd has imported what asks by now.
    given: ListenFDs = _SystemdParser._sddaemon
    bound: list[list[BoundPort]] = []
    try:
        bound.extend(bind(description, given, shares, option) for description in descriptions)
    except UnusablePort:
        for port in itertools.chain(*bound):
            port.socket.close()
        raise
    return [list(share) for share in zip(*bound, strict=True)]


def bind(description: str, given: ListenFDs, shares: int = 1, option: str = "--port") -> list[BoundPort]:
    """
    Bind what a description names, for each share.

    ``ssl:PORT[:interface=ADDRESS]`` binds; without an interface, to every IPv4 and IPv6 address.
    ``systemd:name=NAME`` or ``systemd:index=N`` takes a socket that systemd has bound.  Colons inside an address
    are escaped with a backslash, as Twisted does.  ``tcp:`` is as ``ssl:``, and ``unix:PATH[:mode=660]`` a socket in
    the file system, both for proxies that end TLS.

    :raise UnusablePort: it cannot be.
    """
    kind = description.partition(":")[0]
    if kind == "systemd":
        _, fields = _words_of(description)
        return [BoundPort(description, _from_systemd(description, fields, given, option))] * shares
    if kind == "unix":
        return [BoundPort(description, _on_path(description, option))] * shares
    if kind not in ("ssl", "tcp"):
        raise UnusablePort(f"{option} {description}: it must begin with ssl:, tcp:, unix: or systemd:")
    number, fields = _number_and_fields(description, option)
    try:
        return [BoundPort(description, each) for each in _listen(number, fields.get("interface", ""), shares)]
    except OSError as problem:
        raise UnusablePort(f"{option} {description}: {problem.strerror or problem}") from None


def _words_of(description: str) -> tuple[list[str], dict[str, str]]:
    _, *words = [word.replace("\\:", ":") for word in re.split(r"(?<!\\):", description)]
    fields = dict(word.partition("=")[::2] for word in words if "=" in word)
    return [word for word in words if "=" not in word], fields


def _number_and_fields(description: str, option: str) -> tuple[int, dict[str, str]]:
    numbers, fields = _words_of(description)
    number = (numbers or [fields.get("port", "")])[0]
    unknown = set(fields) - {"interface", "port", "backlog"}
    if unknown or len(numbers) > 1:
        wrong = sorted(unknown)[0] if unknown else numbers[1]
        raise UnusablePort(
            f"{option} {description}: {wrong!r} is not understood; certificates are given by --cert and --key"
        )
    if not (number.isascii() and number.isdecimal() and int(number) < 65536):
        raise UnusablePort(f"{option} {description}: {number!r} is not a port number")
    return int(number), fields


def _on_path(description: str, option: str) -> socket.socket:
    paths, fields = _words_of(description)
    mode = fields.get("mode", "660")
    if len(paths) != 1 or not paths[0] or set(fields) - {"mode"} or not re.fullmatch("0?[0-7]{3}", mode):
        raise UnusablePort(f"{option} {description}: it must be unix:PATH or unix:PATH:mode=660")
    try:
        return bind_path(Path(paths[0]).absolute(), int(mode, 8))
    except OSError as problem:
        raise UnusablePort(f"{option} {description}: {problem.strerror or problem}") from None


def _listen(number: int, interface: str, shares: int) -> list[socket.socket]:
    first = _bound(number, interface, False)
    if shares == 1:
        return [first]
    # Another server that shares the port would take half of the connections, so the first look is without sharing.
    number = first.getsockname()[1]
    first.close()
    return [_bound(number, interface, True) for _ in range(shares)]


def _bound(number: int, interface: str, is_shared: bool) -> socket.socket:
    more: dict[str, Any] = {"backlog": BACKLOG, "reuse_port": is_shared}
    if interface:
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        bound = socket.create_server((interface, number), family=family, **more)
    elif socket.has_dualstack_ipv6():
        bound = socket.create_server(("", number), family=socket.AF_INET6, dualstack_ipv6=True, **more)
    else:
        bound = socket.create_server(("", number), **more)
    bound.setblocking(False)
    return bound


def _from_systemd(description: str, fields: dict[str, str], given: ListenFDs, option: str) -> socket.socket:
    descriptors = given.inheritedDescriptors()
    named = given.inheritedNamedDescriptors()
    if not descriptors:
        raise UnusablePort(f"{option} {description}: systemd has passed no socket to this process")
    if "name" in fields:
        if fields["name"] not in named:
            raise UnusablePort(f"{option} {description}: systemd has passed no socket named {fields['name']!r}")
        descriptor = named[fields["name"]]
    else:
        index = fields.get("index", "0")
        if not index.isdecimal() or int(index) >= len(descriptors):
            raise UnusablePort(f"{option} {description}: systemd has passed {len(descriptors)} sockets")
        descriptor = descriptors[int(index)]
    inherited = socket.socket(fileno=descriptor)
    inherited.setblocking(False)
    return inherited
