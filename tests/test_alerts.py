"""Alerts: rules over lines, told once in a window and not in a silence; and what the server says of its fleet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from osqtwist.alerting import AlertSink
from osqtwist.alertinterfaces import Silence
from osqtwist.alertrule import AlertRule, BadAlertRule, read_rules
from osqtwist.fleetevents import EventSettings, FleetEvents
from osqtwist.interfaces import StoreUnavailable
from osqtwist.logevent import LogEvent
from osqtwist.loginterfaces import BufferFull
from osqtwist.routing import Route
from osqtwist.sinkinterfaces import SinkUnavailable
from osqtwist.storage.memory import MemoryStores
from tests.harness import InMemoryServer, result_of
from tests.stores import RealValkey, valkey
from tests.test_delivery_process import until
from tests.test_storage import a_batch
from tests.test_twistd import Start, start

__all__ = ["start"]

USB = {"when": "name:usb_devices and action:added and not column.vendor:Yubico*", "text": "{column.vendor} at {node}"}


def a_line(**more: Any) -> dict[str, Any]:
    return {"name": "usb_devices", "action": "added", "columns": {"vendor": "Evil", "size": "12"}, **more}


def events(*lines: Any, **more: Any) -> list[LogEvent]:
    found, _ = Route().events(a_batch(data=json.dumps(lines).encode(), count=len(lines), **more))
    return found


@pytest.mark.parametrize(
    ("when", "line", "matches"),
    [
        (USB["when"], a_line(), True),
        (USB["when"], a_line(action="removed"), False),
        (USB["when"], a_line(columns={"vendor": "Yubico AB"}), False),
        ("column.size>10", a_line(), True),
        ("column.size>12", a_line(), False),
        ("column.size>1", a_line(columns={"size": "x"}), False),
        ("column.vendor:evil", {"name": "x", "snapshot": [{"vendor": "good"}, {"vendor": "evil"}]}, True),
        ("severity>=2", {"severity": "2", "message": "m"}, True),
        ("tag:prod and node:n", a_line(), True),
        ("identity:i and log_type:result", a_line(), True),
        ("decoration.host:web-*", a_line(decorations={"host": "web-1"}), True),
        ("pack:secret", {"name": "pack_secret_x"}, True),
        ("column.vendor:Evil", a_line(columns=["odd"]), False),
    ],
)
def test_a_rule_matches_lines(when: str, line: dict[str, Any], matches: bool) -> None:
    """By name, columns, decorations, numbers, any row of a snapshot, and what the server vouches for."""
    (event,) = events(line, tags=("prod",), identity="i")
    rule = AlertRule.read("r", {"when": when})
    assert (rule.ask(event) is not None) == matches


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"when": "colour:red"}, "no key 'colour'"),
        ({"when": "name:x", "severity": "huge"}, "severity"),
        ({"when": "name:x", "per": ["colour"]}, "no key 'colour'"),
        ({"when": "name:x", "text": "{colour}"}, "no key 'colour'"),
        ({"when": "name:x", "window": -1}, "window is -1"),
        ({"when": "name>3"}, "not a number"),
        ({}, "when"),
    ],
)
def test_a_rule_that_cannot_be_names_itself(block: dict[str, Any], words: str) -> None:
    """Block and key."""
    with pytest.raises(BadAlertRule, match=r"\[alert\.r\]") as caught:
        read_rules({"r": block})
    assert words in str(caught.value)


@given(st.text(max_size=50))
def test_no_value_of_a_line_does_anything_to_the_text(value: str) -> None:
    """It stands there without control characters, and what looks like a hole stays as it is."""
    (event,) = events(a_line(columns={"vendor": value}))
    alert = AlertRule.read("r", {"when": "name:*", "text": "<{column.vendor}>"}).ask(event)
    assert alert is not None
    assert alert.text.isprintable()
    assert alert.text.startswith("<")
    assert (alert.text == f"<{value}>") == value.isprintable()


@pytest.fixture(scope="module")
def running() -> Iterator[RealValkey]:
    with valkey() as started:
        yield started


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def stores(request: pytest.FixtureRequest, running: RealValkey) -> AsyncIterator[Any]:
    """Stores, in memory and for real."""
    clock: Any = reactor
    made: Any = MemoryStores(clock) if request.param == "memory" else running.stores(reactor)
    await made.ready()
    yield made
    await made.close()


async def alerts_in(stores: Any) -> list[dict[str, Any]]:
    batches = [each.batch for each in await stores.logs.read("", 100) if each.batch.log_type == "alert"]
    return [json.loads(batch.data)[0] for batch in batches]


@pytest_twisted.ensureDeferred
async def test_a_line_is_told_of_once_in_a_window(stores: Any) -> None:
    """Others of its group are counted; the same line, after a crash, is not told of twice."""
    clock: Any = reactor
    sink = AlertSink(
        clock, stores, read_rules({"usb": {**USB, "per": ["node", "column.vendor"]}, "none": {"when": "name:x"}})
    )
    found = events(a_line(), a_line(), a_line(columns={"vendor": "Other"}))
    assert (await sink.deliver(found)).refused == ()
    await sink.deliver(found)
    told = await alerts_in(stores)
    assert [each["columns"]["text"] for each in told] == ["Evil at n", "Other at n"]
    assert told[0]["cause"]["columns"]["vendor"] == "Evil"
    assert "osqtwist" not in told[0]["cause"]
    counts = await stores.alerts.counts()
    assert (counts["usb", "raised"], counts["usb", "repeated"]) == (2, 2)
    # What alerts say raises no alerts.
    assert AlertRule.read("all", {"when": "*"}).ask(LogEvent("e", "n", "n", "alert", 1.0, b"{}")) is None


@pytest_twisted.ensureDeferred
async def test_without_a_window_each_line_is_told_of(stores: Any) -> None:
    """But still once each."""
    clock: Any = reactor
    sink = AlertSink(clock, stores, read_rules({"usb": {**USB, "window": 0.0}}))
    found = events(a_line(), a_line())
    for _ in range(2):
        await sink.deliver(found)
    assert (await stores.alerts.counts())["usb", "raised"] == 2


@pytest_twisted.ensureDeferred
async def test_what_is_of_no_rule_is_not_counted(stores: Any) -> None:
    """Events of the fleet are claimed as alerts are; a rule may be called as one of them."""
    assert await stores.alerts.claim("", "clone-1", "a", 60.0)
    assert not await stores.alerts.claim("", "clone-1", "b", 60.0)
    assert await stores.alerts.counts() == {}


@pytest_twisted.ensureDeferred
async def test_a_silence_keeps_quiet(stores: Any) -> None:
    """About a rule, or lines; until it ends or is ended."""
    clock: Any = reactor
    now = clock.seconds()
    rules = read_rules({"usb": {**USB, "window": 0.0}, "all": {"when": "name:*", "window": 0.0}})
    made = Silence(
        silence_id="s", rule="usb", when="column.vendor:Evil", until=now + 60, created_at=now, created_by="me"
    )
    await stores.alerts.silence(made)
    over = Silence(silence_id="o", until=now - 1, created_at=now, created_by="me")
    await stores.alerts.silence(over)
    assert await stores.alerts.silences(now) == [made]
    await AlertSink(clock, stores, rules).deliver(events(a_line(), a_line(columns={"vendor": "Other"})))
    rules_told = sorted(each["columns"]["rule"] for each in await alerts_in(stores))
    assert rules_told == ["all", "all", "usb"]
    assert (await stores.alerts.counts())["usb", "silenced"] == 1
    assert (await stores.alerts.unsilence("s"), await stores.alerts.unsilence("s")) == (True, False)


class _Broken:
    """A log buffer that takes nothing."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem

    async def append(self, batch: Any) -> None:
        raise self.problem


