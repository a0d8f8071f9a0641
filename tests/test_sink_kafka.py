"""
The Kafka sink, on librdkafka's own mock cluster, which speaks the protocol over loopback.

``OSQ_TEST_KAFKA=HOST:PORT`` runs the contract on a real broker instead, which must create topics by itself; with
``OSQ_TEST_KAFKA_PID``, the process id of that broker, also what happens while it is away.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from osqtwist.sinkinterfaces import BadSinkSetting, Outcome, SinkUnavailable
from osqtwist.sinks.kafka import KafkaKind
from osqtwist.sinks.kafkasettings import KafkaSettings
from tests.sinkcontract import CONTRACT, Promise, an_event, name_of, some_events

confluent_kafka = pytest.importorskip("confluent_kafka")

REAL = os.environ.get("OSQ_TEST_KAFKA", "")
PATIENCE = 5.0 if REAL else 2.0
PRODUCE = 0
AUTHORIZATION_FAILED, TOO_LARGE, INVALID_RECORD, NOT_ENOUGH_REPLICAS, OUT_OF_ORDER = 29, 10, 87, 19, 45


class MockCluster:
    """A cluster of one broker in a thread of librdkafka; Python's binding has no call for it, so ctypes makes them."""

    def __init__(self) -> None:
        maps = Path("/proc/self/maps").read_text().splitlines()
        self._c = ctypes.CDLL(next(line.split()[-1] for line in maps if "librdkafka" in line))
        for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(self._c, name).restype = ctypes.c_void_p
        self._c.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        said = ctypes.create_string_buffer(512)
        quiet = ctypes.c_void_p(self._c.rd_kafka_conf_new())
        assert self._c.rd_kafka_conf_set(quiet, b"log_level", b"0", said, 512) == 0, said.value
        self._owner = ctypes.c_void_p(self._c.rd_kafka_new(0, quiet, said, 512))
        assert self._owner, said.value
        self._cluster = ctypes.c_void_p(self._c.rd_kafka_mock_cluster_new(self._owner, 1))
        self.address = self._c.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def add(self, topic: str) -> None:
        """Have a topic from the start: until one has appeared everything takes longer."""
        assert self._c.rd_kafka_mock_topic_create(self._cluster, topic.encode(), 4, 1) == 0

    def down(self) -> None:
        """Hang up, and take no connections."""
        assert self._c.rd_kafka_mock_broker_set_down(self._cluster, 1) == 0

    def up(self) -> None:
        """Take connections again, on the same port."""
        assert self._c.rd_kafka_mock_broker_set_up(self._cluster, 1) == 0

    def answer(self, request: int, *errors: int) -> None:
        """Fail the next requests of this kind with these errors, one after the other."""
        codes = (ctypes.c_int * len(errors))(*errors)
        push = self._c.rd_kafka_mock_push_request_errors_array
        push(self._cluster, ctypes.c_short(request), ctypes.c_size_t(len(errors)), codes)

    def end(self) -> None:
        """Be no more."""
        self._c.rd_kafka_mock_cluster_destroy(self._cluster)
        self._c.rd_kafka_destroy(self._owner)


@attrs.define
class Topic:
    """A topic on the mock cluster, or on a real broker; see :class:`tests.sinkcontract.Destination`."""

    cluster: Any
    topic: str = attrs.field(factory=lambda: f"osquery-{uuid.uuid4()}")

    def make(self, **more: Any) -> Any:
        brokers = (REAL or self.cluster.address,)
        return KafkaKind().make(
            reactor, "copy", KafkaSettings(**({"brokers": brokers, "topic": self.topic, "timeout": PATIENCE} | more))
        )

    async def received(self) -> Sequence[bytes]:
        return [message.value() for message in self.messages()]

    def messages(self, topic: str = "") -> list[Any]:
        """All that is there, by partition."""
        reader = confluent_kafka.Consumer(
            {"bootstrap.servers": REAL or self.cluster.address, "group.id": "test", "enable.partition.eof": True}
        )
        name = topic or self.topic
        try:
            partitions = list(reader.list_topics(name, 5).topics[name].partitions)
            start = confluent_kafka.OFFSET_BEGINNING
            reader.assign([confluent_kafka.TopicPartition(name, number, start) for number in partitions])
            found = []
            while partitions:
                message = reader.poll(5)
                assert message is not None, "the broker does not answer the test"
                if message.error() is None:
                    found.append(message)
                else:
                    assert message.error().name() == "_PARTITION_EOF", message.error()
                    partitions.pop()
            return found
        finally:
            reader.close()

    async def take_away(self) -> None:
        if REAL:
            if not os.environ.get("OSQ_TEST_KAFKA_PID"):
                pytest.skip("OSQ_TEST_KAFKA_PID does not say which process to stop")
            os.kill(int(os.environ["OSQ_TEST_KAFKA_PID"]), signal.SIGSTOP)
        else:
            self.cluster.down()

    async def give_back(self) -> None:
        if REAL:
            os.kill(int(os.environ["OSQ_TEST_KAFKA_PID"]), signal.SIGCONT)
        else:
            self.cluster.up()


