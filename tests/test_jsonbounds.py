"""What nodes send is bounded before it becomes Python's objects."""

from __future__ import annotations

import json
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist import wire
from osqtwist.jsonbounds import MAX_DEPTH, MAX_LINES, TooMuch, check_members, is_deep
from osqtwist.repair import MAX_WRONG_BYTES, TooWrong, repaired

nested = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a{}[],"\\', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a{[,"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=60,
)


def depth_of(value: object) -> int:
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(depth_of, parts), default=0)


@given(nested, st.integers(0, 2 * MAX_DEPTH))
def test_depth_is_what_it_is(value: object, more: int) -> None:
    """Whatever stands in strings, and however much there is beside it."""
    for _ in range(more):
        value = [value, "}]", {}] if more % 2 else {"{": value, "[": []}
    assert is_deep(json.dumps(value).encode()) == (depth_of(value) > MAX_DEPTH)


def test_a_line_that_is_too_deep_is_a_dead_letter() -> None:
    """Who reads it later might not be able to follow; 64 levels are fine."""
    lines = [b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}" for levels in (64, 65)]
    request = wire.parse_log(b'{"log_type":"result","data":[' + b",".join(lines) + b"]}")
    good, count, (dead,) = wire.sort_lines(request, 10_000)
    assert (good, count) == (b"[" + lines[0] + b"]", 1)
    assert (dead.line, dead.reason) == (lines[1], "nested too deeply")


def test_rows_that_are_too_deep_are_refused() -> None:
    """osquery's have no nesting at all."""
    body = b'{"queries":{"q":' + b"[" * 70 + b"]" * 70 + b"}}"
    with pytest.raises(wire.OversizedRequest):
        wire.rows_of(wire.parse(wire.WriteRequest, body), "q")


@pytest.mark.slow
def test_lines_without_end_cost_neither_time_nor_memory() -> None:
    """Five million in 15 MB would be 400 MB of memory; they are refused after the first hundred thousand."""
    body = b'{"node_key":"k","log_type":"result","data":[' + b"{}," * 5_000_000 + b"{}]}"
    tracemalloc.start()
    before = time.process_time()
    with pytest.raises(wire.OversizedRequest, match="members"):
        wire.parse_log(body)
    took = time.process_time() - before
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert took < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b'{"queries":{' + b",".join(b'"%d":0' % number for number in range(600_000)) + b"}}",
        b'{"queries":{"q":[' + b"{}," * 1_000_001 + b"{}]}}",
        b'{"host_details":{"os_version":{' + b'"a":[],' * 1_000_001 + b'"a":[]}}}',
    ],
    ids=["queries", "rows", "anything else"],
)
def test_members_are_bounded_wherever_they_are(body: bytes) -> None:
    """A hundred thousand near the top, a million rows."""
    with pytest.raises(TooMuch):
        check_members(body)


@pytest.mark.slow
def test_much_that_is_good_is_let_through() -> None:
    """A large result of ordinary rows; and what is no JSON is left to its reader."""
    row = b'{"pid":"1","name":"a, [b","path":"\\"{"}'
    body = b'{"queries":{"q":[' + b",".join([row] * 300_000) + b"]}}"
    check_members(body)
    assert wire.count_rows(wire.rows_of(wire.parse(wire.WriteRequest, body), "q")) == 300_000
    check_members(b"]}" * 400_000 + b"," * 600_000)


def test_a_post_has_so_many_lines() -> None:
    """A hundred thousand are taken, one more is not; a hundred times what osquery sends."""
    for more, is_taken in ((0, True), (1, False)):
        body = b'{"log_type":"result","data":[' + b",".join([b"{}"] * (MAX_LINES + more)) + b"]}"
        if is_taken:
            assert len(wire.parse_log(body).data) == MAX_LINES
        else:
            with pytest.raises(wire.OversizedRequest, match="lines"):
                wire.parse_log(body)


def test_a_write_answers_so_many_queries() -> None:
    """A read gives twenty; ids that cannot be ours are passed over."""
    request = wire.WriteRequest(queries={"a" * 129: msgspec.Raw(b"[]"), "b": msgspec.Raw(b"[]")}, statuses={"c": 1})
    assert wire.answered_by(request) == ["b", "c"]
    with pytest.raises(wire.OversizedRequest):
        wire.answered_by(wire.WriteRequest(statuses={str(number): 0 for number in range(1001)}))


@pytest.mark.slow
def test_bytes_that_are_no_text_are_not_written_out_for_ever() -> None:
    """Each is a call of Python: a body that is nothing else would take a minute."""
    with pytest.raises(TooWrong):
        repaired(b"\xff" * 20_000_000)
    some = b"a\xff" * MAX_WRONG_BYTES
    assert repaired(some) == b"a\\\\xFF" * MAX_WRONG_BYTES
    letters = ("ä€😀" * 200_000).encode()
    assert repaired(letters) is letters
    assert repaired(letters + b"\xff") == letters + b"\\\\xFF"


@given(st.binary(max_size=50), st.integers(65_500, 65_560))
def test_a_repair_is_the_same_wherever_a_piece_ends(around: bytes, length: int) -> None:
    """Bodies are looked at piece by piece."""
    body = b"x" * length + around + "€".encode()
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        assert repaired(body) != body
    else:
        assert repaired(body) is body
