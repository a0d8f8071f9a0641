"""
One connection to Redis, with a life of our own around txredisapi's protocol.

txredisapi's own reconnecting waits for ever when the server is away and queues without bound.  Here a command fails
at once when there is no connection, and after its deadline when there is; then the connection is dropped, because
replies come in order and a late one would belong to another command.  A connection counts only after AUTH, SELECT
and PING; :mod:`osqtwist.storage.circuit` says how many calls it then gets.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import hiredis
import txredisapi
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.metrics import StoreMetrics
from osqtwist.storage.circuit import Circuit

DEADLINE = 3.0
"""Seconds that a command may take.  A node waits 16 s for its answer in all."""
MAX_IN_FLIGHT = 10_000
_MAX_BACKOFF = 2.0
_MOVES_APART = 5.0
"""Seconds between two looks where the master is now, because the server that was it takes no writes."""

_AWAY = ("LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "UNKILLABLE")
_FULL = ("OOM", "MISCONF", "READONLY", "NOREPLICAS")

NextEndpoint = Callable[[], Awaitable[IStreamClientEndpoint]]


class Script:
    """A Lua script, called by its SHA-1 and sent whole only when the server does not know it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha1 = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@attrs.frozen
class Login:
    """What a connection says first."""

    username: str = ""
    password: str = attrs.field(default="", repr=False)
    database: int = 0


class PackingProtocol(txredisapi.RedisProtocol):  # type: ignore[misc]
    """txredisapi's protocol, but hiredis, which reads the replies, writes the commands too: eight times as fast."""

    def _build_command(self, *command: Any, **_: Any) -> bytes:
        try:
            return hiredis.pack_command(command)  # type: ignore[no-any-return]
        except UnicodeEncodeError as problem:
            raise txredisapi.InvalidData(str(problem)) from None