@pytest.fixture
def destination() -> Iterator[Topic]:
    if REAL:
        yield Topic(None)
        if os.environ.get("OSQ_TEST_KAFKA_PID"):
            os.kill(int(os.environ["OSQ_TEST_KAFKA_PID"]), signal.SIGCONT)
        return
    cluster = MockCluster()
    try:
        topic = Topic(cluster)
        cluster.add(topic.topic)
        cluster.add(f"{topic.topic}.status")
        yield topic
    finally:
        cluster.end()


mock_only = pytest.mark.skipif(bool(REAL), reason="a real broker does not fail when told to")


def threads() -> int:
    """How many threads of librdkafka there are."""
    tasks = Path("/proc/self/task").iterdir()
    return sum((task / "comm").read_text().startswith("rdk:") for task in tasks)


@pytest.mark.parametrize(
    "promise",
    # librdkafka takes its time, most of all to find a broker again.
    [pytest.param(each, marks=[pytest.mark.slow]) for each in CONTRACT],
    ids=name_of,
)
@pytest_twisted.ensureDeferred
async def test_it_keeps_the_contract(promise: Promise, destination: Topic) -> None:
    await promise(destination)


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_message_says_which_event_of_which_node_it_is(destination: Topic) -> None:
    """The key is the node's id; the headers are event_id and log_type."""
    sink = destination.make()
    await sink.open()
    event = an_event()
    await sink.deliver([event])
    await sink.close()
    (message,) = destination.messages()
    assert message.key() == b"n-1"
    assert message.headers() == [("event_id", event.event_id.encode()), ("log_type", b"result")]


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_types_have_topics_of_their_own(destination: Topic) -> None:
    """What topic_by_type does not name goes to topic."""
    status = attrs.evolve(an_event(1), log_type="status")
    other = f"{destination.topic}.status"
    sink = destination.make(topic_by_type={"status": other})
    await sink.open()
    assert await sink.deliver([an_event(0), status, an_event(2)]) == Outcome()
    await sink.close()
    assert await destination.received() == [an_event(0).document, an_event(2).document]
    assert [message.value() for message in destination.messages(other)] == [status.document]


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_lines_of_a_node_keep_their_order(destination: Topic) -> None:
    """Nodes are spread over partitions, and each node has one."""
    events = [attrs.evolve(event, node_id=f"n-{number % 7}") for number, event in enumerate(some_events(200))]
    sink = destination.make()
    await sink.open()
    assert await sink.deliver(events) == Outcome()
    await sink.close()
    messages = destination.messages()
    assert len({message.partition() for message in messages}) > 1
    for node in {event.node_id for event in events}:
        mine = [message for message in messages if message.key() == node.encode()]
        assert len({message.partition() for message in mine}) == 1
        assert [message.value() for message in mine] == [event.document for event in events if event.node_id == node]


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_what_is_too_large_is_refused_alone(destination: Topic) -> None:
    """A line over message.max.bytes is refused, those beside it arrive."""
    sink = destination.make(properties={"message.max.bytes": "10000"})
    await sink.open()
    outcome = await sink.deliver([an_event(0), an_event(1, text="x" * 20000), an_event(2)])
    await sink.close()
    assert [(each.index, "too large" in each.reason) for each in outcome.refused] == [(1, True)]
    assert outcome.again == ()
    assert await destination.received() == [an_event(0).document, an_event(2).document]


