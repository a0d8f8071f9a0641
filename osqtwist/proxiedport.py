"""
Ports behind proxies: connections that begin with the PROXY protocol, and those of proxies that end TLS themselves.

A peer that is not named as a proxy is served as ever on a TLS port, with the address that it has: what it sends is
TLS or nothing.  One that is named has to say where each connection comes from, and is cut off if it does not, so that
nobody behind it can pass for it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import address, tcp
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol, IProtocolFactory
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from zope.interface import implementer

from osqtwist.namedpeers import NamedPeers
from osqtwist.pathport import listen_on_path
from osqtwist.proxyprotocol import FIXED, BadProxyHeader, Source, rest_length, source_of
from osqtwist.tlsport import NewConnection, TLSConnection, TLSPort

_log = Logger()

_End = ConnectionDone | ConnectionLost | None


def proxy_of(transport: Any) -> str:
    """The address of whoever is really at the other end: the proxy, if there is one; empty for a unix socket."""
    via: str | None = getattr(transport, "via", None)
    return via if via is not None else str(getattr(transport.getPeer(), "host", ""))


class ProxyPreface:
    """
    Mixed into a connection: reads the header of the PROXY protocol first, and becomes one from where that says.

    Not a byte beyond the header is read, and until it is whole the protocol hears nothing; its deadline of the
    handshake runs already.

    A protocol with a method ``comes_from`` is told the address, and says whether it may go on.

    :ivar via: the proxy's own address.
    """

    via: str
    client: Any
    protocol: Any
    socket: Any
    _addressType: Any
    _header = b""
    _length = FIXED
    _is_read = False

    def __init__(self, skt: socket.socket, protocol: Any, client: Any, *more: Any) -> None:
        super().__init__(skt, protocol, client, *more)  # type: ignore[call-arg]
        self.via = str(client[0])

    def doRead(self) -> _End:
        """Read the header, and then what the connection reads."""
        if not self._is_read:
            end = self._read_header()
            if end or not self._is_read:
                return end
        return super().doRead()  # type: ignore[misc,no-any-return]

    def _read_header(self) -> _End:
        while True:
            try:
                data = self.socket.recv(self._length - len(self._header))
            except BlockingIOError:
                return None
            except OSError:
                return CONNECTION_LOST
            if not data:
                # As health checks do that only look whether somebody listens.
                return CONNECTION_DONE
            self._header += data
            if len(self._header) < self._length:
                continue
            try:
                if self._length == FIXED:
                    self._length += rest_length(self._header)
                if len(self._header) < self._length:
                    continue
                source = source_of(self._header[:FIXED], self._header[FIXED:])
            except BadProxyHeader as problem:
                _log.warn(
                    "a connection of {proxy} is ended, which --proxy-protocol names: {problem}",
                    proxy=self.via,
                    problem=problem,
                )
                return CONNECTION_LOST
            return self._become(source)

    def _become(self, source: Source | None) -> _End:
        self._is_read, self._header = True, b""
        if source is None:
            return None
        self._addressType = address.IPv6Address if source.is_ipv6 else address.IPv4Address
        self.client = (source.host, source.port)
        comes_from: Callable[[str], bool] | None = getattr(self.protocol, "comes_from", None)
        return None if comes_from is None or comes_from(source.host) else CONNECTION_LOST


class _ProxiedTLSConnection(ProxyPreface, TLSConnection):  # type: ignore[misc]
    """TLS passed through by a proxy."""


class _ProxiedConnection(ProxyPreface, tcp.Server):  # type: ignore[misc]
    """Plain HTTP of a proxy that speaks the PROXY protocol."""


class _TLSPort(TLSPort):
    proxies: NamedPeers

    def transport(self, skt: socket.socket, protocol: Any, client: Any, *more: Any) -> Any:  # type: ignore[override]
        """A connection, proxied or not."""
        is_proxied = self.proxies.have(str(client[0]))
        return (_ProxiedTLSConnection if is_proxied else TLSConnection)(skt, protocol, client, *more)


class _PlainPort(tcp.Port):
    proxies: NamedPeers

    def transport(self, skt: socket.socket, protocol: Any, client: Any, *more: Any) -> Any:  # type: ignore[override]
        """A connection, proxied or not."""
        is_proxied = self.proxies.have(str(client[0]))
        return (_ProxiedConnection if is_proxied else tcp.Server)(skt, protocol, client, *more)


@implementer(IProtocolFactory)
class _OnlyPeers:
    """Serves named peers; all others find their connection closed."""

    def __init__(self, factory: IProtocolFactory, peers: NamedPeers) -> None:
        self._factory, self._peers = factory, peers
        self._told: set[str] = set()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """A protocol, or nothing."""
        host = str(getattr(addr, "host", ""))
        if self._peers.have(host):
            return self._factory.buildProtocol(addr)
        if host not in self._told and len(self._told) < 1000:
            self._told.add(host)
            _log.warn("connections of {host} to a plain port are closed: [trusted_proxy] does not name it", host=host)
        return None

    def doStart(self) -> None:
        """As the factory does."""
        self._factory.doStart()

    def doStop(self) -> None:
        """As the factory does."""
        self._factory.doStop()


def listen_tls(
    reactor: Any,
    listening: socket.socket,
    factory: IProtocolFactory,
    new_connection: NewConnection,
    proxies: NamedPeers,
    on_want: Callable[[], object] = lambda: None,
) -> IListeningPort:
    """
    Serve a factory's protocols over TLS.

    :param proxies: who has to begin each connection with the PROXY protocol.
    :param on_want: called when connections have to wait for want of file descriptors.
    """
    listening.setblocking(False)
    # What reactor.adoptStreamPort does, but for the class.
    port: _TLSPort = _TLSPort._fromListeningDescriptor(reactor, listening.fileno(), listening.family, factory)
    port.new_connection, port.proxies = new_connection, proxies
    port.on_want = on_want
    port.startListening()
    return port


def listen_plain(
    reactor: Any, listening: socket.socket, factory: IProtocolFactory, peers: NamedPeers, proxies: NamedPeers
) -> IListeningPort:
    """
    Serve a factory's protocols, without TLS, to these peers and nobody else.

    :param proxies: as with :func:`listen_tls`.
    """
    only = _OnlyPeers(factory, peers)
    listening.setblocking(False)
    if listening.family == socket.AF_UNIX:
        return listen_on_path(reactor, listening, only)
    port: _PlainPort = _PlainPort._fromListeningDescriptor(reactor, listening.fileno(), listening.family, only)
    port.proxies = proxies
    port.startListening()
    return port
