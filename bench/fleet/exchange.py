"""
One request over one connection, and the loop that drives thousands of them.

No framework: a non-blocking socket, OpenSSL through pyOpenSSL, and one epoll, so that nearly all of a connection's
cost here is the handshake's arithmetic.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import resource
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import attrs
from OpenSSL import SSL

BUDGET = 16.0
"""Seconds that osqueryd gives a request in all (tls.cpp)."""
TIMEOUT = "timeout"
_READ = 16384
_CONNECTING, _SHAKING, _SENDING, _AWAITING = range(4)
_PHASES = ("connect", "handshake", "send", "answer")
# Linux: choose the port at connect(), by the whole four-tuple; not in the socket module of Python 3.11.
_IP_BIND_ADDRESS_NO_PORT = 24


@attrs.frozen
class Target:
    """
    A server.

    :ivar address: numeric.
    :ivar sources: whether each node connects from an address of its own in 127.0.0.0/8.
    """

    host: str
    address: str
    port: int
    sources: bool

    @property
    def family(self) -> int:
        """Of its address."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


class Exchange:
    """
    A request under way.

    :ivar started: when the first connection for it began; ``shaken`` when the handshake was over, on the same clock.
    :ivar problem: why it failed, or nothing.
    """

    __slots__ = (
        "_answer",
        "_loop",
        "_on_end",
        "_phase",
        "_socket",
        "_tls",
        "body",
        "context",
        "deadline",
        "is_over",
        "is_resent",
        "kind",
        "node",
        "problem",
        "request",
        "shaken",
        "started",
    )

    def __init__(
        self, loop: Loop, kind: str, node: int, context: SSL.Context, request: bytes, on_end: Callable[[Exchange], None]
    ) -> None:
        self._loop = loop
        self.kind = kind
        self.node = node
        self.context = context
        self.request = request
        self._on_end = on_end
        self.started = loop.now()
        self.shaken = 0.0
        self.deadline = self.started + loop.budget
        self.is_over = self.is_resent = False
        self.problem = ""
        self.body = b""
        self._tls: SSL.Connection | None = None
        self._connect()
        loop.at(self.deadline, self._time_is_up)

    @property
    def is_waiting(self) -> bool:
        """Whether the request is sent and not answered."""
        return self._phase == _AWAITING and not self.is_over

    def _connect(self) -> None:
        loop, target = self._loop, self._loop.target
        self._phase = _CONNECTING
        self._answer = b""
        try:
            made = self._socket = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as problem:
            raise SystemExit(f"{problem.strerror}: a process may have {_most_files()} (ulimit -n)") from None
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.sources:
            made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            number = self.node % 0xFDFFFF + 0x7F010000
            made.bind((socket.inet_ntoa(number.to_bytes(4, "big")), 0))
        loop.connections += 1
        code = made.connect_ex((target.address, target.port))
        loop.watch(made.fileno(), self)
        if code not in (0, errno.EINPROGRESS):
            self._broke(errno.errorcode.get(code, str(code)))

    def advance(self) -> None:
        """Do what can be done now."""
        try:
            if self._phase == _CONNECTING:
                if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._broke(errno.errorcode.get(code, str(code)))
                    return
                tls = self._tls = SSL.Connection(self.context, self._socket)
                tls.set_connect_state()
                tls.set_tlsext_host_name(self._loop.server_name)
                self._phase = _SHAKING
            if self._phase == _SHAKING:
                self._tls.do_handshake()  # type: ignore[union-attr]
                self.shaken = self._loop.now()
                self._phase = _SENDING
            if self._phase == _SENDING:
                while self.request:
                    sent = self._tls.send(self.request)  # type: ignore[union-attr]
                    if sent == len(self.request):
                        break
                    self.request = self.request[sent:]
                self._phase = _AWAITING
                self._loop.waiting[self.kind] = self._loop.waiting.get(self.kind, 0) + 1
                return
            while True:
                self._answer += self._tls.recv(_READ)  # type: ignore[union-attr]
                if self._is_complete():
                    self._end()
                    return
        except (SSL.WantReadError, SSL.WantWriteError):
            return
        except (SSL.Error, OSError) as problem:
            self._broke(_name(problem))

    def _is_complete(self) -> bool:
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator:
            return False
        place = head.lower().find(b"content-length:")
        if place < 0 or len(body) < int(head[place + 15 :].split(b"\r\n", 1)[0]):
            return False
        self.body = body
        return True

    def _broke(self, why: str) -> None:
        # osqueryd sends a request again at once, one time, within the same 16 seconds (http_client.cpp).
        phase = _PHASES[self._phase]
        self._let_go()
        if self.is_resent or not self._loop.resends:
            self.problem = f"{phase}: {why}"
            self._end()
        else:
            self.is_resent = True
            self._loop.resent += 1
            self._connect()

    def _time_is_up(self) -> None:
        if self.is_over:
            return
        until = self._loop.patience.get(self.kind, 0.0) + self.started
        if self._phase == _AWAITING and until > self.deadline:
            self.deadline = until
            self._loop.at(until, self._time_is_up)
            return
        self.problem = f"{_PHASES[self._phase]}: {TIMEOUT}"
        self._end()

    def _end(self) -> None:
        self._let_go()
        if not self.is_over:
            self.is_over = True
            self._on_end(self)

    def _let_go(self) -> None:
        if self._phase == _AWAITING and not self.is_over:
            self._loop.waiting[self.kind] -= 1
        # osqueryd closes without a close_notify (http_client.cpp); closing takes the socket out of the epoll too.
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._tls = None
        self._phase = _CONNECTING


