"""osqtwist.wire: what nodes send, and what they understand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist import wire

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KINDS = [wire.NodeRequest, wire.LogRequest, wire.WriteRequest, wire.CarveStartRequest, wire.CarveBlockRequest]


def read_every_way(body: bytes) -> None:
    """Parse a body as each kind of request."""
    ways: list[Callable[[bytes], object]] = [partial(wire.parse, kind) for kind in KINDS]
    for way in (*ways, wire.parse_log, lambda body: wire.parse_enroll(body, "enroll_secret")):
        with contextlib.suppress(wire.MalformedRequest):
            way(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_malformed(body: bytes) -> None:
    """No body, whatever is in it, raises anything but MalformedRequest."""
    read_every_way(body)


@given(json_values)
def test_any_json_is_a_request_or_malformed(value: Any) -> None:
    """No JSON, whatever its shape, raises anything but MalformedRequest."""
    read_every_way(json.dumps(value).encode())


@given(st.lists(json_values, max_size=6), st.sampled_from(["result", "status", "snapshot", ""]))
def test_every_line_is_kept_or_dead(lines: list[Any], log_type: str) -> None:
    """A line of a post is delivered as it is or put apart: none is lost, none made up, whatever it is."""
    body = json.dumps({"node_key": "k", "log_type": log_type, "data": lines}).encode()
    request = wire.parse_log(body)
    data, count, dead = wire.sort_lines(request, 10_000)
    kept = json.loads(data)
    assert len(kept) == count
    assert count + len(dead) == len(lines)
    good = [line for line in lines if isinstance(line, dict) and log_type in ("result", "status")]
    assert kept == good


def test_wrong_utf8_in_rows_is_written_out() -> None:
    """Bytes that are not UTF-8 inside strings become the text that osquery itself writes in differential results."""
    body = b'{"node_key":"k","log_type":"result","data":[{"snapshot":[{"path":"caf\xe9\xff"}]}]}'
    data, count, dead = wire.sort_lines(wire.parse_log(body), 1000)
    assert (count, dead) == (1, ())
    assert json.loads(data) == [{"snapshot": [{"path": "caf\\xE9\\xFF"}]}]


def test_wrong_utf8_outside_strings_is_malformed() -> None:
    """Repairing never turns a broken envelope into JSON."""
    with pytest.raises(wire.MalformedRequest):
        wire.parse(wire.NodeRequest, b'{"node_key":\xff}')


@pytest.mark.parametrize("line", [b'{"a":NaN}', b'{"a":"\\ud800"}'])
def test_a_line_that_is_not_strict_json_goes_to_the_dead_letters_alone(line: bytes) -> None:
    """One bad line does not sink the batch: refused, it would come back for ever."""
    body = b'{"node_key":"k","log_type":"status","data":[{"good":1},' + line + b"]}"
    data, count, dead = wire.sort_lines(wire.parse_log(body), 1000)
    assert json.loads(data) == [{"good": 1}]
    assert count == 1
    assert len(dead) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":"' + b"x" * 100 + b'"}', "longer than 64 bytes"),
    ],
)
def test_bad_lines_say_why(line: bytes, reason: str) -> None:
    """A dead letter carries its line and the reason."""
    body = b'{"log_type":"result","data":[' + line + b"]}"
    _, count, dead = wire.sort_lines(wire.parse_log(body), 64)
    assert count == 0
    assert dead[0].line == line
    assert dead[0].reason == reason


def test_a_log_type_that_has_no_bytes_does_not_block_a_node() -> None:
    """Half of a surrogate pair is written out: the lines are dead letters, and the node goes on."""
    request = wire.parse_log(b'{"node_key":"k","log_type":"\\ud800","data":[{"x":NaN}]}')
    assert request.log_type == "\\ud800"
    assert wire.post_of(request).lines == 1
    data, count, (dead,) = wire.sort_lines(request, 1000)
    assert (data, count) == (b"[]", 0) and "log_type" in dead.reason


def test_deep_nesting_is_malformed_not_a_crash() -> None:
    """Nesting past what a parser can follow is refused."""
    with pytest.raises(wire.MalformedRequest):
        wire.parse_log(b'{"data":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}")


def test_a_batch_sent_again_has_the_same_digest() -> None:
    """The digest depends on log type and lines, not on the node key or the spacing around them."""
    one = wire.parse_log(b'{"node_key":"a","log_type":"result","data":[{"x":1},{"y":2}]}')
    two = wire.parse_log(b'{"data": [{"x":1}, {"y":2}], "log_type":"result","node_key":"b"}')
    other = wire.parse_log(b'{"node_key":"a","log_type":"status","data":[{"x":1},{"y":2}]}')
    assert wire.post_of(one) == wire.post_of(two)
    assert wire.post_of(one).digest != wire.post_of(other).digest


def test_a_post_that_has_grown_begins_with_the_earlier_one() -> None:
    """All lines of the earlier one, in their order; not some of them."""
    earlier = wire.post_of(wire.parse_log(b'{"log_type":"result","data":[{"x":1},{"y":2}]}'))
    for text, expected in {
        b'{"log_type":"result","data":[{"x":1},{"y":2},{"z":3}]}': True,
        b'{"log_type":"result","data":[{"x":1},{"y":3},{"y":2}]}': False,
        b'{"log_type":"result","data":[{"x":1}]}': False,
    }.items():
        grown = wire.parse_log(text)
        assert wire.post_of(grown).opening == earlier.opening
        assert wire.begins_with(grown, earlier) == expected


def test_etag_absent_empty_and_given_differ() -> None:
    """Whether a client knows of etags can be told from its request."""
    parse = wire.parse
    assert parse(wire.NodeRequest, b'{"node_key":"k"}').etag is msgspec.UNSET
    assert parse(wire.NodeRequest, b'{"node_key":"k","etag":""}').etag == ""
    assert parse(wire.NodeRequest, b'{"node_key":"k","etag":"abc"}').etag == "abc"


def test_enroll_keeps_the_four_tables_and_bounds_them() -> None:
    """What a node says of itself is cut to the tables and lengths that osquery sends."""
    body = {
        "enroll_secret": "s",
        "host_identifier": "h",
        "platform_type": "9",
        "host_details": {
            "os_version": {"name": "Debian", "major": 12, "nested": {}},
            "evil": {"x": "y"},
            "system_info": {"hostname": "x" * 5000} | {f"c{i}": "" for i in range(100)},
        },
    }
    request = wire.parse_enroll(json.dumps(body).encode(), "enroll_secret")
    assert request.host_details["os_version"] == {"name": "Debian", "major": "12"}
    assert set(request.host_details) == {"os_version", "system_info"}
    assert len(request.host_details["system_info"]["hostname"]) == 1024
    assert len(request.host_details["system_info"]) == 64


def test_enroll_secret_under_another_name() -> None:
    """Nodes with --tls_enroll_override send the secret under a key of the operator's choice."""
    assert wire.parse_enroll(b'{"deploy":"s"}', "deploy").enroll_secret == "s"
    with pytest.raises(wire.MalformedRequest):
        wire.parse_enroll(b'{"enroll_secret":5}', "enroll_secret")


