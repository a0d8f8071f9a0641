"""Log lines to a syslog receiver: RFC 5424 messages over TLS (RFC 5425) or plain TCP (RFC 6587)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, RefusedEvent, SinkUnavailable
from osqtwist.sinks.httpsettings import HttpSettings, credential_of, trust_of
from osqtwist.sinks.syslogconnection import ConnectionCut, SyslogConnection, why
from osqtwist.sinks.syslogmessage import FACILITIES, SEVERITIES, MessageStyle, is_sd_name, is_word

_LONGEST_CONNECT = 10.0
_SETTLE_SECONDS = 0.25
_HOST = re.compile(r"\w[\w-]*(?:\.\w[\w-]*)*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
# Every receiver must take the one (RFC 5424, 6.1); the other keeps a delivery in bounds.
_SHORTEST_MESSAGE, _LONGEST_MESSAGE = 480, 2**26


class SyslogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Where to write to, and how.

    :ivar host: the receiver's name or address.
    :ivar port: its TCP port; 6514 is that of syslog over TLS.
    :ivar tls: speak TLS and verify the receiver; without it, anybody on the way can read and change the lines.
    :ivar ca: a PEM file with the CA certificates to trust; the system's if empty.
    :ivar cert: a PEM file with a client certificate, and what is between it and its CA; needs ``key``.
    :ivar key: a PEM file with its private key.
    :ivar server_name: what the receiver's certificate must be for; ``host`` if empty.
    :ivar facility: of every message: ``local0``, ``user``, ``daemon``, ...
    :ivar severity: of lines that do not say theirs: ``info``, ``notice``, ...  Status lines do.
    :ivar app_name: the APP-NAME of every message.
    :ivar sd_id: the name of the structured data; empty for none.
    :ivar max_message: bytes that the receiver takes in a message; an event that needs more is refused.
    :ivar timeout: seconds that a delivery may take.
    """

    host: str = ""
    port: int = 6514
    tls: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""
    facility: str = "local0"
    severity: str = "info"
    app_name: str = "osquery"
    sd_id: str = "osqtwist@32473"
    max_message: int = 65536
    timeout: float = 30.0

    @property
    def place(self) -> str:
        """The receiver as messages say it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def style(self) -> MessageStyle:
        """What the messages have in common."""
        return MessageStyle(FACILITIES[self.facility], SEVERITIES[self.severity], self.app_name, self.sd_id)

    def check(self) -> None:
        """
        See whether the keys can work together.

        :raise BadSinkSetting: they cannot.
        """
        if not self.host:
            raise BadSinkSetting('host is missing, as in host = "syslog.example.org"')
        for name, given in (("host", self.host), ("server_name", self.server_name)):
            if given and not _HOST.fullmatch(given):
                raise BadSinkSetting(f"{name} is {given!r}; it must be a name or an address alone")
        if not 0 < self.port < 65536:
            raise BadSinkSetting(f"port is {self.port}; it must be from 1 to 65535")
        self._check_tls()
        for name, known in (("facility", FACILITIES), ("severity", SEVERITIES)):
            if getattr(self, name) not in known:
                raise BadSinkSetting(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if not is_word(self.app_name, 48):
            raise BadSinkSetting("app_name must have 1 to 48 printable ASCII characters and no space")
        if self.sd_id and not is_sd_name(self.sd_id):
            raise BadSinkSetting(
                "sd_id must have at most 32 printable ASCII characters, and no space, '=', ']' or '\"'"
            )
        if not _SHORTEST_MESSAGE <= self.max_message <= _LONGEST_MESSAGE:
            wanted = f"from {_SHORTEST_MESSAGE} to {_LONGEST_MESSAGE} bytes"
            raise BadSinkSetting(f"max_message is {self.max_message}; it must be {wanted}")
        if not 0.1 <= self.timeout <= 3600:
            raise BadSinkSetting(f"timeout is {self.timeout:g}; it must be from 0.1 to 3600 seconds")

    def _check_tls(self) -> None:
        for name in ("ca", "cert", "key", "server_name"):
            if getattr(self, name) and not self.tls:
                raise BadSinkSetting(f"{name} has no use with tls = false")
        if bool(self.cert) != bool(self.key):
            raise BadSinkSetting("cert and key go together; one is missing")


@implementer(ISinkKind)
class SyslogKind:
    """``kind = "syslog"``."""

    kind = "syslog"
    settings = SyslogSettings

    def make(self, reactor: Any, name: str, settings: SyslogSettings) -> SyslogSink:
        """See :class:`osqtwist.sinkinterfaces.ISinkKind`."""
        settings.check()
        return SyslogSink(reactor, settings, settings.style)


@implementer(ILogSink)
@attrs.define(eq=False)
class SyslogSink:
    """
    Sends each line as a message, all over one connection that stays open.

    Syslog has no acknowledgement.  A delivery is done when the receiver's TCP has acknowledged all of it; what the
    receiver had not read by then is lost if it dies, and nobody knows.  If the connection is cut before, everything
    is tried again, and the receiver may get some of it twice.
    """

    reactor: Any
    settings: SyslogSettings
    style: MessageStyle
    _connection: SyslogConnection | None = attrs.field(default=None, init=False)

    async def open(self) -> None:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`."""
        # With certificates as they are in their files now.
        await self.close()
        await self._in_time(self._connected())

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`."""
        refused: list[RefusedEvent] = []
        await self._in_time(self._send(self._frames(events, refused)))
        return Outcome(refused=tuple(refused))

    async def close(self) -> None:
        """Say goodbye to the receiver; the connection is gone when this fires."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.end()

    def _frames(self, events: Sequence[LogEvent], refused: list[RefusedEvent]) -> Iterator[bytes]:
        """Messages, each behind its length (RFC 5425, 4.3; RFC 6587, 3.4.1); fills the list of those too long."""
        most = self.settings.max_message
        for index, event in enumerate(events):
            message = self.style.message(event)
            if len(message) > most:
                refused.append(RefusedEvent(index, f"its message has {len(message)} bytes, and max_message is {most}"))
            else:
                yield b"%d %b" % (len(message), message)

    async def _in_time(self, work: Any) -> None:
        """Do work; if that does not end well, or not in time, the connection is cut."""
        seconds = self.settings.timeout
        try:
            await Deferred.fromCoroutine(work).addTimeout(seconds, self.reactor)
        except BaseException as problem:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.abort()
            if isinstance(problem, ConnectionCut):
                raise self._unavailable(str(problem)) from None
            if isinstance(problem, TimeoutError):
                raise self._unavailable(f"it has not taken everything in {seconds:g} s") from None
            raise

    async def _send(self, frames: Iterator[bytes]) -> None:
        await (await self._connected()).send(frames)

    async def _connected(self) -> SyslogConnection:
        """The connection; a new one if the receiver has closed the last."""
        if self._connection is None or self._connection.lost:
            began = self.reactor.seconds()
            endpoint = await self._endpoint()
            connection = SyslogConnection(self.reactor, self.settings.tls)
            try:
                await connectProtocol(endpoint, connection)
            except (CancelledError, ConnectingCancelledError):
                raise CancelledError from None
            except Exception as problem:
                # What connecting fails with has no common class.
                raise ConnectionCut(why(problem)) from None
            self._connection = connection
            # A receiver that is far away needs longer to hang up.
            await connection.ready(max(_SETTLE_SECONDS, self.reactor.seconds() - began))
        return self._connection

    async def _endpoint(self) -> Any:
        settings = self.settings
        connect = min(settings.timeout, _LONGEST_CONNECT)
        endpoint = HostnameEndpoint(self.reactor, settings.host, settings.port, timeout=connect)
        if not settings.tls:
            return endpoint
        try:
            options = await deferToThreadPool(self.reactor, self.reactor.getThreadPool(), self._read_files)
        except SinkUnavailable as problem:
            raise self._unavailable(str(problem)) from None
        return wrapClientTLS(options, endpoint)

    def _read_files(self) -> Any:
        settings = self.settings
        credential = credential_of(HttpSettings(cert=settings.cert, key=settings.key))
        name = settings.server_name or settings.host
        trust = trust_of(settings.ca)
        try:
            return optionsForClientTLS(name, trustRoot=trust, extraCertificateOptions=credential)
        except UnicodeError:
            raise SinkUnavailable(f"no certificate can be for {name}, which is not a host name (RFC 5891)") from None

    def _unavailable(self, text: str) -> SinkUnavailable:
        return SinkUnavailable(f"syslog {self.settings.place}: {text}")
