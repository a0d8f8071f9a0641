"""
Log lines to a topic of Apache Kafka, or of what speaks its protocol.

librdkafka has threads of its own; what of it blocks runs in the reactor's thread pool.  A delivery ends when the
broker has acknowledged every line, or at its deadline.  Then what is left is purged and the producer is thrown away,
so that nothing of a delivery that was given up is sent later on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, LogLevel
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, RefusedEvent, SinkUnavailable
from osqtwist.sinks.kafkasettings import KafkaSettings, check

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

_T = TypeVar("_T")
_UNKNOWN: Any = object()
_STEP = 0.1
_IDLE_POLL = 30.0
_PERMANENT = ("MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD", "INVALID_TIMESTAMP")
_BESIDE = "_INVALID_DIFFERENT_RECORD"


@implementer(ISinkKind)
class KafkaKind:
    """``kind = "kafka"``."""

    kind = "kafka"
    settings = KafkaSettings

    def make(self, reactor: Any, name: str, settings: KafkaSettings) -> KafkaSink:
        """See :class:`osqtwist.sinkinterfaces.ISinkKind`."""
        try:
            from confluent_kafka import KafkaException, Producer  # noqa: PLC0415 - an optional package
        except ImportError:
            raise BadSinkSetting(
                "kind kafka needs the package confluent-kafka: pip install 'osqtwist[kafka]'"
            ) from None
        check(settings)
        # librdkafka knows best what its properties may be; without brokers it connects to nothing.
        trial = settings.configuration("x") | {"bootstrap.servers": ""}
        try:
            Producer(trial, logger=_voice(lambda level, text: None))
        except (KafkaException, TypeError, ValueError) as problem:
            raise BadSinkSetting(f"properties, ca, cert or key: {_plainly(problem)}") from None
        return KafkaSink(reactor, name, settings)


@implementer(ILogSink)
@attrs.define(eq=False)
class KafkaSink:
    """
    Writes each line as a message of its own, with the node's id as its key: lines of one node keep their order.

    What can never be taken is refused: a message that is too large, or one that the broker's checks turn down.
    """

    reactor: Any
    name: str
    settings: KafkaSettings = attrs.field(repr=False)
    _link: _Link | None = attrs.field(default=None, init=False)
    _thread: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    _given_up: threading.Event = attrs.field(factory=threading.Event, init=False)
    _poll: LoopingCall | None = attrs.field(default=None, init=False)
    _log = Logger()

    @property
    def where(self) -> str:
        """The destination, for messages."""
        return f"kafka {','.join(self.settings.brokers)}"

    async def open(self) -> None:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`.  Brokers are looked for by the first delivery only."""
        if self._poll is None:
            # An idle producer has things to say about its connections; nobody else would collect them.
            self._poll = LoopingCall(self._listen)
            self._poll.clock = self.reactor
            self._poll.start(_IDLE_POLL, now=False)
        await self._in_thread(self._connect)

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`."""
        return await self._in_thread(lambda: self._deliver(events))

    async def close(self) -> None:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`."""
        if self._poll is not None:
            self._poll.stop()
            self._poll = None
        self._given_up.set()
        if self._link is not None or self._thread.locked:
            await self._in_thread(self._let_go)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """Do what blocks, after what was cancelled has really ended."""
        await self._thread.acquire()
        self._given_up.clear()
        answer: Deferred[_T] = Deferred(lambda _: self._given_up.set())

        def done(result: Any) -> None:
            self._thread.release()
            if not answer.called:
                answer.callback(result)

        deferToThreadPool(self.reactor, self.reactor.getThreadPool(), work).addBoth(done)
        return await answer

    def _listen(self) -> None:
        if self._link is not None and not self._thread.locked:
            self._link.serve(0)

    # From here on: in a thread, one at a time.

    def _connect(self) -> _Link:
        if self._link is not None and self._link.is_broken:
            self._let_go()
        if self._link is None:
            try:
                self._link = _Link.to(self.settings.configuration(self._password()), self._tell)
            except Exception as problem:
                raise SinkUnavailable(f"{self.where}: {_plainly(problem)}") from None
        return self._link

    def _password(self) -> str:
        path = self.settings.password_file
        if not path:
            return self.settings.password
        try:
            return Path(path).read_text("utf-8").rstrip("\r\n")
        except OSError as problem:
            raise SinkUnavailable(f"{self.where}: password_file {path}: {problem.strerror}") from None

    def _let_go(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.end()

    def _tell(self, level: LogLevel, text: str) -> None:
        self.reactor.callFromThread(self._log.emit, level, "{sink}: {text}", sink=self.name, text=text)

    def _deliver(self, events: Sequence[LogEvent]) -> Outcome:
        deadline = time.monotonic() + self.settings.timeout

        def is_over() -> bool:
            return self._given_up.is_set() or time.monotonic() >= deadline

        link = self._connect()
        messages = {number: (self.settings.topic_of(event.log_type), event) for number, event in enumerate(events)}
        fates = link.send(messages, is_over)
        # Brokers turn down whole batches: only lines that are turned down alone are refused.
        doubtful = [number for number, fate in fates.items() if fate and fate.name() in (*_PERMANENT, _BESIDE)]
        if doubtful and len(events) > 1:
            self._tell(LogLevel.warn, f"{len(doubtful)} lines were turned down together and are sent one by one")
            for number in doubtful:
                del fates[number]
            for number in doubtful:
                fates |= link.send({number: messages[number]}, is_over)
        refused, again, trouble = [], [], ""
        for number, (topic, _) in messages.items():
            fate = fates.get(number, _UNKNOWN)
            if fate is _UNKNOWN:
                again.append(number)
            elif fate is not None and fate.name() in _PERMANENT:
                refused.append(RefusedEvent(number, f"topic {topic}: {fate.str()}"))
            elif fate is not None:
                again.append(number)
                trouble = trouble or f"topic {topic}: {fate.str()}"
        if not again:
            link.trouble = ""
            return Outcome(refused=tuple(refused))
        late = f"no acknowledgment within {self.settings.timeout:g} s"
        trouble = trouble or ("the producer failed" if link.is_broken else late)
        trouble = " ".join(f"{self.where}: {trouble}{link.trouble and f' ({link.trouble})'}".split())
        # What is in doubt must not be sent by this producer while it comes again through the next.
        self._let_go()
        if len(again) == len(events):
            raise SinkUnavailable(trouble)
        return Outcome(tuple(refused), tuple(again), trouble=trouble)


@attrs.define(eq=False)
class _Link:
    """
    A producer.

    :ivar trouble: the last that librdkafka said of its connections, until a delivery succeeds.
    :ivar is_broken: it will never send anything again.
    """

    producer: Any
    trouble: str = ""
    is_broken: bool = False

    @classmethod
    def to(cls, configuration: dict[str, Any], tell: Callable[[Any, str], object]) -> _Link:
        """Make one; it connects when it likes."""
        from confluent_kafka import Producer  # noqa: PLC0415 - an optional package

        link = cls(None)
        link.producer = Producer(configuration | {"error_cb": link._error}, logger=_voice(tell))
        return link

    def send(
        self, messages: Mapping[int, tuple[str, LogEvent]], is_over: Callable[[], bool]
    ) -> dict[int, KafkaError | None]:
        """Send and wait; answers with an error, or None for what was taken, for all whose fate is known."""
        from confluent_kafka import KafkaException  # noqa: PLC0415 - an optional package

        fates: dict[int, KafkaError | None] = {}
        for number, (topic, event) in messages.items():
            while not (self.is_broken or is_over()):
                try:
                    self.producer.produce(
                        topic,
                        value=event.document,
                        key=event.node_id.encode(),
                        headers=[("event_id", event.event_id.encode()), ("log_type", event.log_type.encode())],
                        on_delivery=lambda error, _, number=number: fates.setdefault(number, error),
                    )
                except BufferError:
                    self.serve(_STEP)
                    continue
                except KafkaException as problem:
                    fates[number] = problem.args[0]
                break
        while len(fates) < len(messages) and not (self.is_broken or is_over()):
            self.serve(_STEP)
        # A purge that follows must not be mistaken for an answer.
        return dict(fates)

    def serve(self, seconds: float) -> None:
        """Hear what librdkafka has to say, until nothing is under way or the time is over."""
        try:
            self.producer.flush(seconds)
        except Exception as problem:
            # It raises what ends a producer, from whatever call comes next.
            self.is_broken, self.trouble = True, _plainly(problem)

    def end(self) -> None:
        """Forget what is not sent, and end its threads."""
        self.producer.purge()
        # Serves the reports of what was purged, or their memory would be lost.
        self.serve(_STEP)
        self.producer = None

    def _error(self, error: KafkaError) -> None:
        if error.name() != "_ALL_BROKERS_DOWN" or not self.trouble:
            # Without the time it took, so that the same trouble reads the same.
            self.trouble = error.str().partition(" (after ")[0]


@attrs.define(eq=False)
class _Tell(logging.Handler):
    """Hands on what librdkafka logs."""

    tell: Callable[[Any, str], object]

    def __attrs_post_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on."""
        level = LogLevel.warn if record.levelno >= logging.WARNING else LogLevel.debug
        text = record.getMessage()
        # Failed connections come by the dozen; the delivery that fails of them says so once.
        self.tell(LogLevel.debug if text.startswith(("FAIL ", "ERROR ")) else level, text)


def _voice(tell: Callable[[Any, str], object]) -> logging.Logger:
    """A logger that is part of no hierarchy."""
    voice = logging.Logger("librdkafka")
    voice.addHandler(_Tell(tell))
    return voice


def _plainly(problem: Exception) -> str:
    """What librdkafka says, on one line."""
    error = problem.args[0] if problem.args else problem
    return " ".join(str(error.str() if hasattr(error, "str") else error).split())