def test_answers_are_what_the_client_reads() -> None:
    """The answers have the keys and types that osquery looks for, and no others that mean something to it."""
    assert json.loads(wire.enrolled("key")) == {"node_key": "key"}
    assert json.loads(wire.refusal("busy")) == {"error": "busy"}
    assert json.loads(wire.invalid_node("gone"))["node_invalid"] is True
    assert wire.work({}, {}) == b"{}"
    assert json.loads(wire.work({"q": "select 1"}, {})) == {"queries": {"q": "select 1"}}
    assert json.loads(wire.work({"q": "select 1"}, {"q": "select 2"}))["discovery"] == {"q": "select 2"}
    assert json.loads(wire.carve_started("abc")) == {"session_id": "abc"}


def test_write_request_of_old_and_new_clients() -> None:
    """messages and stats are optional, rows of a failed query may be a string, statuses may be text."""
    request = wire.parse(
        wire.WriteRequest,
        b'{"queries":{"a":[{"x":"1"}],"b":""},"statuses":{"a":0,"b":"1"},"stats":{"a":{"wall_time_ms":3,"n":"x"}}}',
    )
    assert bytes(wire.rows_of(request, "a")) == b'[{"x":"1"}]'
    assert bytes(wire.rows_of(request, "b")) == b"[]"
    assert bytes(wire.rows_of(request, "absent")) == b"[]"
    assert request.statuses == {"a": 0, "b": 1}
    assert wire.stats_of(request, "a") == {"wall_time_ms": 3}


def test_carve_block_data_is_decoded() -> None:
    """Block data is standard base64; anything else is malformed."""
    block = wire.parse(wire.CarveBlockRequest, b'{"block_id":0,"session_id":"s","data":"AAEC"}')
    assert block.data == b"\0\1\2"
    with pytest.raises(wire.MalformedRequest):
        wire.parse(wire.CarveBlockRequest, b'{"block_id":0,"session_id":"s","data":"***"}')
