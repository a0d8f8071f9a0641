"""Routing: which lines a sink gets, and that nobody forges what the server vouches for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.logbatch import LogBatch, event_id
from osqtwist.routing import FACTS, BadRoute, Route, RouteSettings

NODE = "n" * 20
LINE = {
    "name": "pack_osquery_monitoring_info",
    "action": "added",
    "unixTime": 1790000000,
    "columns": {"a": "1"},
    "decorations": {"owner": "Ann", "host_uuid": "u"},
}


def a_batch(*lines: Any, raw: bytes = b"", **more: Any) -> LogBatch:
    fields: dict[str, Any] = {
        "node_id": NODE,
        "node_name": "build-7",
        "log_type": "result",
        "data": raw or json.dumps(lines).encode(),
        "count": len(lines) or 1,
        "digest": "d",
        "received_at": 1790000100.5,
        "identity": "build-7",
        "serial": "1f",
        "issuer": "CN=CA",
        "address": "192.0.2.1",
        "tags": ("prod", "ou:x"),
    }
    return LogBatch(**{**fields, **more})


def documents(batch: LogBatch, **keys: Any) -> list[Any]:
    events, unusable = Route(RouteSettings(**keys)).events(batch)
    assert not unusable
    return [json.loads(event.document) for event in events]


def test_a_document_is_the_line_and_the_facts() -> None:
    """osquery's line unchanged, and what the server vouches for under one key."""
    (event,), _ = Route().events(a_batch(LINE))
    assert event.document.startswith(json.dumps(LINE)[:-1].encode())
    document = json.loads(event.document)
    assert document.pop("osqtwist") == {
        "event_id": event_id(NODE, "d", 0),
        "node": NODE,
        "name": "build-7",
        "identity": "build-7",
        "serial": "1f",
        "issuer": "CN=CA",
        "address": "192.0.2.1",
        "received_at": 1790000100.5,
        "tags": ["prod", "ou:x"],
    }
    assert document == LINE
    assert (event.event_id, event.node_id, event.log_type) == (event_id(NODE, "d", 0), NODE, "result")
    assert event.occurred_at == 1790000000


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ((), None),
        (("event_id",), {"event_id": event_id(NODE, "d", 0)}),
        (("name",), {"name": "build-7"}),
        (("tags", "event_id"), {"event_id": event_id(NODE, "d", 0), "tags": ["prod", "ou:x"]}),
    ],
)
@pytest.mark.parametrize("line", [LINE, {}])
def test_a_sink_may_want_fewer_facts(fields: tuple[str, ...], facts: Any, line: Any) -> None:
    """Or none at all, or under another key; an empty line too."""
    (document,) = documents(a_batch(line), fields=fields, as_key="@meta")
    assert document.pop("@meta", None) == facts
    assert document == line


@pytest.mark.parametrize(
    ("when", "is_meant"),
    [
        ("log_type:result", True),
        ("log_type:status", False),
        ("tag:prod", True),
        ("node:build-*", True),
        (f"node:{NODE}", True),
        ("identity:build-7 and issuer:CN=CA and serial:1f and address:192.0.2.*", True),
        ("name:pack_*_info", True),
        ("name:heartbeat", False),
        ("pack:osquery_monitoring", True),
        ("pack:osquery", True),
        ("pack:info", False),
        ("action:added", True),
        ("action:removed or action:snapshot", False),
        ("decoration.owner:ann", True),
        ("decoration.nobody:*", False),
        ("not action:removed and tag:ou:x", True),
    ],
)
def test_when(when: str, is_meant: bool) -> None:
    """Facts of the batch, and of the line."""
    assert bool(documents(a_batch(LINE), when=when)) is is_meant


def test_packs_with_another_delimiter() -> None:
    """--pack_delimiter may be anything."""
    for name in ("pack/incident/shell_history", "pack.incident.shell_history"):
        assert documents(a_batch({"name": name}), when="pack:incident")
    for name in ("package_x", "heartbeat", "pack", "pack_"):
        assert not documents(a_batch({"name": name}), when="pack:*")


