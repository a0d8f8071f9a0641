"""
The PROXY protocol, version 2: what a proxy that passes TCP through says of each connection before anything else.

From HAProxy's ``proxy-protocol.txt``, section 2.2.  Version 1 is not read: it is a line of text, whose end is found
only by reading too far, and every proxy that speaks it speaks version 2 as well.  Twisted has a parser too, but for
protocols that get their bytes from Twisted; here OpenSSL reads from the socket itself, so not a byte may be read
beyond the header.
"""

from __future__ import annotations

import ipaddress

import attrs

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED = 16
"""Bytes of the part that says how long the rest is."""
MAX_REST = 4096
"""Addresses are 36 bytes at most; the rest is what a proxy likes to add, such as a certificate's name."""

_VERSION_2 = 0x20
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_UNSPEC = 0x00


class BadProxyHeader(Exception):
    """What came is no header of the PROXY protocol that can be used; the text says why."""


@attrs.frozen
class Source:
    """Where a connection comes from, as its proxy says."""

    host: str
    port: int

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is one of IPv6."""
        return ":" in self.host


def rest_length(fixed: bytes) -> int:
    """
    How many bytes follow the fixed part.

    :raise BadProxyHeader: it is none, or says too many.
    """
    if not fixed.startswith(SIGNATURE):
        raise BadProxyHeader("it does not begin with the PROXY protocol, version 2")
    if fixed[12] not in (_LOCAL, _PROXY):
        raise BadProxyHeader(f"its version and command are {fixed[12]:#04x}")
    length = int.from_bytes(fixed[14:16], "big")
    if length > MAX_REST:
        raise BadProxyHeader(f"it is {length} bytes long; {MAX_REST} are the most")
    return length


def source_of(fixed: bytes, rest: bytes) -> Source | None:
    """
    Where the connection comes from; nothing if it is the proxy's own, as its health checks are.

    :raise BadProxyHeader: that is not said, though it should be.
    """
    if fixed[12] == _LOCAL:
        return None
    family, size, port_at = fixed[13], 0, 0
    if family == _TCP4:
        size, port_at = 4, 8
    elif family == _TCP6:
        size, port_at = 16, 32
    elif family == _UNSPEC:
        return None
    else:
        raise BadProxyHeader(f"its family is {family:#04x}; only TCP over IPv4 and IPv6 are served")
    if len(rest) < port_at + 4:
        raise BadProxyHeader("its addresses are cut short")
    host = str(ipaddress.ip_address(rest[:size]))
    return Source(host, int.from_bytes(rest[port_at : port_at + 2], "big"))