def test_a_full_buffer_is_not_waited_for() -> None:
    """The line becomes a dead letter: were it waited for, the buffer would stay full; a store that is away is."""
    clock: Any = reactor
    stores: Any = MemoryStores(clock)
    sink = AlertSink(clock, stores, read_rules({"usb": USB}))
    stores.logs = _Broken(BufferFull("full"))
    outcome = result_of(Deferred.fromCoroutine(sink.deliver(events(a_line(), {"name": "y"}))))
    assert [each.index for each in outcome.refused] == [0]
    stores.logs = _Broken(StoreUnavailable("away"))
    sink = AlertSink(clock, stores, read_rules({"other": USB}))
    with pytest.raises(SinkUnavailable, match="away"):
        result_of(Deferred.fromCoroutine(sink.deliver(events(a_line()))))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path, alert={"usb": USB}, certificate_tags=())
    yield made
    made.stop()


def said(server: InMemoryServer, kind: str) -> list[dict[str, Any]]:
    batches = [
        each.batch for each in server.await_(server.stores.logs.read("", 1000)) if each.batch.log_type == "event"
    ]
    lines = [json.loads(batch.data)[0] for batch in batches]
    return [line["columns"] | {"host": line["hostIdentifier"]} for line in lines if line["action"] == kind]