class Loop:
    """
    Drives exchanges and calls things at their time.

    :ivar patience: seconds that the answer of a kind of request may take in all, if it was sent within the budget.
    :ivar waiting: for each kind of request how many are sent and not answered.
    """

    def __init__(self, target: Target, budget: float = BUDGET, resends: bool = True) -> None:
        self.target = target
        self.server_name = target.host.encode("idna")
        self.budget = budget
        self.resends = resends
        self.patience: dict[str, float] = {}
        self.connections = self.resent = 0
        self.waiting: dict[str, int] = {}
        self.now = time.monotonic
        self._epoll = select.epoll()
        self._open: dict[int, Exchange] = {}
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Call something at a time."""
        heapq.heappush(self._timers, (when, next(self._numbers), call))

    def watch(self, descriptor: int, exchange: Exchange) -> None:
        """Tell an exchange whenever something new can be done."""
        self._open[descriptor] = exchange
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def forget(self, descriptor: int) -> None:
        """No longer."""
        self._open.pop(descriptor, None)

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._open)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Go on until it is over; looked at between events, at least ten times a second."""
        timers, open_exchanges = self._timers, self._open
        while not is_over():
            wait = min(0.1, max(0.0, timers[0][0] - self.now())) if timers else 0.1
            for descriptor, _ in self._epoll.poll(wait, 256):
                exchange = open_exchanges.get(descriptor)
                if exchange is not None:
                    exchange.advance()
            # What is due may not keep answers waiting: a few at a time.
            for _ in range(64):
                if not timers or timers[0][0] > self.now():
                    break
                heapq.heappop(timers)[2]()

    def close(self) -> None:
        """Drop everything."""
        self._timers.clear()
        self._epoll.close()
        for exchange in list(self._open.values()):
            exchange.is_over = True
            exchange._let_go()


def _most_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _name(problem: Exception) -> Any:
    if isinstance(problem, SSL.ZeroReturnError):
        return "closed"
    if isinstance(problem, SSL.SysCallError | OSError) and problem.args:
        return errno.errorcode.get(problem.args[0], "closed") if problem.args[0] != -1 else "closed"
    if isinstance(problem, SSL.Error) and problem.args and problem.args[0]:
        return problem.args[0][-1][-1]
    return type(problem).__name__
