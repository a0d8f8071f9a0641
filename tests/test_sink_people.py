"""Sinks that tell people: Slack and PagerDuty, against a server that checks the documented bodies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor

from osqtwist.alertrule import AlertRule
from osqtwist.logevent import LogEvent
from osqtwist.routing import Route
from osqtwist.sinkinterfaces import BadSinkSetting, SinkUnavailable
from osqtwist.sinks.kinds import kind_named
from tests.http_receiver import Received, Receiver, Reply, said
from tests.test_storage import a_batch


def an_alert(vendor: str = "Evil <b>&", severity: str = "error", number: int = 0) -> LogEvent:
    line = {"name": "usb_devices", "columns": {"vendor": vendor}, "number": number}
    (cause,), _ = Route().events(a_batch(data=json.dumps([line]).encode()))
    block = {"when": "name:*", "severity": severity, "text": "{column.vendor} at {node}", "per": ["column.vendor"]}
    alert = AlertRule.read("usb", block).ask(cause)
    assert alert
    data = json.dumps([alert.as_line()]).encode()
    (found,), _ = Route().events(a_batch(data=data, log_type="alert"))
    return found


@attrs.define
class Slack:
    """As chat.postMessage is documented."""

    texts: list[str] = attrs.field(factory=list)
    documents: list[bytes] = attrs.field(factory=list)

    def take(self, request: Received) -> Reply:
        if request.headers.get("authorization") != "Bearer xoxb-1":
            return said(200, {"ok": False, "error": "invalid_auth"})
        body = json.loads(request.body)
        assert request.headers["content-type"] == "application/json; charset=utf-8"
        assert set(body) == {"channel", "text", "unfurl_links"}
        if body["channel"] != "C1":
            return said(200, {"ok": False, "error": "channel_not_found"})
        self.texts.append(body["text"])
        return said(200, {"ok": True, "ts": "1.2"})


@attrs.define
class PagerDuty:
    """As the Events API v2 is documented."""

    events: list[Any] = attrs.field(factory=list)
    documents: list[bytes] = attrs.field(factory=list)

    def take(self, request: Received) -> Reply:
        body = json.loads(request.body)
        if body["routing_key"] != "k" * 32:
            return said(400, {"status": "invalid event", "errors": ["Invalid routing key"]})
        payload = body["payload"]
        assert body["event_action"] == "trigger"
        assert payload["severity"] in ("critical", "error", "warning", "info")
        if payload["summary"].startswith("bad"):
            return said(400, {"status": "invalid event", "errors": ["'payload.summary' is odd"]})
        self.events.append(body)
        return said(202, {"status": "success", "dedup_key": body["dedup_key"]})


def make(kind: str, url: str, **settings: Any) -> Any:
    found = kind_named(kind)
    return found.make(reactor, "test", found.settings(url=url, **settings))


@pytest_twisted.async_yield_fixture
async def slack() -> AsyncIterator[Receiver]:
    receiver = Receiver(Slack())
    receiver.start()
    yield receiver
    await receiver.stop()


@pytest_twisted.async_yield_fixture
async def pagerduty() -> AsyncIterator[Receiver]:
    receiver = Receiver(PagerDuty())
    receiver.start()
    yield receiver
    await receiver.stop()


@pytest_twisted.ensureDeferred
async def test_slack_is_told_in_one_message(slack: Receiver, tmp_path: Path) -> None:
    """With nothing in it that Slack would take for a link or a mention; other lines by their name."""
    (tmp_path / "token").write_text("xoxb-1\n")
    sink = make("slack", slack.url, channel="C1", token_file=str(tmp_path / "token"))
    await sink.open()
    (line,), _ = Route().events(a_batch("x"))
    outcome = await sink.deliver([an_alert(), an_alert("<!channel>", "critical"), line])
    assert outcome.refused == outcome.again == ()
    service: Any = slack.service
    assert service.texts == [
        ":red_circle: *usb* Evil &lt;b&gt;&amp; at n\n"
        ":rotating_light: *usb* &lt;!channel&gt; at n\n"
        ":information_source: *result* result on n"
    ]
    await sink.deliver([an_alert("x" * 190, number=number) for number in range(400)])
    assert len(service.texts[1]) < 40_000
    assert service.texts[1].rpartition("\n")[2].startswith("and ")
    await sink.close()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"channel": "C2", "token": "xoxb-1"}, "channel_not_found"), ({"token": "x"}, "invalid_auth")],
)
async def test_what_slack_does_not_like_is_tried_again(slack: Receiver, settings: Any, words: str) -> None:
    """It is the operator's to mend; Slack says it with a 200."""
    sink = make("slack", slack.url, **{"channel": "C1", **settings})
    await sink.open()
    with pytest.raises(SinkUnavailable, match=words):
        await sink.deliver([an_alert()])
    slack.answers.append(Reply(429, b"", {"Retry-After": "7"}))
    with pytest.raises(SinkUnavailable) as caught:
        await sink.deliver([an_alert()])
    assert caught.value.retry_after == 7.0
    slack.answers.append(said(200, {"ok": False, "error": "msg_too_long"}))
    assert [each.index for each in (await sink.deliver([an_alert()])).refused] == [0]
    slack.answers.append(Reply(200, b"<html>"))
    with pytest.raises(SinkUnavailable, match="not what Slack says"):
        await sink.deliver([an_alert()])
    await sink.close()


@pytest_twisted.ensureDeferred
async def test_pagerduty_gets_an_event_each(pagerduty: Receiver) -> None:
    """Alerts of one group have one key; an event that it refuses is refused alone."""
    sink = make("pagerduty", pagerduty.url, routing_key="k" * 32)
    await sink.open()
    outcome = await sink.deliver([an_alert(), an_alert("bad"), an_alert(number=1), an_alert("Other", "critical")])
    assert [each.index for each in outcome.refused] == [1]
    service: Any = pagerduty.service
    one, same, other = service.events
    assert one["dedup_key"] == same["dedup_key"] != other["dedup_key"]
    assert one["payload"]["summary"] == "Evil <b>& at n"
    assert (one["payload"]["source"], other["payload"]["severity"]) == ("n", "critical")
    assert one["payload"]["custom_details"]["cause"]["columns"] == {"vendor": "Evil <b>&"}
    await sink.close()


@pytest_twisted.ensureDeferred
async def test_a_wrong_key_is_no_fault_of_the_event(pagerduty: Receiver, tmp_path: Path) -> None:
    """It is tried again, with the key that is in the file then; the key is in no message."""
    file = tmp_path / "key"
    file.write_text("wrong-key")
    sink = make("pagerduty", pagerduty.url, routing_key_file=str(file))
    await sink.open()
    with pytest.raises(SinkUnavailable, match="routing key") as caught:
        await sink.deliver([an_alert()])
    assert "wrong-key" not in str(caught.value) + repr(sink)
    file.write_text("k" * 32)
    await sink.open()
    assert (await sink.deliver([an_alert()])).refused == ()
    await sink.close()


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("slack", {"token": "x"}, "channel is missing"),
        ("slack", {"channel": "C1"}, "token"),
        ("pagerduty", {}, "routing_key"),
        ("pagerduty", {"routing_key": "x", "routing_key_file": "y"}, "not both"),
    ],
)
def test_settings_that_cannot_be(kind: str, settings: dict[str, str], words: str) -> None:
    """The key is named."""
    with pytest.raises(BadSinkSetting, match=words):
        make(kind, "https://example.org/", **settings)
