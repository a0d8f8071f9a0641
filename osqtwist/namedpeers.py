"""Who may say something about a connection: proxies, named by address or network."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

import attrs

UNIX = "unix"
"""Stands for whoever can open a unix socket of ours; the rights of its folder say who that is."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadPeer(ValueError):
    """This names no peer; one sentence."""


@attrs.frozen
class NamedPeers:
    """Addresses and networks."""

    networks: tuple[_Network, ...] = ()
    takes_unix: bool = False

    @classmethod
    def parse(cls, texts: Iterable[str]) -> NamedPeers:
        """
        Read addresses (``192.0.2.7``), networks (``10.0.0.0/8``, ``2001:db8::/32``) and ``unix``.

        :raise BadPeer: one of them is none of these.
        """
        networks, takes_unix = [], False
        for text in texts:
            if text == UNIX:
                takes_unix = True
                continue
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError as problem:
                raise BadPeer(f"{text!r} is neither an address nor a network: {problem}") from None
        return cls(tuple(networks), takes_unix)

    def __bool__(self) -> bool:
        return bool(self.networks) or self.takes_unix

    def and_those_of(self, others: NamedPeers) -> NamedPeers:
        """Both together."""
        return NamedPeers((*self.networks, *others.networks), self.takes_unix or others.takes_unix)

    def have(self, host: str) -> bool:
        """Whether an address is one of them; the empty one is that of a unix socket."""
        return _is_in(self, host)


def is_address(text: str) -> bool:
    """Whether this is an address of IPv4 or IPv6."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def plain(host: str) -> str:
    """An address as people write it: a socket for IPv4 and IPv6 has ``::ffff:192.0.2.1`` for ``192.0.2.1``."""
    return host.removeprefix("::ffff:") if "." in host else host


# Each connection asks, and proxies are few.
@functools.lru_cache(maxsize=4096)
def _is_in(peers: NamedPeers, host: str) -> bool:
    if not host:
        return peers.takes_unix
    try:
        address = ipaddress.ip_address(plain(host).partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in peers.networks)