@mock_only
@pytest.mark.slow
@pytest.mark.parametrize("error", [TOO_LARGE, INVALID_RECORD])
@pytest_twisted.ensureDeferred
async def test_lines_are_not_refused_for_their_neighbors(error: int, destination: Topic) -> None:
    """A broker turns down whole batches: each line of one is then tried alone, and only a bad one is refused."""
    sink = destination.make()
    await sink.open()
    await sink.deliver(some_events(1))
    destination.cluster.answer(PRODUCE, error, 0, error)
    outcome = await sink.deliver(some_events(4, 10))
    await sink.close()
    assert [each.index for each in outcome.refused] == [1]
    assert outcome.again == ()
    assert await destination.received() == [an_event(number).document for number in (0, 10, 12, 13)]


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_what_the_brokers_checks_turn_down_is_refused(destination: Topic) -> None:
    """INVALID_RECORD is for good."""
    sink = destination.make()
    await sink.open()
    await sink.deliver(some_events(1))
    destination.cluster.answer(PRODUCE, INVALID_RECORD)
    outcome = await sink.deliver(some_events(1, 5))
    assert [each.index for each in outcome.refused] == [0]
    assert destination.topic in outcome.refused[0].reason
    assert await sink.deliver(some_events(1, 6)) == Outcome()
    await sink.close()


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_topic_that_may_not_be_written_to_is_waited_for(destination: Topic) -> None:
    """TOPIC_AUTHORIZATION_FAILED is an operator's to mend: the lines are kept."""
    sink = destination.make()
    await sink.open()
    destination.cluster.answer(PRODUCE, AUTHORIZATION_FAILED)
    with pytest.raises(SinkUnavailable, match=rf"^kafka 127.0.0.1:\d+: topic {destination.topic}: .*authorization"):
        await sink.deliver(some_events(2))
    assert await sink.deliver(some_events(2)) == Outcome()
    await sink.close()


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_what_passes_is_tried_again_within_a_delivery(destination: Topic) -> None:
    """NOT_ENOUGH_REPLICAS once: the line arrives, once."""
    sink = destination.make(timeout=5.0)
    await sink.open()
    destination.cluster.answer(PRODUCE, NOT_ENOUGH_REPLICAS)
    assert await sink.deliver(some_events(2)) == Outcome()
    await sink.close()
    assert await destination.received() == [event.document for event in some_events(2)]


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_only_what_is_not_there_is_tried_again(destination: Topic) -> None:
    """Of two topics one refuses: its lines come again, and the others do not."""
    status = attrs.evolve(an_event(1), log_type="status")
    sink = destination.make(topic_by_type={"status": f"{destination.topic}.status"})
    await sink.open()
    await sink.deliver([an_event(0), status])
    destination.cluster.answer(PRODUCE, AUTHORIZATION_FAILED)
    outcome = await sink.deliver([an_event(2), status])
    await sink.close()
    assert len(outcome.again) == 1
    assert "authorization" in outcome.trouble
    assert len(await destination.received()) == (2 if outcome.again == (1,) else 1)


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_producer_that_failed_for_good_is_replaced(destination: Topic) -> None:
    """A fatal error ends a producer, not the sink."""
    sink = destination.make()
    await sink.open()
    await sink.deliver(some_events(1))
    destination.cluster.answer(PRODUCE, OUT_OF_ORDER)
    with pytest.raises(SinkUnavailable, match=r"the producer failed .*desync"):
        await sink.deliver(some_events(2, 5))
    assert await sink.deliver(some_events(2, 5)) == Outcome()
    await sink.close()


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_what_was_given_up_is_not_sent_later(destination: Topic) -> None:
    """After the deadline nothing of a delivery is left that could still go out."""
    # It would be back at once, if it were still there.
    sink = destination.make(properties={"reconnect.backoff.max.ms": "100"})
    await sink.open()
    await sink.deliver(some_events(1))
    destination.cluster.down()
    with pytest.raises(SinkUnavailable, match=r"no acknowledgment within 2 s \(.*refused\)$"):
        await sink.deliver(some_events(2, 5))
    destination.cluster.up()
    assert await sink.deliver(some_events(2, 10)) == Outcome()
    await sink.close()
    assert await destination.received() == [event.document for event in (*some_events(1), *some_events(2, 10))]


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_cancelling_ends_a_delivery_at_once(destination: Topic) -> None:
    """Whoever cancels does not wait for the deadline, and neither does who closes."""
    sink = destination.make(timeout=20.0)
    await sink.open()
    destination.cluster.down()
    under_way = Deferred.fromCoroutine(sink.deliver(some_events(2)))
    under_way.addErrback(lambda failure: None)
    await deferLater(reactor, 0.05)  # type: ignore[arg-type]
    began = time.monotonic()
    under_way.cancel()
    await sink.close()
    assert time.monotonic() - began < 1.0


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_closing_leaves_no_thread(destination: Topic) -> None:
    """Nor does a failure, nor opening twice."""
    counts = []
    for _ in range(2):
        # The cluster's own threads have their names by the second time only.
        before = threads()
        sink = destination.make()
        await sink.open()
        await sink.open()
        assert await sink.deliver(some_events(1)) == Outcome()
        assert threads() > before
        await sink.close()
        counts.append(threads())
    assert counts[1] == before == counts[0]


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_more_than_the_queue_holds_is_delivered(destination: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery waits for room in librdkafka's bounded queue."""
    monkeypatch.setattr("osqtwist.sinks.kafkasettings._QUEUE_KIB", 4)
    sink = destination.make(timeout=5.0)
    await sink.open()
    assert await sink.deliver(some_events(100)) == Outcome()
    await sink.close()
    assert len(await destination.received()) == 100


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_what_librdkafka_logs_is_logged_as_ours(destination: Topic, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing goes to the standard error, and each message names the sink."""
    heard: list[Any] = []
    globalLogPublisher.addObserver(heard.append)
    try:
        sink = destination.make(properties={"debug": "broker"})
        await sink.open()
        await sink.deliver(some_events(1))
        await sink.close()
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]
    finally:
        globalLogPublisher.removeObserver(heard.append)
    assert any(event.get("sink") == "copy" and "rdkafka" in event["text"] for event in heard)
    assert "rdkafka" not in capfd.readouterr().err


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_an_idle_sink_listens_too(destination: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """What librdkafka says between deliveries is collected, and does not pile up."""
    monkeypatch.setattr("osqtwist.sinks.kafka._IDLE_POLL", 0.02)
    sink = destination.make()
    await sink.open()
    await sink.deliver(some_events(1))
    destination.cluster.down()
    deadline = time.monotonic() + 5
    while destination.cluster.address not in sink._link.trouble and time.monotonic() < deadline:
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]
    assert destination.cluster.address in sink._link.trouble
    await sink.close()


@mock_only
@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_password_file_is_read_at_each_opening(destination: Topic, tmp_path: Path) -> None:
    """While it is not there the sink is unavailable, and says which file is missing."""
    secret = tmp_path / "password"
    sink = destination.make(username="u", password_file=str(secret))
    with pytest.raises(SinkUnavailable, match=f"password_file {secret}: No such file"):
        await sink.open()
    secret.write_text("rose\n")
    await sink.open()
    await sink.close()


def test_what_librdkafka_is_told() -> None:
    """SASL and TLS as the settings say, and always acknowledged and idempotent."""
    settings = KafkaSettings(
        brokers=("a:1", "[::1]:2"), topic="t", tls=True, cert="c.pem", username="u", properties={"linger.ms": "50"}
    )
    told = settings.configuration("rose")
    wanted = {
        "bootstrap.servers": "a:1,[::1]:2",
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "zstd",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.password": "rose",
        "ssl.certificate.location": "c.pem",
        "ssl.key.location": "c.pem",
        "linger.ms": "50",
    }
    assert wanted.items() <= told.items()
    assert KafkaSettings(brokers=("a:1",)).configuration("")["security.protocol"] == "PLAINTEXT"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"brokers": ()}, "brokers is missing"),
        ({"brokers": ("kafka",)}, "brokers: 'kafka' is not HOST:PORT"),
        ({"topic": ""}, "topic is missing"),
        ({"topic": "a b"}, "topic: 'a b' is no name"),
        ({"topic": "", "topic_by_type": {"result": "r"}}, "topic is missing"),
        ({"ca": "/nonexistent"}, "ca is given, but tls is not true"),
        ({"ca": "/nonexistent", "tls": True}, "ca: there is no file /nonexistent"),
        ({"cert": __file__, "tls": True}, "properties, ca, cert or key: .*ssl.certificate.location"),
        ({"key": __file__, "tls": True}, "key is given, but cert is not"),
        ({"username": "u"}, "username and password"),
        ({"password": "rose"}, "username and password"),
        ({"username": "u", "password": "rose", "password_file": "/x"}, "password and password_file"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"properties": {"acks": "1"}}, "properties: acks"),
        ({"properties": {"linger": "1"}}, "properties, .*linger"),
        ({"properties": {"linger.ms": "rose"}}, "properties, .*Invalid value"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], text: str) -> None:
    """One sentence that names the key, and never a password."""
    given = KafkaSettings(**({"brokers": ("127.0.0.1:1",), "topic": "t"} | settings))
    with pytest.raises(BadSinkSetting, match=f"^{text}") as caught:
        KafkaKind().make(reactor, "copy", given)
    assert "rose" not in str(caught.value) + repr(given)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional."""
    monkeypatch.setitem(__import__("sys").modules, "confluent_kafka", None)
    with pytest.raises(BadSinkSetting, match=r"pip install 'osqtwist\[kafka\]'"):
        KafkaKind().make(reactor, "copy", KafkaSettings(brokers=("127.0.0.1:1",), topic="t"))
