"""Sinks over HTTP: webhook, Splunk, Elasticsearch and Loki, against a server that checks what it gets."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, SinkUnavailable
from osqtwist.sinks.elastic import stamped
from osqtwist.sinks.kinds import kind_named
from tests.certificates import TestPKI
from tests.http_receiver import Bulk, Hec, Loki, Receiver, Reply, Service, Webhook, pause, said
from tests.sinkcontract import CONTRACT, Promise, an_event, name_of, read, some_events

# Twisted hands pyOpenSSL its own objects.
# A real receiver, and real waiting.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects is deprecated:DeprecationWarning"),
]

TOKENS: dict[str, dict[str, Any]] = {"splunk": {"token": "hec-token", "index": "main"}, "elastic": {"token": "a2V5"}}
SERVICES: dict[str, type[Any]] = {"webhook": Webhook, "splunk": Hec, "elastic": Bulk, "loki": Loki}


def make(kind: str, url: str, **settings: Any) -> Any:
    found = kind_named(kind)
    assert ISinkKind.providedBy(found)
    sink = found.make(reactor, "test", found.settings(url=url, **(TOKENS.get(kind, {}) | settings)))
    assert ILogSink.providedBy(sink)
    return sink


@attrs.define
class HttpDestination:
    """A receiver, and sinks for it."""

    kind: str
    receiver: Receiver
    settings: dict[str, Any] = attrs.field(factory=dict)
    sinks: list[Any] = attrs.field(factory=list)

    @property
    def service(self) -> Any:
        return self.receiver.service

    def make(self, **settings: Any) -> Any:
        sink = make(self.kind, self.receiver.url, **(self.settings | settings))
        self.sinks.append(sink)
        return sink

    async def opened(self, **settings: Any) -> Any:
        sink = self.make(**settings)
        await sink.open()
        return sink

    async def received(self) -> Sequence[bytes]:
        documents = list(self.service.documents)
        if self.kind == "elastic":
            return [b"{" + document.split(b",", 1)[1] for document in documents]
        return documents

    async def take_away(self) -> None:
        await self.receiver.stop()

    async def give_back(self) -> None:
        self.receiver.start()

    async def end(self) -> None:
        for sink in self.sinks:
            await sink.close()
        await self.receiver.stop()


def destination_of(kind: str, service: Service | None = None, **more: Any) -> HttpDestination:
    destination = HttpDestination(kind, Receiver(service or SERVICES[kind](), **more))
    destination.receiver.start()
    return destination


@pytest_twisted.async_yield_fixture(params=list(SERVICES))
async def destination(request: pytest.FixtureRequest) -> AsyncIterator[HttpDestination]:
    found = destination_of(request.param)
    yield found
    await found.end()


async def _one(kind: str) -> AsyncIterator[HttpDestination]:
    found = destination_of(kind)
    yield found
    await found.end()


@pytest_twisted.async_yield_fixture
async def webhook() -> AsyncIterator[HttpDestination]:
    async for found in _one("webhook"):
        yield found


@pytest_twisted.async_yield_fixture
async def splunk() -> AsyncIterator[HttpDestination]:
    async for found in _one("splunk"):
        yield found


@pytest_twisted.async_yield_fixture
async def elastic() -> AsyncIterator[HttpDestination]:
    async for found in _one("elastic"):
        yield found


@pytest_twisted.async_yield_fixture
async def loki() -> AsyncIterator[HttpDestination]:
    async for found in _one("loki"):
        yield found


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPKI]:
    yield TestPKI.mint(tmp_path_factory.mktemp("http-sinks"))


async def unavailable(sink: Any, events: Sequence[LogEvent] | None = None) -> SinkUnavailable:
    """What the sink says when it takes nothing."""
    with pytest.raises(SinkUnavailable) as caught:
        await sink.open()
        await sink.deliver(events or some_events(1))
    assert "\n" not in str(caught.value)
    return caught.value


def indices(outcome: Outcome) -> list[int]:
    return [each.index for each in outcome.refused]


def is_number(*numbers: int) -> Any:
    """A doubt about the events with these numbers."""
    names = {f"host-{number}" for number in numbers}
    return lambda document: document["hostIdentifier"] in names


# A connection refused takes Twisted's HostnameEndpoint 0.3 s, and profiles have no part in it: once is enough.
OUTAGES = ("what_is_away_is_said_and_comes_back", "a_sink_may_start_before_its_destination")
PROMISES = [(kind, each) for kind in SERVICES for each in CONTRACT if kind == "webhook" or name_of(each) not in OUTAGES]


@pytest.mark.parametrize(
    ("destination", "promise"), PROMISES, indirect=["destination"], ids=lambda each: name_of(each) or str(each)
)
@pytest_twisted.ensureDeferred
async def test_it_keeps_the_contract(promise: Promise, destination: HttpDestination) -> None:
    """Every sink over HTTP does what delivery relies on."""
    await promise(destination)


@pytest_twisted.ensureDeferred
async def test_throttling_is_heeded(destination: HttpDestination) -> None:
    """429 and 503 are SinkUnavailable with the seconds of Retry-After, which may be a date."""
    now = reactor.seconds()  # type: ignore[attr-defined]
    sink = await destination.opened()
    for status, after, least, most in (
        (429, "7", 7, 7),
        (503, formatdate(now + 90, usegmt=True), 85, 91),
        (503, formatdate(now - 90, usegmt=True), 0, 0),
        (500, "soon", 0, 0),
        (502, "", 0, 0),
    ):
        destination.receiver.answers.append(Reply(status, b"slow\ndown", {"Retry-After": after} if after else {}))
        problem = await unavailable(sink)
        assert least <= problem.retry_after <= most
        assert f"{status}: slow down" in str(problem)
    assert await sink.deliver(some_events(1)) == Outcome()


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
@pytest_twisted.ensureDeferred
async def test_what_an_operator_must_mend_refuses_nothing(webhook: HttpDestination, status: int) -> None:
    """The status is said, and that nothing was taken; redirects are not followed with the token."""
    webhook.receiver.answers.append(Reply(status, b"", {"Location": webhook.receiver.url}))
    problem = await unavailable(webhook.make(token="secret"))
    assert str(problem) == f"{webhook.receiver.url} answers {status}"


@pytest_twisted.ensureDeferred
async def test_what_is_too_large_is_halved(destination: HttpDestination) -> None:
    """413 splits a batch until it fits; an event that does not fit alone is refused; later batches start smaller."""
    destination.receiver.most_bytes = 3000
    sink = await destination.opened()
    events = [an_event(number, columns={"x": "y" * (5000 if number == 9 else 100)}) for number in range(40)]
    outcome = await sink.deliver(events)
    assert (indices(outcome), outcome.again) == ([9], ())
    assert "413" in outcome.refused[0].reason
    expected = [event.document for number, event in enumerate(events) if number != 9]
    assert read(await destination.received()) == read(expected)
    del destination.receiver.requests[:]
    assert await sink.deliver([an_event(100 + number, columns={"x": "y" * 100}) for number in range(10)]) == Outcome()
    assert all(len(request.body) <= 3000 for request in destination.receiver.requests)


@pytest_twisted.ensureDeferred
async def test_bad_events_do_not_refuse_the_others(webhook: HttpDestination) -> None:
    """A whole batch answered with 422 is taken apart: only the bad events are refused, the others arrive once."""
    webhook.service.is_bad = is_number(3, 60)
    sink = await webhook.opened()
    outcome = await sink.deliver(some_events(100))
    assert (indices(outcome), outcome.again) == ([3, 60], ())
    assert "422: something in it is bad" in outcome.refused[0].reason
    numbers = [each["hostIdentifier"] for each in read(webhook.service.documents)]
    assert numbers == [f"host-{number}" for number in range(100) if number not in (3, 60)]


@pytest_twisted.ensureDeferred
async def test_taking_apart_is_bounded(webhook: HttpDestination) -> None:
    """If everything is bad, a delivery makes 100 requests and leaves the rest for the next."""
    webhook.service.is_bad = lambda document: True
    sink = await webhook.opened()
    outcome = await sink.deliver(some_events(500))
    assert len(webhook.receiver.requests) == 100
    assert outcome.refused and sorted([*indices(outcome), *outcome.again]) == list(range(500))
    assert "has to wait" in outcome.trouble


@pytest_twisted.ensureDeferred
async def test_an_end_half_way_keeps_what_is_settled(webhook: HttpDestination) -> None:
    """If it throttles while a batch is taken apart, only what is not settled is tried again."""
    sink = await webhook.opened()
    wait = Reply(429, b"", {"Retry-After": "4"})
    webhook.receiver.answers += [Reply(400), Reply(204), wait]
    outcome = await sink.deliver(some_events(10))
    assert outcome == Outcome(again=(5, 6, 7, 8, 9), retry_after=4.0, trouble=f"{webhook.receiver.url} answers 429")


@pytest_twisted.ensureDeferred
async def test_no_answer_is_not_waited_for(webhook: HttpDestination) -> None:
    """After the timeout it is SinkUnavailable, and the next delivery has a connection of its own."""
    webhook.receiver.answers.append(None)
    sink = await webhook.opened(timeout=0.15)
    problem = await unavailable(sink)
    assert str(problem) == f"{webhook.receiver.url}: no answer in 0.15 s"
    assert await sink.deliver(some_events(1)) == Outcome()


@pytest_twisted.ensureDeferred
async def test_a_cancellation_is_a_cancellation(webhook: HttpDestination) -> None:
    """At any moment: never SinkUnavailable, which would be tried again by who wants to stop."""
    for seconds in (0.0, 0.001, 0.05):
        webhook.receiver.answers[:] = [None]
        sink = await webhook.opened()
        outcome = Deferred.fromCoroutine(sink.deliver(some_events(1)))
        if seconds:
            await pause(seconds)
        outcome.cancel()
        with pytest.raises(CancelledError):
            await outcome
        webhook.receiver.answers.clear()
        assert await sink.deliver(some_events(1)) == Outcome()


@pytest_twisted.ensureDeferred
async def test_connections_are_kept(destination: HttpDestination) -> None:
    """Deliveries share a connection."""
    sink = await destination.opened()
    for number in range(5):
        assert await sink.deliver(some_events(3, number * 10)) == Outcome()
    assert destination.receiver.site.count == 1


@pytest_twisted.ensureDeferred
async def test_long_requests_are_compressed(destination: HttpDestination) -> None:
    """Bodies are gzip if that is on, as it is unless the destination is just any; short ones are not."""
    sink = await destination.opened(**({"gzip": True} if destination.kind == "webhook" else {}))
    assert await sink.deliver(some_events(1)) == Outcome()
    noise = random.Random(1).randbytes(40_000).hex()
    events = [*some_events(300, 10), an_event(999, columns={"noise": noise})]
    assert await sink.deliver(events) == Outcome()
    assert [request.was_gzip for request in destination.receiver.requests] == [False, True]
    assert read(await destination.received())[1:] == read([event.document for event in events])
    plain = await destination.opened(gzip=False)
    assert await plain.deliver(some_events(300, 2000)) == Outcome()
    assert not destination.receiver.requests[-1].was_gzip


@pytest_twisted.ensureDeferred
async def test_credentials(webhook: HttpDestination, tmp_path: Path) -> None:
    """Tokens and passwords, given or in files, are sent; files are read anew with each opening."""
    secret = tmp_path / "secret"
    secret.write_text("one\n")
    in_file = {"token_file": str(secret)}
    for settings, expected in (
        ({"token": "abc"}, "Bearer abc"),
        (in_file, "Bearer one"),
        ({"username": "me", "password": "pass"}, "Basic bWU6cGFzcw=="),
        ({"username": "me", "password_file": str(secret)}, "Basic bWU6b25l"),
        ({"headers": {"X-Key": "1"}}, None),
    ):
        sink = await webhook.opened(**settings)
        await sink.deliver(some_events(1))
        assert webhook.receiver.requests[-1].headers.get("authorization") == expected
    assert webhook.receiver.requests[-1].headers["x-key"] == "1"
    sink = await webhook.opened(**in_file)
    secret.write_text("two")
    await sink.open()
    await sink.deliver(some_events(1))
    assert webhook.receiver.requests[-1].headers["authorization"] == "Bearer two"
    secret.unlink()
    assert str(await unavailable(sink)) == f"token_file {secret} cannot be used: No such file or directory"


@pytest_twisted.ensureDeferred
async def test_secrets_stay_secret(webhook: HttpDestination) -> None:
    """Neither the token nor what is in the query appears in a message, even if the server says it."""
    webhook.receiver.answers.append(Reply(403, b"you sent s3cr3t"))
    sink = make("webhook", webhook.receiver.url + "/in?key=hidden", token="s3cr3t")
    webhook.sinks.append(sink)
    text = str(await unavailable(sink))
    assert text == f"{webhook.receiver.url}/in answers 403: you sent ***"
    assert "s3cr3t" not in repr(sink) and "hidden" not in repr(sink.settings)


@pytest_twisted.ensureDeferred
async def test_tls_is_verified_both_ways(pki: TestPKI) -> None:
    """Only a server of the CA is talked to; a client certificate is shown; what is wrong is said in words."""
    destination = destination_of("webhook", pki=pki, client_ca=True)
    cert, key = pki.files_of("good")
    good = {"ca": str(pki.path("ca.pem")), "cert": cert, "key": key}
    try:
        sink = await destination.opened(**good)
        assert await sink.deliver(some_events(2)) == Outcome()
        for wrong, text in (
            ({"ca": str(pki.path("other-ca.pem"))}, "certificate verify failed"),
            ({"ca": ""}, "certificate verify failed"),
            ({"cert": "", "key": ""}, "TLS: "),
            ({"ca": key}, f"ca {key} cannot be used: there is no certificate in it"),
            ({"key": pki.files_of("second")[1]}, "is not the key of cert"),
            ({"key": cert}, f"key {cert} cannot be used"),
        ):
            assert text in str(await unavailable(destination.make(**(good | wrong))))
        pki.write("elsewhere", pki.authority.issue("elsewhere", "server", dns=["elsewhere.example"]))
        await destination.take_away()
        destination.receiver.certificate = "elsewhere"
        await destination.give_back()
        assert "its certificate is for another host" in str(await unavailable(destination.make(**good)))
    finally:
        await destination.end()
    assert len(destination.service.documents) == 2


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        ("webhook", {"url": ""}, "url is missing"),
        ("webhook", {"url": "ftp://x/"}, "url is 'ftp://x/'"),
        ("webhook", {"url": "https://me:pw@x/"}, "url has a user in it"),
        ("webhook", {"url": "https://x:99999/"}, "url is not a URL"),
        ("webhook", {"token": "a", "token_file": "b"}, "token and token_file are both there"),
        ("webhook", {"token": "a", "username": "b", "password": "c"}, "token and username"),
        ("webhook", {"username": "b"}, "username and password"),
        ("webhook", {"cert": "b"}, "cert and key go together"),
        ("webhook", {"url": "http://x/", "ca": "b"}, "ca has no use"),
        ("webhook", {"timeout": 0.0}, "timeout is 0"),
        ("webhook", {"headers": {"a b": "c"}}, "headers has 'a b'"),
        ("webhook", {"headers": {"A": "c\r\nB: d"}}, "headers has 'A'"),
        ("webhook", {"headers": {"content-length": "3"}}, "headers has 'content-length'"),
        ("splunk", {"token": ""}, "token .* is missing"),
        ("elastic", {"index": "Osquery"}, "index is 'Osquery'"),
        ("elastic", {"index": "osquery-%A"}, "index is 'osquery-%A'"),
        ("elastic", {"url": "https://x/?pretty"}, "url has a query"),
        ("loki", {"labels": {"a-b": "c"}}, "labels has 'a-b'"),
        ("loki", {"labels": {"job": "c"}}, "labels has 'job'"),
        ("loki", {"tenant": "a b"}, "tenant is 'a b'"),
    ],
)
def test_bad_settings_are_named(kind: str, settings: dict[str, Any], text: str) -> None:
    """A sentence with the key."""
    with pytest.raises(BadSinkSetting, match=text):
        make(kind, **({"url": "https://x/"} | settings))


@pytest_twisted.ensureDeferred
async def test_an_array(webhook: HttpDestination) -> None:
    """A webhook may want a JSON array."""
    sink = await webhook.opened(body="array")
    assert await sink.deliver(some_events(3)) == Outcome()
    assert webhook.receiver.requests[0].headers["content-type"] == "application/json"
    assert read(webhook.service.documents) == read([event.document for event in some_events(3)])


@pytest_twisted.ensureDeferred
async def test_splunk_envelopes(splunk: HttpDestination) -> None:
    """Time, host, source, sourcetype and index stand beside the document; an index is left out if none is set."""
    sink = await splunk.opened(source="here")
    await sink.deliver([attrs.evolve(an_event(4, unixTime="1790000004"), node_name='a"b', log_type="status")])
    [event] = splunk.service.events
    assert event.pop("event")["hostIdentifier"] == "host-4"
    assert event == {
        "time": 1790000004.0,
        "host": 'a"b',
        "source": "here",
        "sourcetype": "osquery:status",
        "index": "main",
    }
    assert b'"time":1790000004.000,' in splunk.receiver.requests[0].body
    await (await splunk.opened(index="")).deliver(some_events(1))
    assert "index" not in splunk.service.events[-1]


@pytest.mark.parametrize("counts_from", [0, 1])
@pytest_twisted.ensureDeferred
async def test_splunk_names_the_bad_event(splunk: HttpDestination, counts_from: int) -> None:
    """It is refused, those after it are sent again; and nothing is lost if the number is wrong."""
    splunk.service.is_bad = is_number(2, 5)
    splunk.service.counts_from = counts_from
    sink = await splunk.opened()
    outcome = await sink.deliver(some_events(8))
    assert (indices(outcome), outcome.again) == ([2, 5], ())
    assert "Invalid data format" in outcome.refused[0].reason
    hosts = [each["event"]["hostIdentifier"] for each in splunk.service.events]
    assert {*hosts} == {f"host-{number}" for number in (0, 1, 3, 4, 6, 7)}
    if counts_from == 0:
        assert len(hosts) == 6
        assert len(splunk.receiver.requests) == 5


@pytest_twisted.ensureDeferred
async def test_splunk_is_busy(splunk: HttpDestination) -> None:
    """Code 9: what it did not get to is tried again after the pause it asks for; nothing is lost."""
    splunk.service.busy_after = 3
    sink = await splunk.opened()
    outcome = await sink.deliver(some_events(6))
    assert (outcome.refused, outcome.again, outcome.retry_after) == ((), (2, 3, 4, 5), 2.0)
    splunk.service.busy_after = 0
    problem = await unavailable(sink)
    assert (problem.retry_after, "Server is busy (code 9)" in str(problem)) == (2.0, True)


@pytest_twisted.ensureDeferred
async def test_splunk_settings_that_are_wrong_refuse_nothing(splunk: HttpDestination) -> None:
    """Tokens and indexes are for operators to mend; so is an answer that is not HEC's."""
    assert "403: Invalid token (code 4)" in str(await unavailable(splunk.make(token="wrong")))
    assert "400: Incorrect index (code 7)" in str(await unavailable(splunk.make(index="other"), some_events(4)))
    splunk.receiver.answers.append(Reply(200, b"<html>Welcome"))
    assert "not what Splunk's" in str(await unavailable(splunk.make()))