def test_the_fleet_is_told_of(server: InMemoryServer) -> None:
    """A new node once, a node that went silent once for each time, a revoked node that still asks once an hour."""
    key = server.enroll("host-1")
    server.turn(3)
    assert [each["host"] for each in said(server, "node_new")] == ["host-1"]
    server.turn(3700)
    assert len(said(server, "node_offline")) == 1
    assert server.enroll("host-1")
    server.turn(60)
    assert len(said(server, "node_new")) == 1
    server.turn(700)
    assert len(said(server, "node_offline")) == 2
    server.operate("/api/v1/nodes/host-1/revoke", {}, "POST")
    for _ in range(5):
        assert server.ask("/config", {"node_key": key})[1]["node_invalid"] is True
    server.turn()
    assert len(said(server, "revoked_attempt")) == 1
    server.turn(3700)
    server.ask("/config", {"node_key": key})
    server.turn()
    assert len(said(server, "revoked_attempt")) == 2


def test_certificates_that_end_are_told_of_once(server: InMemoryServer) -> None:
    """Each certificate, however long it lasts."""
    server.certificate = "web-1"
    server.ask("/config", {})
    server.turn(90)
    server.turn(90)
    (found,) = said(server, "certificate_expiring")
    assert (found["host"], found["node"] != "") == ("web-1", True)


def test_nobody_who_does_not_want_events_gets_any(tmp_path: Path) -> None:
    """Without a rule and without [events] nothing is written."""
    made = InMemoryServer(tmp_path)
    made.enroll("host-1")
    made.turn(4000)
    assert made.await_(made.stores.logs.read("", 10)) == []
    made.stop()


def test_columns_of_events_are_text(server: InMemoryServer) -> None:
    """As osquery's are."""
    events = FleetEvents(server.reactor, server.stores, EventSettings(), looks=False)
    events.report("clone", "n1", {"name": "web", "parted": False, "places": ["a", "b"], "found_at": 1.5})
    server.turn()
    (stored,) = server.await_(server.stores.logs.read("", 10))
    (line,) = json.loads(stored.batch.data)
    assert line["columns"] == {"parted": "0", "places": "a, b", "found_at": "1.5", "node": "n1"}


