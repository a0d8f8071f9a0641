"""A client of the operators' API over the admin socket, with treq."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import attrs
import msgspec
import treq
from treq.client import HTTPClient
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent, ResponseNeverReceived
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

_MAX_LINE = 64 * 2**20


class AdminUnreachable(Exception):
    """Nobody answers on the admin socket; one sentence that names it."""


class AdminRefused(Exception):
    """The server answered and refused; its text."""


@implementer(IAgentEndpointFactory)
@attrs.frozen
class _Socket:
    reactor: Any
    path: str

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return UNIXClientEndpoint(self.reactor, self.path, timeout=5)


class AdminClient:
    """
    Calls the operators' API.

    Every method raises :class:`AdminUnreachable` or :class:`AdminRefused`.
    """

    def __init__(self, reactor: Any, socket: Path) -> None:
        self._socket = socket
        self._http = HTTPClient(Agent.usingEndpointFactory(reactor, _Socket(reactor, str(socket))))

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
        await treq.collect(response, lines.feed)
        lines.finish()

    async def save(self, target: Callable[[bytes], None], *path: str) -> Any:
        """Hand the bytes of an answer on as they come; answers with its headers."""
        response = await self._ask("GET", path, {}, None)
        await treq.collect(response, target)
        return response.headers

    async def _ask(self, method: str, path: tuple[str, ...], query: dict[str, str | int], body: Any) -> Any:
        url = "http://admin/" + "/".join(quote(part, safe="") for part in path)
        if query:
            url += "?" + urlencode(query)
        data = None if body is None else msgspec.json.encode(body)
        try:
            response = await self._http.request(method, url, data=data)
        except (ConnectError, OSError) as problem:
            raise AdminUnreachable(f"no osqtwist answers on {self._socket}: {problem}") from None
        except ResponseNeverReceived:
            raise AdminUnreachable(f"osqtwist on {self._socket} closed the connection without an answer") from None
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


def _error_of(content: bytes, code: int) -> str:
    try:
        return str(msgspec.json.decode(content)["detail"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return f"the server answered {code}"
