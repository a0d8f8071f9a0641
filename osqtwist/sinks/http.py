"""
What sinks over HTTP share: settings, credentials, TLS, connections, and finding out which events are at fault.

A profile says what a request looks like and what an answer means (:class:`Profile`); :class:`HttpSink` does the rest.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar

import attrs
from OpenSSL import SSL
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.threads import deferToThreadPool
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from zope.interface import implementer

from osqtwist.httpbodies import BoundedBody, WholeBody
from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import ILogSink, Outcome, RefusedEvent, SinkUnavailable
from osqtwist.sinks.httpsettings import (
    HttpSettings,
    VerifiedTLS,
    credential_of,
    is_plain,
    one_line,
    secret_in,
    trust_of,
)

_T = TypeVar("_T")
_LONGEST_CONNECT = 10.0
# Less than what common servers keep an idle connection for (nginx 75 s, load balancers 60 s).
_IDLE_SECONDS = 30.0
_MOST_REQUESTS = 100
_MOST_ANSWER_BYTES = 16 * 2**20
_WORTH_GZIP = 1024
_WORTH_A_THREAD = 2**16
_LEAST_BYTES = 2**16
_GZIP_LEVEL = 3


@attrs.frozen
class Part:
    """
    Events for one request, by index.

    :ivar otherwise: events to send as well if these are taken though the destination had named them as its trouble:
        then nothing is known of those.
    """

    indices: tuple[int, ...]
    otherwise: tuple[int, ...] = ()

    def of(self, indices: Sequence[int]) -> Part:
        """The same part, of events that have other indices elsewhere."""
        return Part(tuple(indices[i] for i in self.indices), tuple(indices[i] for i in self.otherwise))


@attrs.frozen
class Verdict:
    """
    What an answer means for the events of its request; those in no list were taken.

    :ivar refused: will never be taken.
    :ivar again: to be tried later.
    :ivar apart: to be sent again at once in these parts, to see which of them is at fault.
    """

    refused: tuple[RefusedEvent, ...] = ()
    again: tuple[int, ...] = ()
    apart: tuple[Part, ...] = ()
    retry_after: float = 0.0
    trouble: str = ""


@attrs.frozen
class Answer:
    """
    What a destination said.

    :ivar place: who said it, for messages.
    :ivar retry_after: seconds it asked to be left alone, 0 if it did not.
    """

    place: str
    status: int
    body: bytes
    retry_after: float = 0.0

    def unavailable(self, text: str = "") -> SinkUnavailable:
        """An exception that says this answer; ``text`` in the place of the body."""
        said = one_line(text or self.body.decode(errors="replace"))
        return SinkUnavailable(f"{self.place} answers {self.status}{said and ': '}{said}", self.retry_after)

    def by_status(self, count: int) -> Verdict:
        """
        What the status alone means for a request with so many events.

        :raise SinkUnavailable: it is not the events' fault.
        """
        if 200 <= self.status < 300:
            return Verdict()
        if self.status not in (400, 413, 422):
            raise self.unavailable()
        return self.fault(count)

    def fault(self, count: int) -> Verdict:
        """Some of so many events are at fault, nobody knows which: halves, or the refusal of a single one."""
        if count > 1:
            return Verdict(apart=(Part(tuple(range(count // 2))), Part(tuple(range(count // 2, count)))))
        return Verdict(refused=(RefusedEvent(0, str(self.unavailable())),))


class Profile(Protocol):
    """What a request looks like, and what an answer means."""

    @property
    def url(self) -> str:
        """Where requests go."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every request, ``Content-Type`` among them."""

    @property
    def scheme(self) -> str:
        """The word before a token: ``Bearer`` or so."""

    def body(self, events: Sequence[LogEvent]) -> bytes:
        """The request; called in a thread if it is long."""

    def judge(self, answer: Answer, events: Sequence[LogEvent]) -> Verdict:
        """
        What an answer means for the events of its request.

        :raise SinkUnavailable: none was taken.
        """


class Connections(HTTPConnectionPool):
    """Keeps connections alive; the one in use can be given up."""

    current: Any = None
    # Trying again is for delivery, and connections that try by themselves cannot be aborted.
    retryAutomatically = False

    def getConnection(self, key: Any, endpoint: Any) -> Any:
        """Fire with a connection, a new one if none is idle."""
        return super().getConnection(key, endpoint).addCallback(self._remember)

    def abort(self) -> None:
        """Close the connection that was used last, at once."""
        if self.current is not None:
            self.current.abort()

    def _remember(self, connection: Any) -> Any:
        self.current = connection
        return connection


