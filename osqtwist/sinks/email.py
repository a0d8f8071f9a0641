"""
Sink ``email``: what is delivered together is one mail.

The standard library speaks SMTP, in a thread: mail is rare, and each step of it has a deadline there.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from typing import Any, Literal

import attrs
import msgspec
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, RefusedEvent, SinkUnavailable
from osqtwist.sinks.alertwords import SEVERITIES, Words, words_of
from osqtwist.sinks.httpsettings import one_line, secret_in

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_MOST_LINES = 200
# Message size exceeded, and a transaction that failed for the message's sake (RFC 5321, RFC 1870).
_MESSAGES_FAULT = (552, 554)


class EmailSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of an ``email`` sink.

    :ivar host: the mail server.
    :ivar port: 0 for what is usual with :attr:`tls`: 587, 465 or 25.
    :ivar tls: ``starttls``, ``tls`` from the first byte, or ``none`` for a server on the same machine.
    :ivar sender: the address that mails are from, and :attr:`to` those they go to.
    :ivar username: with :attr:`password` or :attr:`password_file`, read for each mail.
    :ivar ca: PEM file with the authorities to trust; empty for those of the system.
    :ivar subject: what subjects begin with.
    :ivar timeout: seconds that each step may take.
    """

    host: str = ""
    port: int = 0
    tls: Literal["starttls", "tls", "none"] = "starttls"
    sender: str = ""
    to: tuple[str, ...] = ()
    username: str = ""
    password: str = ""
    password_file: str = ""
    ca: str = ""
    subject: str = "[osqtwist]"
    timeout: float = 20.0

    def __repr__(self) -> str:
        return f"EmailSettings({self.place!r})"

    @property
    def place(self) -> str:
        """The server, for messages."""
        return f"email {self.host}:{self.port or _PORTS[self.tls]}"

    def check(self) -> None:
        """
        See whether the keys can work together.

        :raise BadSinkSetting: they cannot.
        """
        if not self.host:
            raise BadSinkSetting('host is missing, as in host = "mail.example.com"')
        for name, addresses in (("sender", (self.sender,)), ("to", self.to or ("",))):
            for address in addresses:
                if "@" not in parseaddr(address)[1] or not address.isprintable():
                    raise BadSinkSetting(f"{name} has {address!r}, which is no address")
        if self.password and self.password_file:
            raise BadSinkSetting("password and password_file are both there; one must go")
        if bool(self.username) != bool(self.password or self.password_file):
            raise BadSinkSetting("username and password (or password_file) go together; one is missing")
        if self.username and self.tls == "none":
            raise BadSinkSetting("tls is none, so the password would be there for all to read")
        if not 0.1 <= self.timeout <= 600:
            raise BadSinkSetting(f"timeout is {self.timeout:g}; it must be from 0.1 to 600 seconds")


@implementer(ILogSink)
@attrs.define(eq=False)
class EmailSink:
    """See :class:`osqtwist.sinkinterfaces.ILogSink`; each delivery is a connection and a mail."""

    reactor: Any
    settings: EmailSettings

    async def open(self) -> None:
        """Nothing to do: a connection is made when there is something to say."""

    async def close(self) -> None:
        """Nothing to do."""

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """
        Fire when the server has the mail.

        Cancelling it does not: a mail that is on its way may come, and come again.
        """
        message = mail_of(events, self.settings)
        pool = self.reactor.getThreadPool()
        try:
            await deferToThreadPool(self.reactor, pool, self._send, message)
        except smtplib.SMTPDataError as problem:
            if problem.smtp_code in _MESSAGES_FAULT:
                reason = f"{self.settings.place} refuses the mail: {_said(problem)}"
                return Outcome(refused=tuple(RefusedEvent(index, reason) for index in range(len(events))))
            raise self._unavailable(_said(problem)) from None
        except smtplib.SMTPResponseException as problem:
            raise self._unavailable(_said(problem)) from None
        except (smtplib.SMTPException, OSError, ValueError) as problem:
            raise self._unavailable(str(problem) or type(problem).__name__) from None
        return Outcome()

    def _send(self, message: EmailMessage) -> None:
        settings = self.settings
        port = settings.port or _PORTS[settings.tls]
        context = ssl.create_default_context(cafile=settings.ca or None) if settings.tls != "none" else None
        password = settings.password or secret_in("password_file", settings.password_file)
        if settings.tls == "tls" and context:
            server: smtplib.SMTP = smtplib.SMTP_SSL(settings.host, port, timeout=settings.timeout, context=context)
        else:
            server = smtplib.SMTP(settings.host, port, timeout=settings.timeout)
        with server:
            if settings.tls == "starttls":
                server.starttls(context=context)
            if settings.username:
                server.login(settings.username, password)
            server.send_message(message, settings.sender, list(settings.to))

    def _unavailable(self, text: str) -> SinkUnavailable:
        return SinkUnavailable(f"{self.settings.place}: {one_line(text)}")


def mail_of(events: Sequence[LogEvent], settings: EmailSettings) -> EmailMessage:
    """The mail that says these events: the gravest and the first in the subject, a line for each in the text."""
    found = [words_of(event) for event in events]
    gravest = max(found, key=lambda words: SEVERITIES.index(words.severity))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = EmailMessage()
    message["Subject"] = one_line(f"{settings.subject} {gravest.severity}: {gravest.text}{more}")
    message["From"], message["To"] = settings.sender, ", ".join(settings.to)
    message["Date"] = formatdate(events[0].received_at)
    message["Message-ID"] = f"<{events[0].event_id}.{len(events)}@osqtwist>"
    message["Auto-Submitted"] = "auto-generated"
    lines = [_line(event, words) for event, words in zip(events[:_MOST_LINES], found, strict=False)]
    if len(events) > _MOST_LINES:
        lines.append(f"and {len(events) - _MOST_LINES} more")
    message.set_content("\n".join(lines) + "\n")
    return message


def _line(event: LogEvent, words: Words) -> str:
    return f"{formatdate(event.occurred_at)}  {words.severity}  {words.rule}  {event.node_name}  {one_line(words.text)}"


def _said(problem: smtplib.SMTPResponseException) -> str:
    said = problem.smtp_error
    return f"{problem.smtp_code} {said.decode('utf-8', 'replace') if isinstance(said, bytes) else said}"


@implementer(ISinkKind)
class EmailKind:
    """Makes e-mail sinks."""

    kind = "email"
    settings = EmailSettings

    def make(self, reactor: Any, name: str, settings: EmailSettings) -> EmailSink:
        """
        A sink that sends mail.

        :raise BadSinkSetting: the keys cannot work together.
        """
        settings.check()
        return EmailSink(reactor, settings)
