"""A client of the operators' API, over the admin socket or over TLS, with treq."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import attrs
import msgspec
import treq
from OpenSSL import SSL
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates
from twisted.web.client import URI, Agent, ResponseFailed, ResponseNeverReceived
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_MAX_LINE = 64 * 2**20


class AdminUnreachable(Exception):
    """Nobody answers on the admin socket; one sentence that names it."""


class AdminRefused(Exception):
    """The server answered and refused; its text."""


@attrs.frozen
class Door:
    """
    Where the API is, and what shows who comes.

    :ivar socket: the admin socket, unless there is a :attr:`server`.
    :ivar server: ``https://HOST:PORT``.
    :ivar ca: PEM of the CAs that may have signed the server's certificate; those of the system if not given.
    :ivar certificate: PEM of the operator's certificate and key, in one.
    :ivar token: an access token.
    """

    socket: Path
    server: str = ""
    ca: bytes = b""
    certificate: bytes = b""
    token: str = attrs.field(default="", repr=False)

    def __str__(self) -> str:
        return self.server or str(self.socket)

    def agent(self, reactor: Any) -> Agent:
        """
        What makes connections.

        :raise ValueError: a certificate or key cannot be read.
        """
        if not self.server:
            agent: Agent = Agent.usingEndpointFactory(reactor, _Socket(reactor, str(self.socket)))
            return agent
        trusted = None
        if self.ca:
            parts = [_BEGIN + part for part in self.ca.split(_BEGIN)[1:]]
            trusted = trustRootFromCertificates([Certificate.loadPEM(part) for part in parts])
        own = PrivateCertificate.loadPEM(self.certificate) if self.certificate else None
        return Agent(reactor, contextFactory=_Policy(trusted, own), connectTimeout=10)


@implementer(IAgentEndpointFactory)
@attrs.frozen
class _Socket:
    reactor: Any
    path: str

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return UNIXClientEndpoint(self.reactor, self.path, timeout=5)


@implementer(IPolicyForHTTPS)
@attrs.frozen
class _Policy:
    trusted: Any
    own: Any

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        return optionsForClientTLS(hostname.decode("ascii"), trustRoot=self.trusted, clientCertificate=self.own)


class AdminClient:
    """
    Calls the operators' API.

    Every method raises :class:`AdminUnreachable` or :class:`AdminRefused`.

    :raise AdminUnreachable: a certificate or key cannot be read.
    """

    def __init__(self, reactor: Any, door: Door) -> None:
        self._door = door
        try:
            self._http = HTTPClient(door.agent(reactor))
        except (ValueError, SSL.Error) as problem:
            raise AdminUnreachable(f"certificate, key or CA for {door} cannot be read: {problem}") from None

    async def get(self, *path: str, **query: str | int) -> Any:
        """The JSON that a route answers."""
        return msgspec.json.decode(await self.get_bytes(*path, **query))

    async def get_bytes(self, *path: str, **query: str | int) -> bytes:
        """What a route answers, as it is."""
        response = await self._ask("GET", path, query, None)
        content: bytes = await treq.content(response)
        return content

    async def post(self, *path: str, body: Any = None) -> Any:
        """Have something done; answers with the JSON of it."""
        response = await self._ask("POST", path, {}, body)
        return msgspec.json.decode(await treq.content(response))

    async def stream(
        self, method: str, *path: str, on_line: Callable[[Any], None], body: Any = None, **query: str | int
    ) -> None:
        """
        Call ``on_line`` with the JSON of each line of an answer as it comes; fires at the end of it.

        Cancelling it closes the connection, which the server notices.
        """
        response = await self._ask(method, path, query, body)
        lines = _Lines(on_line)
        await self._collect(response, lines.feed)
        lines.finish()

    async def save(self, target: Callable[[bytes], Any], *path: str, **query: str | int) -> Any:
        """Hand the bytes of an answer on as they come; answers with its headers."""
        response = await self._ask("GET", path, query, None)
        await self._collect(response, target)
        return response.headers

    async def _collect(self, response: Any, target: Callable[[bytes], Any]) -> None:
        try:
            await treq.collect(response, target)
        except (ResponseFailed, ConnectionLost) as problem:
            raise AdminUnreachable(f"osqtwist on {self._door} broke off in the middle of its answer") from problem

    async def _ask(self, method: str, path: tuple[str, ...], query: dict[str, str | int], body: Any) -> Any:
        url = (self._door.server or "http://admin") + "/" + "/".join(quote(part, safe="") for part in path)
        if query:
            url += "?" + urlencode(query)
        data = None if body is None else msgspec.json.encode(body)
        headers: dict[bytes | str, bytes | str] = {}
        if self._door.token:
            headers["Authorization"] = f"Bearer {self._door.token}"
        try:
            response = await self._http.request(method, url, data=data, headers=headers)
        except (ConnectError, OSError) as problem:
            raise AdminUnreachable(f"no osqtwist answers on {self._door}: {problem}") from None
        except ResponseNeverReceived as problem:
            raise AdminUnreachable(_why_never(self._door, problem)) from None
        if response.code >= 400:
            raise AdminRefused(_error_of(await treq.content(response), response.code))
        return response


@attrs.define
class _Lines:
    on_line: Callable[[Any], None]
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            raise AdminRefused("a line of the answer is too long")
        for line in whole:
            if line:
                self.on_line(msgspec.json.decode(line))

    def finish(self) -> None:
        if self._rest.strip():
            self.on_line(msgspec.json.decode(self._rest))


def _why_never(door: Door, problem: ResponseNeverReceived) -> str:
    for reason in problem.reasons:
        if isinstance(reason.value, VerificationError):
            return f"{door} shows a certificate that is not for that name"
        if isinstance(reason.value, SSL.Error):
            words = [str(word) for error in reason.value.args for each in error for word in each[-1:]]
            return f"the TLS handshake with {door} failed: {'; '.join(words) or 'without a word'}"
    return f"osqtwist on {door} closed the connection without an answer"


def _error_of(content: bytes, code: int) -> str:
    try:
        return str(msgspec.json.decode(content)["detail"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return f"the server answered {code}"