@pytest_twisted.ensureDeferred
async def test_elastic_indexes_and_timestamps(elastic: HttpDestination) -> None:
    """The index has the event's day, or that of arrival if that is far away; @timestamp is added if it is missing."""
    sink = await elastic.opened()
    own, odd = an_event(2, **{"@timestamp": "mine"}), an_event(3, columns={"@timestamp": "deep"})
    events = [an_event(0), an_event(1, unixTime=86400), own, odd]
    assert await sink.deliver(events) == Outcome()
    assert {index for index, _ in elastic.service.stored} == {"osquery-2026.09.21"}
    assert [key for _, key in elastic.service.stored] == [event.event_id for event in events]
    stamps = [json.loads(each)["@timestamp"] for each in elastic.service.documents]
    assert stamps == ["2026-09-21T14:13:20.000Z", "1970-01-02T00:00:00.000Z", "mine", "2026-09-21T14:13:23.000Z"]
    assert stamped(b" { } ", 1.9996) == b'{"@timestamp":"1970-01-01T00:00:02.000Z"} '
    assert elastic.receiver.requests[0].headers["authorization"] == "ApiKey a2V5"


@pytest_twisted.ensureDeferred
async def test_elastic_judges_each_document(elastic: HttpDestination) -> None:
    """What is there already is taken, mapping errors are refused with their reason, the rest is tried again."""
    troubles = {
        "host-1": (400, "document_parsing_exception", "failed to parse field [x]"),
        "host-2": (429, "es_rejected_execution_exception", "queue is full"),
        "host-3": (503, "unavailable_shards_exception", "primary shard is not active"),
        "host-4": (403, "cluster_block_exception", "index read-only"),
        "host-5": (400, "validation_exception", "this cluster currently has [1000]/[1000] maximum shards open"),
    }
    elastic.service.trouble = lambda document: troubles.get(document["hostIdentifier"])
    sink = await elastic.opened()
    assert await sink.deliver(some_events(1)) == Outcome()
    outcome = await sink.deliver(some_events(7))
    assert (indices(outcome), outcome.again) == ([1], (2, 3, 4, 5))
    assert "400 document_parsing_exception: failed to parse field [x]" in outcome.refused[0].reason
    assert "429 es_rejected_execution_exception: queue is full" in outcome.trouble
    assert len(elastic.service.stored) == 2