def test_silences_by_the_api(server: InMemoryServer) -> None:
    """Made, listed with the rules, ended; what cannot be is refused."""
    code, made = server.operate("/api/v1/alerts/silences", {"rule": "usb", "seconds": 60, "why": "w"}, "POST")
    assert (code, made["created_by"]) == (201, "tester")
    found = server.operate("/api/v1/alerts")[1]
    assert ([each["rule"] for each in found["rules"]], len(found["silences"])) == (["usb"], 1)
    path = f"/api/v1/alerts/silences/{made['silence_id']}/end"
    assert [server.operate(path, {}, "POST")[0] for _ in range(2)] == [200, 404]
    for body, expected in (
        ({"seconds": 1}, 400),
        ({"seconds": 1, "rule": "x"}, 404),
        ({"seconds": 1, "when": "x>"}, 400),
    ):
        assert server.operate("/api/v1/alerts/silences", body, "POST")[0] == expected


def test_a_dry_run_tells_nobody(server: InMemoryServer) -> None:
    """It says what rules, or an expression that is none yet, would have said of what is in the buffer."""
    now = server.reactor.seconds()
    for vendor, at in (("Evil", now), ("Evil", now), ("Old", now - 7200)):
        batch = a_batch(data=json.dumps([a_line(columns={"vendor": vendor})]).encode(), received_at=at)
        server.await_(server.stores.logs.append(batch))

    def trial(words: str) -> list[Any]:
        code, lines = server.operate(f"/api/v1/alerts/trial?{words}")
        assert code == 200, lines
        return lines if isinstance(lines, list) else [lines]

    found = trial("rule=usb")
    assert [each.get("first_of_group") for each in found] == [True, False, None]
    assert (found[0]["text"], found[-1]) == ("Evil at n", {"type": "end", "lines": 2, "raised": 2, "groups": 1})
    assert trial("seconds=9000")[-1]["raised"] == 3
    assert trial("when=column.vendor:old&seconds=9000")[-1]["raised"] == 1
    assert server.operate("/api/v1/alerts/trial?rule=x")[0] == 404
    assert server.operate("/api/v1/alerts/trial?when=colour:red")[0] == 400
    assert server.await_(server.stores.alerts.counts()) == {}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_from_a_line_to_whoever_is_told(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A node posts a line; the sink that takes alerts has it once in its window; silences come and go."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "settings.toml").write_text(
        '[alert.usb]\nwhen = "name:usb_devices"\nper = ["node", "column.vendor"]\n'
        '[sink.told]\nkind = "file"\npath = "told.jsonl"\nwhen = "log_type:alert"\n'
        '[sink.all]\nkind = "file"\npath = "all.jsonl"\nwhen = "log_type:result"\n'
    )
    server = start("--port", "ssl:0", "--settings", "settings.toml", folder=folder)

    count = iter(range(100))

    def told() -> list[str]:
        path = folder / "told.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["columns"]["rule"] + json.loads(line)["cause"]["columns"]["vendor"] for line in lines]

    def post(vendor: str) -> None:
        line = {"name": "usb_devices", "action": "added", "columns": {"vendor": vendor}, "at": next(count)}
        assert server.ask("/log", {"node_key": "", "log_type": "result", "data": [line]}) == {}

    until(lambda: any(row["sink"] == "alerts" for row in server.json("sink", "list")))
    for vendor in ("a", "b", "a"):
        post(vendor)
    until(lambda: told() == ["usba", "usbb"])
    (row,) = server.json("alert", "list")
    assert (row["raised"], row["repeated"]) == (2, 1)
    tried = server.osqtwist("alert", "test", "usb")
    assert tried.stdout.splitlines()[-1] == "warning\tusb\tusb_devices on node-1.example.com (again)", tried.stdout
    # The fourth line says that the node is new.
    assert tried.stderr == "3 alerts of 2 groups in 4 lines\n"
    server.json("alert", "silence", "usb", "--hours", "1")
    assert [each["rule"] for each in server.json("alert", "silences")] == ["usb"]
    assert server.osqtwist("alert", "unsilence", server.json("alert", "silences")[0]["silence_id"]).returncode == 0
    post("c")
    until(lambda: told() == ["usba", "usbb", "usbc"], 30)