def test_event_ids_count_every_line() -> None:
    """A line has the same id whatever a sink leaves out."""
    batch = a_batch({"name": "a"}, {"name": "b"}, {"name": "a"})
    events, _ = Route(RouteSettings(when="name:a")).events(batch)
    assert [event.event_id for event in events] == [event_id(NODE, "d", 0), event_id(NODE, "d", 2)]


def test_a_sample_is_the_same_each_time() -> None:
    """About the share, and for a redelivery the same lines."""
    batch = a_batch(*({"n": number} for number in range(2000)))
    first, second = (documents(batch, sample=0.25) for _ in range(2))
    assert first == second
    assert 400 < len(first) < 600
    assert documents(batch, sample=0.0) == []


def test_decorations() -> None:
    """Dropped by pattern, renamed by name; lines without any stay as they are."""
    keys: dict[str, Any] = {"drop_decorations": ("host_*",), "rename_decorations": {"owner": "user"}, "fields": ()}
    (document,) = documents(a_batch(LINE), **keys)
    assert document == LINE | {"decorations": {"user": "Ann"}}
    assert documents(a_batch({"a": 1}, {"decorations": 5}), **keys) == [{"a": 1}, {"decorations": 5}]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"when": "nme:x"}, "when: column 1"),
        ({"sample": 1.5}, "sample is 1.5"),
        ({"fields": ("nonsense",)}, "fields has 'nonsense'"),
        ({"as_key": "a b"}, "as_key"),
    ],
)
def test_nonsense_is_refused(keys: dict[str, Any], problem: str) -> None:
    """With the key."""
    with pytest.raises(BadRoute, match=problem):
        Route(RouteSettings(**keys))


# -- a node that lies


@pytest.mark.parametrize(
    "line",
    [
        b'{"osqtwist":{"identity":"root"},"a":1}',
        b'{"a":1,"osqtwist":5}',
        b'{"a":1,"\\u006fsqtwist":{"identity":"root"}}',
        b'{"a":1,"\\u006F\\u0073qtwist":{"identity":"root"}}',
        b'{"osqtwist":1,"a":1,"osqtwist":2}',
        b'{\n"a": 1,\r\n "osqtwist": {}}',
        b'{ "a" :1 }',
        b'{"a":1}  ',
    ],
)
def test_the_facts_cannot_be_forged(line: bytes) -> None:
    """There is one such key, and it is ours; and a document is on one line."""
    (event,), _ = Route().events(a_batch(raw=b"[" + line + b"]"))
    assert b"\n" not in event.document
    assert b"\r" not in event.document
    members = json.loads(event.document, object_pairs_hook=list)
    assert [name for name, _ in members] == ["a", "osqtwist"]
    assert dict(members[1][1])["identity"] == "build-7"


def test_what_is_no_object_is_kept_apart() -> None:
    """By its place, and the others are delivered."""
    events, unusable = Route().events(a_batch(raw=b'[{"a":1},[1],{"b":2}]'))
    assert len(events) == 2
    ((index, reason),) = unusable
    assert index == 1
    assert "object" in reason


NAMES = st.text(max_size=8) | st.sampled_from(["osqtwist", "\u006fsqtwist", "name", "decorations"])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(NAMES, JSON, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_any_object_becomes_its_document(line: dict[str, Any], is_ascii: bool, indent: int | None) -> None:
    """It says what the line said, but for the key that is ours."""
    raw = json.dumps([line], ensure_ascii=is_ascii, indent=indent).encode("utf-8", "surrogatepass")
    (event,), unusable = Route().events(a_batch(raw=raw))
    assert not unusable
    document = json.loads(event.document)
    assert list(document.pop("osqtwist")) == list(FACTS)
    line.pop("osqtwist", None)
    assert document == line
    assert b"\n" not in event.document