@pytest_twisted.ensureDeferred
async def test_elastic_data_streams(elastic: HttpDestination) -> None:
    """They are written with create; a wrong action is a matter for the operator, and refuses nothing."""
    elastic.service.data_stream = True
    sink = await elastic.opened(index="logs-osquery-default")
    assert await sink.deliver(some_events(2)) == Outcome()
    wrong = await elastic.opened(index="logs-osquery-default", action="index")
    outcome = await wrong.deliver(some_events(2))
    assert (outcome.refused, outcome.again) == ((), (0, 1))
    assert "op_type of create" in outcome.trouble


@pytest_twisted.ensureDeferred
async def test_elastic_answers_that_are_not(elastic: HttpDestination) -> None:
    """Neither text nor the wrong number of items counts as taken."""
    sink = await elastic.opened()
    for answer in (Reply(200, b"OK"), said(200, {"errors": True, "items": []})):
        elastic.receiver.answers.append(answer)
        assert await unavailable(sink)


@pytest_twisted.ensureDeferred
async def test_loki_streams(loki: HttpDestination) -> None:
    """One stream for each log type, with labels, tenant and metadata as set; entries are ordered by time."""
    loki.service.tenant = "t-1"
    sink = await loki.opened(tenant="t-1", labels={"env": "test"}, metadata=True, time="occurred")
    events = [an_event(2), attrs.evolve(an_event(1), log_type="status"), an_event(0)]
    assert await sink.deliver(events) == Outcome()
    labels = {"job": "osqtwist", "env": "test"}
    assert loki.service.labels == [labels | {"log_type": "result"}, labels | {"log_type": "status"}]
    times = [when for _, when, _ in loki.service.entries]
    assert times == [1790000000 * 10**9, 1790000002 * 10**9, 1790000001 * 10**9]
    [metadata, *_] = loki.service.entries.values()
    assert metadata == {"node": "node-1", "event_id": events[2].event_id}
    assert "401: no org id" in str(await unavailable(loki.make()))


@pytest_twisted.ensureDeferred
async def test_loki_refuses_old_entries_only(loki: HttpDestination) -> None:
    """Those before the time that Loki says are refused in a few requests; the others are there once."""
    loki.service.oldest = 1790000150
    events = some_events(200)
    events[199] = attrs.evolve(events[199], log_type="status")
    sink = await loki.opened()
    outcome = await sink.deliver(events)
    assert (indices(outcome), outcome.again) == (list(range(50)), ())
    assert "entry too far behind" in outcome.refused[0].reason
    assert len(loki.service.entries) == 150
    assert len(loki.receiver.requests) == 4


@pytest_twisted.ensureDeferred
async def test_loki_refuses_bad_entries_only(loki: HttpDestination) -> None:
    """What it drops for another reason is looked for; what it kept the first time is no second entry."""
    loki.service.is_bad = is_number(7)
    sink = await loki.opened()
    outcome = await sink.deliver(some_events(20))
    assert (indices(outcome), outcome.again) == ([7], ())
    assert "Max entry size" in outcome.refused[0].reason
    assert len(loki.service.entries) == 19