@implementer(ILogSink)
@attrs.define(eq=False)
class HttpSink:
    """
    Posts events, one request at a time, over connections that stay open.

    :ivar most_events: in one request.
    """

    reactor: Any
    settings: HttpSettings
    profile: Profile
    most_events: int = 10**9
    _client: HTTPClient | None = attrs.field(default=None, init=False)
    _pool: Connections | None = attrs.field(default=None, init=False)
    _headers: dict[str, str] = attrs.field(factory=dict, init=False, repr=False)
    _secret: str = attrs.field(default="", init=False, repr=False)
    _most_bytes: int = attrs.field(default=2**40, init=False)

    async def open(self) -> None:
        """
        Read the files with credentials; connections are made when there is something to deliver.

        :raise SinkUnavailable: a file cannot be used.
        """
        await self.close()
        self._secret, authorization, policy = await self._in_thread(self._read_files)
        self._headers = {"User-Agent": "osqtwist", **self.profile.headers, **authorization, **self.settings.headers}
        pool = Connections(self.reactor)
        pool.cachedConnectionTimeout = int(_IDLE_SECONDS)
        connect = min(self.settings.timeout, _LONGEST_CONNECT)
        self._client = HTTPClient(Agent(self.reactor, policy, connectTimeout=connect, pool=pool))
        self._pool = pool

    async def close(self) -> None:
        """Close the connections; they are gone when this fires."""
        pool, self._pool, self._client = self._pool, None, None
        if pool is not None:
            pool.abort()
            await pool.closeCachedConnections()

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """
        Fire when the destination has judged each event, or when the time or number of requests for it is used up.

        :raise SinkUnavailable: none was taken, as far as is known.
        """
        deadline = self.reactor.seconds() + self.settings.timeout
        refused: list[RefusedEvent] = []
        again: list[int] = []
        retry_after, trouble, requests = 0.0, "", 0
        waiting = deque(self._parts(events))
        while waiting:
            part = waiting.popleft()
            indices = part.indices
            try:
                left = deadline - self.reactor.seconds()
                if requests == _MOST_REQUESTS or left <= 0:
                    raise SinkUnavailable(f"{self.settings.place} refuses so much that the rest has to wait")
                verdict = await self._send([events[index] for index in indices], left)
            except SinkUnavailable as problem:
                rest = [*indices, *(index for each in waiting for index in each.indices)]
                if len(rest) == len(events):
                    raise
                again += rest
                retry_after, trouble = max(retry_after, problem.retry_after), str(problem)
                break
            requests += 1
            refused += [RefusedEvent(indices[each.index], each.reason) for each in verdict.refused]
            again += [indices[index] for index in verdict.again]
            retry_after, trouble = max(retry_after, verdict.retry_after), verdict.trouble or trouble
            waiting.extendleft(each.of(indices) for each in reversed(verdict.apart))
            if verdict == Verdict() and part.otherwise:
                waiting.appendleft(Part(part.otherwise))
        refused.sort(key=lambda each: each.index)
        return Outcome(tuple(refused), tuple(sorted(again)), retry_after, trouble)

    def _parts(self, events: Sequence[LogEvent]) -> Iterable[Part]:
        """Events in order, no more in a part than the destination is thought to bear."""
        part: list[int] = []
        size = 0
        for index, event in enumerate(events):
            size += len(event.document)
            if part and (size > self._most_bytes or len(part) == self.most_events):
                yield Part(tuple(part))
                part, size = [], len(event.document)
            part.append(index)
        yield Part(tuple(part))

    async def _send(self, events: Sequence[LogEvent], seconds: float) -> Verdict:
        """Post events and judge the answer."""
        if (client := self._client) is None:
            raise SinkUnavailable(f"{self.settings.place}: not open")
        size = sum(len(event.document) for event in events)
        compress = self.settings.gzip and size >= _WORTH_GZIP
        more = {"Content-Encoding": "gzip"} if compress else {}

        def pack() -> bytes:
            body = self.profile.body(events)
            return gzip.compress(body, _GZIP_LEVEL) if compress else body

        body = await self._in_thread(pack) if size >= _WORTH_A_THREAD else pack()
        try:
            answer = await self._within(seconds, self._post(client, body, self._headers | more))
        except TimeoutError:
            self._most_bytes = max(size // 2, _LEAST_BYTES)
            raise SinkUnavailable(f"{self.settings.place}: no answer in {seconds:.3g} s") from None
        except _Unanswered as problem:
            if problem.was_sent:
                # Some servers hang up on what is too large for them.
                self._most_bytes = max(size // 2, _LEAST_BYTES)
            raise SinkUnavailable(f"{self.settings.place}: {problem}") from None
        if answer.status == 413 and len(events) > 1:
            self._most_bytes = size // 2
        elif size * 2 > self._most_bytes:
            self._most_bytes += self._most_bytes // 8
        return self.profile.judge(answer, events)

    async def _post(self, client: HTTPClient, body: bytes, headers: Mapping[str, str]) -> Answer:
        # What Agent raises has no common class.
        try:
            response = await client.post(
                self.profile.url,
                data=WholeBody(body),
                headers=Headers({name: [value] for name, value in headers.items()}),
                allow_redirects=False,
                unbuffered=True,
                reactor=self.reactor,
            )
            done: Deferred[bytes] = Deferred()
            response.deliverBody(BoundedBody(done, _MOST_ANSWER_BYTES))
            said = await done
        except Exception as problem:
            raise _Unanswered(_why(problem), was_sent=hasattr(problem, "reasons")) from problem
        if self._secret:
            said = said.replace(self._secret.encode(), b"***")
        after = (response.headers.getRawHeaders("retry-after") or [""])[0]
        return Answer(self.settings.place, response.code, said, _seconds(after, self.reactor.seconds()))

    async def _within(self, seconds: float, work: Coroutine[Deferred[Any], Any, _T]) -> _T:
        """
        Do work on the connection; the connection is closed when that takes too long or is cancelled.

        Agent reports a cancellation as one of several other failures; here it is always a cancellation.
        """
        pool, under_way = self._pool, Deferred.fromCoroutine(work)
        is_given_up = False

        def give_up(_: Any) -> None:
            nonlocal is_given_up
            is_given_up = True
            under_way.cancel()
            if pool is not None:
                pool.abort()

        answer: Deferred[_T] = Deferred(give_up)
        under_way.addBoth(lambda result: None if is_given_up else answer.callback(result))
        return await answer.addTimeout(seconds, self.reactor)

    def _in_thread(self, work: Callable[[], _T]) -> Awaitable[_T]:
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), work)

    def _read_files(self) -> tuple[str, dict[str, str], VerifiedTLS]:
        """The secret, the header that has it, and how to do TLS."""
        settings = self.settings
        token = settings.token or secret_in("token_file", settings.token_file)
        password = settings.password or secret_in("password_file", settings.password_file)
        authorization = {}
        if token:
            authorization["Authorization"] = f"{self.profile.scheme} {token}"
        elif settings.username:
            pair = base64.b64encode(f"{settings.username}:{password}".encode()).decode()
            authorization["Authorization"] = f"Basic {pair}"
        if not all(is_plain(value) for value in authorization.values()):
            raise SinkUnavailable("the token has characters in it that cannot be sent")
        return token or password, authorization, VerifiedTLS(trust_of(settings.ca), credential_of(settings))


class _Unanswered(Exception):
    """A request got no answer; ``was_sent``: the destination may have seen some of it."""

    def __init__(self, text: str, was_sent: bool) -> None:
        super().__init__(text)
        self.was_sent = was_sent


def _seconds(after: str, now: float) -> float:
    """What a Retry-After header asks for (RFC 9110, 10.2.3): seconds, or a date."""
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", after):
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _why(problem: BaseException) -> str:
    """Why a request got no answer, in a line."""
    while reasons := getattr(problem, "reasons", None):
        problem = reasons[0].value
    if isinstance(problem, SSL.Error):
        said = problem.args[0] if problem.args and isinstance(problem.args[0], list) else []
        return "TLS: " + (", ".join(str(each[-1]) for each in said) or "the connection was cut")
    if isinstance(problem, VerificationError):
        return "TLS: its certificate is for another host"
    return one_line(str(problem)) or type(problem).__name__
