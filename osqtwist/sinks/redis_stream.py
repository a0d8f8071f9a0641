"""Log lines to a stream of another Redis or Valkey, for whoever reads it with XREAD or XREADGROUP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import txredisapi
from zope.interface import implementer

from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, SinkUnavailable
from osqtwist.storage.redis import FindServer
from osqtwist.storage.redis_connection import Login, RedisConnection, without_arguments
from osqtwist.storage.redis_url import BadRedisURL, RedisPlace, parse_redis_url

_AT_ONCE = 1000
_CONNECT_SECONDS = 5.0


class RedisStreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Where to write to, and how.

    :ivar url: the server, written as for ``--redis``: redis://, rediss:// (TLS), unix: or sentinel://.
    :ivar password_file: a file with the password, read at each opening, in the place of one in ``url``.
    :ivar username: for ``password_file``; without it the default user's.
    :ivar stream: the key of the stream.
    :ivar max_length: entries that the stream keeps, about; older ones are lost, read or not.  0 keeps all.
    :ivar timeout: seconds that a delivery may take.
    """

    url: str = ""
    password_file: str = ""
    username: str = ""
    stream: str = ""
    max_length: int = 1_000_000
    timeout: float = 30.0

    def __repr__(self) -> str:
        """Without the URL, which may hold a password."""
        return f"RedisStreamSettings(stream={self.stream!r})"


@implementer(ISinkKind)
class RedisStreamKind:
    """``kind = "redis-stream"``."""

    kind = "redis-stream"
    settings = RedisStreamSettings

    def make(self, reactor: Any, name: str, settings: RedisStreamSettings) -> RedisStreamSink:
        """See :class:`osqtwist.sinkinterfaces.ISinkKind`."""
        if not settings.url:
            raise BadSinkSetting('url is missing, as in url = "rediss://redis.example.org"')
        try:
            place = parse_redis_url(settings.url)
        except BadRedisURL as problem:
            raise BadSinkSetting(str(problem).replace("--redis", "url", 1)) from None
        for path in (place.ca, place.cert, place.key):
            if path and not Path(path).is_file():
                raise BadSinkSetting(f"url: there is no file {path}")
        if settings.password_file and place.login.password:
            raise BadSinkSetting("password_file is given, and url has a password too")
        if settings.username and not settings.password_file:
            raise BadSinkSetting("username is given, but password_file is not")
        if not settings.stream:
            raise BadSinkSetting('stream is missing, as in stream = "osquery"')
        if settings.max_length < 0:
            raise BadSinkSetting(f"max_length is {settings.max_length}; it must be at least 0")
        if not settings.timeout >= 0.01:
            raise BadSinkSetting(f"timeout is {settings.timeout:g}; it must be at least 0.01")
        return RedisStreamSink(reactor, place, settings)


@implementer(ILogSink)
@attrs.define(eq=False)
class RedisStreamSink:
    """
    Adds each line as an entry with the fields ``d`` (the document), ``id`` (the event's id) and ``n`` (the node's id).

    Up to a thousand are added in one transaction: all of them or none.  How durable an entry is, the other Redis
    decides: it answers before it writes to its disk, unless it has ``appendfsync always``.  Its user needs ``+xadd
    +multi +exec +ping`` and ``%W~STREAM``.
    """

    reactor: Any
    place: RedisPlace
    settings: RedisStreamSettings = attrs.field(repr=False)
    _redis: RedisConnection | None = attrs.field(default=None, init=False)

    async def open(self) -> None:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`."""
        await self._connected()

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`."""
        deadline = self.reactor.seconds() + self.settings.timeout
        redis = await self._connected()
        for first in range(0, len(events), _AT_ONCE):
            try:
                await self._add(redis, events[first : first + _AT_ONCE], deadline - self.reactor.seconds())
            except SinkUnavailable as problem:
                if not first:
                    raise
                return Outcome(again=tuple(range(first, len(events))), trouble=str(problem))
        return Outcome()

    async def close(self) -> None:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`."""
        redis, self._redis = self._redis, None
        if redis is not None:
            redis.close()

    async def _connected(self) -> RedisConnection:
        if self._redis is None:
            login = self._login()
            # What goes wrong is said by whoever calls us.
            self._redis = RedisConnection(self.reactor, FindServer(self.reactor, self.place), login, log_trouble=False)
            self._redis.open()
        try:
            await self._redis.connected(min(_CONNECT_SECONDS, self.settings.timeout))
        except StoreUnavailable as problem:
            # Made anew the next time: the password may be another then.
            await self.close()
            raise self._unavailable(problem) from None
        return self._redis

    def _login(self) -> Login:
        path = self.settings.password_file
        if not path:
            return self.place.login
        try:
            password = Path(path).read_text("utf-8").rstrip("\r\n")
        except OSError as problem:
            raise SinkUnavailable(f"redis-stream {self.place}: password_file {path}: {problem.strerror}") from None
        return attrs.evolve(self.place.login, username=self.settings.username, password=password)

    async def _add(self, redis: RedisConnection, events: Sequence[LogEvent], seconds: float) -> None:
        settings = self.settings
        trim = ("MAXLEN", "~", settings.max_length) if settings.max_length else ()
        commands = [
            ("XADD", settings.stream, *trim, "*", "d", event.document, "id", event.event_id, "n", event.node_id)
            for event in events
        ]
        try:
            answers = await redis.execute_all([("MULTI",), *commands, ("EXEC",)], deadline=max(seconds, 0.01))
        except (StoreUnavailable, StoreFull, txredisapi.RedisError) as problem:
            raise self._unavailable(problem) from None
        for answer in answers[-1]:
            if isinstance(answer, Exception):
                raise self._unavailable(answer)

    def _unavailable(self, problem: Exception) -> SinkUnavailable:
        said = without_arguments(str(problem)).removeprefix("the store ")
        return SinkUnavailable(" ".join(f"redis-stream {self.place}, stream {self.settings.stream}: {said}".split()))