@attrs.define(eq=False)
class RedisConnection:
    """
    Keeps one connection to Redis and sends commands over it; commands of many callers are pipelined.

    :ivar next_endpoint: says where to connect, anew for each attempt, since a master may move.
    :ivar on_connect: called each time a connection is usable.
    :ivar protocol: txredisapi's protocol class, or one made of it.
    :ivar called: what messages call the server; without credentials.
    :ivar metrics: where it is counted how the connection does.
    :ivar may_move: whether :attr:`next_endpoint` may name another server than before, as sentinels do.  Then one that
        is no master is passed over, and one that turns out to be none any more is left.
    """

    reactor: IReactorTime
    next_endpoint: NextEndpoint
    login: Login
    on_connect: Callable[[], object] = lambda: None
    protocol: Callable[..., Any] = PackingProtocol
    deadline: float = DEADLINE
    log_trouble: bool = True
    called: str = "the store"
    metrics: StoreMetrics | None = None
    may_move: bool = False
    circuit: Circuit = attrs.field(init=False)
    _moved_at: float = attrs.field(default=0.0, init=False)
    _current: Any = attrs.field(default=None, init=False)
    _in_flight: int = attrs.field(default=0, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _trouble: str = attrs.field(default="not connected yet", init=False)
    _attempt: Deferred[None] | None = attrs.field(default=None, init=False)
    _retry: IDelayedCall | None = attrs.field(default=None, init=False)
    _waiting: list[Deferred[None]] = attrs.field(factory=list, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.circuit = Circuit(self.called, self.metrics, MAX_IN_FLIGHT)

    def open(self) -> None:
        """Begin to connect, and keep connected until :meth:`close`."""
        self._is_closed = False
        self.circuit.begin()
        self._attempt = Deferred.fromCoroutine(self._connect())

    def close(self) -> None:
        """Let go.  Commands under way fail."""
        self._is_closed = True
        self._trouble = "the connection is closed"
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        self._drop("closed")
        self.circuit.end()
        self._tell_waiting()

    async def connected(self, within: float) -> None:
        """
        Fire when there is a connection.

        :raise StoreUnavailable: there is none in time.
        """
        if self._current is None:
            waiting: Deferred[None] = Deferred(lambda d: self._waiting.remove(d) if d in self._waiting else None)
            self._waiting.append(waiting)
            over = self.reactor.callLater(within, waiting.cancel)
            try:
                await waiting
            except CancelledError:
                if over.active():
                    raise
            finally:
                if over.active():
                    over.cancel()
        if self._current is None:
            raise StoreUnavailable(f"{self.called} does not answer: {self._trouble}")

    async def execute(self, *command: Any, deadline: float | None = None) -> Any:
        """
        What Redis answers to a command: bytes, int, list or None.

        :raise StoreUnavailable: no connection, no answer in time, or it says that it cannot serve now.
        :raise StoreFull: it says that it takes nothing new.
        """
        return await self._send(command, deadline)

    async def execute_all(self, commands: Sequence[Sequence[Any]], deadline: float | None = None) -> list[Any]:
        """What Redis answers to several commands, sent together; the first failure is raised."""
        sent = [Deferred.fromCoroutine(self._send(command, deadline)) for command in commands]
        outcomes = await DeferredList(sent, consumeErrors=True)
        for good, value in outcomes:
            if not good:
                value.raiseException()
        return [value for _, value in outcomes]

    async def run(
        self, script: Script, keys: Sequence[Any], arguments: Sequence[Any] = (), deadline: float | None = None
    ) -> Any:
        """What a script answers."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await self._send(("EVALSHA", script.sha1, *rest), deadline)
        except _NoScript:
            return await self._send(("EVAL", script.text, *rest), deadline)

    async def _send(self, command: Sequence[Any], deadline: float | None) -> Any:
        protocol = self._current
        if refusal := self.circuit.refusal(self._in_flight):
            trouble = f": {self._trouble}" if protocol is None else ""
            raise StoreUnavailable(f"{self.called} {refusal}{trouble}")
        answer: Deferred[Any] = Deferred()
        sent = protocol.execute_command(*command)
        self._in_flight += 1
        # The reply must be taken from the queue even when the caller is gone, or those after it go astray.
        sent.addBoth(lambda reply: None if answer.called else _hand_on(reply, answer))
        over = self.reactor.callLater(deadline or self.deadline, self._too_late, protocol, answer)
        try:
            reply = await answer
        except txredisapi.ResponseError as problem:
            reply = problem
        except (txredisapi.RedisError, ConnectionError) as problem:
            raise StoreUnavailable(f"{self.called} does not answer: {problem}") from None
        finally:
            self._in_flight -= 1
            if over.active():
                over.cancel()
        if protocol is self._current:
            self._answered()
        if isinstance(reply, Exception):
            if self.may_move and str(reply).startswith("READONLY"):
                self._look_for_master(protocol)
            raise _meaning(reply, self.called)
        return reply

    def _answered(self) -> None:
        if self._failures:
            self._failures = 0
            if self.log_trouble:
                self._log.info("{called} answers again", called=self.called)
        self.circuit.answered()

    def _too_late(self, protocol: Any, answer: Deferred[Any]) -> None:
        # Whoever hears of it may call again at once, and must find the circuit as it is now.
        if protocol is self._current:
            self.circuit.too_late()
            self._drop("no answer in time")
        if not answer.called:
            answer.errback(StoreUnavailable(f"{self.called} does not answer in time"))

    def _look_for_master(self, protocol: Any) -> None:
        now = self.reactor.seconds()
        if protocol is self._current and not 0 <= now - self._moved_at < _MOVES_APART:
            self._moved_at = now
            self._drop("it is a replica now")

    async def _connect(self) -> None:
        try:
            endpoint = await self.next_endpoint()
            protocol: Any = await endpoint.connect(_ProtocolFactory(self.protocol))
        except CancelledError:
            return
        except Exception as problem:
            if not self._is_closed:
                self._again(_plainly(problem))
            return
        greeting = Deferred.fromCoroutine(self._greet(protocol))
        greeting.addTimeout(self.deadline, self.reactor)
        try:
            await greeting
        except Exception as problem:
            if protocol.transport is not None:
                protocol.transport.abortConnection()
            if not self._is_closed:
                self._again(_plainly(problem))
            return
        if self._is_closed:
            protocol.transport.abortConnection()
            return
        self._current = protocol
        self.circuit.connected()
        if self.circuit.state == "closed":
            self._answered()
        protocol.whenDisconnected().addCallback(lambda _: self._lost(protocol))
        self._tell_waiting()
        self.on_connect()

    async def _greet(self, protocol: Any) -> None:
        login = self.login
        if login.password:
            words = (login.username, login.password) if login.username else (login.password,)
            await _checked(protocol.execute_command("AUTH", *words))
        if login.database:
            await _checked(protocol.execute_command("SELECT", login.database))
        try:
            await _checked(protocol.execute_command("PING"))
        except txredisapi.ResponseError as problem:
            # A server that cannot write to its disk says so even here; it still serves what it has.
            if not isinstance(_meaning(problem, self.called), StoreFull):
                raise
        if self.may_move:
            await self._look_at_role(protocol)

    async def _look_at_role(self, protocol: Any) -> None:
        # A sentinel may name the old master for a while, or it may come back before it hears that it is none.
        try:
            role = await protocol.execute_command("ROLE")
        except txredisapi.ResponseError:
            return  # Its ACL does not let us ask.
        if isinstance(role, list) and role and role[0] != b"master":
            raise StoreUnavailable("what the sentinels call the master is a replica")

    def _lost(self, protocol: Any) -> None:
        if protocol is self._current:
            self._current = None
            self.circuit.lost()
            if not self._is_closed:
                self._again("the connection was lost")

    def _drop(self, why: str) -> None:
        protocol, self._current = self._current, None
        if protocol is None:
            return
        self.circuit.lost()
        protocol.transport.abortConnection()
        if not self._is_closed:
            self._again(why)

    def _again(self, trouble: str) -> None:
        self._trouble = trouble
        if not self._failures and self.log_trouble:
            self._log.error("{called} does not answer: {trouble}", called=self.called, trouble=trouble)
        self._failures += 1
        wait = min(_MAX_BACKOFF, 0.05 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
        if not self._is_closed:
            self._retry = self.reactor.callLater(wait, self.open)

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)


class _NoScript(Exception):
    """The server does not know a script."""


@attrs.define
class _ProtocolFactory(Factory):
    make: Callable[..., Any]
    noisy = False
    isLazy = False

    def buildProtocol(self, addr: Any) -> Any:
        # The charset is ours to decide, and "0123" must stay text.
        protocol = self.make(charset=None, convertNumbers=False)
        protocol.factory = self
        return protocol


def _hand_on(reply: Any, answer: Deferred[Any]) -> None:
    # A Failure given to callback() goes down the errback side.
    answer.callback(reply)


async def _checked(reply: Awaitable[Any]) -> None:
    found = await reply
    if isinstance(found, Exception):
        raise found


def _meaning(problem: Exception, called: str) -> Exception:
    text = str(problem)
    word = text.partition(" ")[0]
    if word == "NOSCRIPT":
        return _NoScript(text)
    if word in _FULL or "No space" in text or "NOREPLICAS" in text or "maxmemory" in text:
        return StoreFull(f"{called} takes nothing new: {text}")
    if word in _AWAY:
        return StoreUnavailable(f"{called} cannot serve now: {text}")
    return problem


def _plainly(problem: Exception | Failure) -> str:
    """What went wrong, without anything secret: txredisapi and OpenSSL name neither passwords nor keys."""
    if isinstance(problem, TimedOut):
        return "no answer in time"
    return without_arguments(str(problem)) or type(problem).__name__


def without_arguments(text: str) -> str:
    """An error of Redis without the arguments it repeats of a command it does not know: AUTH may be one."""
    return text.partition(", with args")[0]
