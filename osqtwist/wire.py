"""
osquery's JSON: the requests of a node, and the answers it understands.

What the client makes of an answer (osquery/remote/utility.h, serializers/json.cpp): it never looks at the HTTP
status; an empty body, ``{}`` or any other JSON object is success; a top-level ``error`` key is a failure to be
tried again; ``node_invalid``, a real bool, makes it enroll again.  Carves bypass all that: there only a body that
is not JSON is a failure.

Bodies are repaired (:mod:`osqtwist.repair`) before they are parsed, and bounded (:mod:`osqtwist.jsonbounds`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from osqtwist.carve import BadCarve
from osqtwist.jsonbounds import MAX_LINES, TooMuch, check_members, is_deep
from osqtwist.logbatch import DeadLine, Post
from osqtwist.node import HostDetails
from osqtwist.repair import TooWrong, repaired

DONE = b"{}"
"""Success, and nothing to do."""

_MAX_TABLE_COLUMNS = 64
_MAX_DETAIL_LENGTH = 1024
_MAX_STATS = 16
_HOST_DETAIL_TABLES = ("os_version", "osquery_info", "system_info", "platform_info")
_LOG_TYPES = ("result", "status")
MAX_ANSWERS = 1000
"""Queries that one distributed write may answer; a read gives twenty."""
MAX_QUERY_ID = 128
# Python's own reader makes objects of everything.
_MOST_READ_TOLERANTLY = 2_000_000

_T = TypeVar("_T")
_encoder = msgspec.json.Encoder()


class MalformedRequest(ValueError):
    """A body is not what osquery sends; the text says what is wrong with it."""


class OversizedRequest(MalformedRequest):
    """A body has more in it than osquery ever sends, whatever it says."""


class NodeRequest(msgspec.Struct):
    """
    What config and distributed read send.

    :ivar etag: of the config the node has; unset with clients that do not know of it.
    """

    node_key: str | None = None
    etag: str | msgspec.UnsetType | None = msgspec.UNSET


class EnrollRequest(msgspec.Struct):
    """What enroll sends.  Every part but the secret is what the node says of itself."""

    enroll_secret: str
    host_identifier: str
    platform_type: str
    host_details: HostDetails


class LogRequest(msgspec.Struct):
    """
    What the logger sends; each line still as it came.

    :ivar is_suspect: some line is not strict JSON (see :func:`parse_log`).
    """

    node_key: str | None = None
    log_type: str = ""
    data: list[msgspec.Raw] = []
    is_suspect: bool = msgspec.field(name="", default=False)


class WriteRequest(msgspec.Struct):
    """What distributed write sends; ``messages`` came with 4.4.0, ``stats`` with 5.8.1."""

    node_key: str | None = None
    queries: dict[str, msgspec.Raw] = {}
    statuses: dict[str, int] = {}
    messages: dict[str, str] = {}
    stats: dict[str, dict[str, Any]] = {}


class CarveStartRequest(msgspec.Struct):
    """What starts a carve."""

    block_count: int
    block_size: int
    carve_size: int
    carve_id: str = ""
    request_id: str = ""
    node_key: str | None = None


class CarveBlockRequest(msgspec.Struct):
    """One block of a carve; there is no node key in it."""

    block_id: int
    session_id: str
    data: bytes
    request_id: str = ""
    node_key: str | None = None


_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, strict=False)
    for kind in (NodeRequest, LogRequest, WriteRequest, CarveStartRequest, CarveBlockRequest)
}
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_any_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_rows_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def parse(kind: type[_T], body: bytes) -> _T:
    """
    One of the request classes of this module, read from a body.

    :raise MalformedRequest: the body is not such a request.
    """
    return _decode(_decoders[kind], body)  # type: ignore[no-any-return]


def parse_enroll(body: bytes, secret_name: str) -> EnrollRequest:
    """
    An enroll request; the secret stands under a name of the operator's choice (``--tls_enroll_override``).

    Only the four tables that osquery sends are kept, and only values of a sane length: the rest is a node's word.

    :raise MalformedRequest: the body is not an enroll request.
    """
    fields = _decode(_object_decoder, body)
    details: HostDetails = {}
    sent = fields.get("host_details")
    for table in _HOST_DETAIL_TABLES if isinstance(sent, dict) else ():
        row = sent.get(table)
        if isinstance(row, dict):
            details[table] = {
                str(column)[:_MAX_DETAIL_LENGTH]: str(value)[:_MAX_DETAIL_LENGTH]
                for column, value in list(row.items())[:_MAX_TABLE_COLUMNS]
                if isinstance(value, str | int | float)
            }
    secret = fields.get(secret_name, "")
    if not isinstance(secret, str):
        raise MalformedRequest(f"{secret_name} is not a string")
    identifier = fields.get("host_identifier", "")
    if not isinstance(identifier, str):
        raise MalformedRequest("host_identifier is not a string")
    return EnrollRequest(
        enroll_secret=secret,
        host_identifier=identifier[:_MAX_DETAIL_LENGTH],
        platform_type=str(fields.get("platform_type", ""))[:16],
        host_details=details,
    )


def parse_log(body: bytes) -> LogRequest:
    """
    A log post, read as leniently as can be: one that is refused comes back for ever.

    Where strict JSON fails, Python's more tolerant reader (it takes ``NaN`` and lone surrogates) finds the bounds
    of the lines, so that only the bad ones go to the dead letters.

    :raise MalformedRequest: not even that reads it.
    :raise OversizedRequest: it has more lines than a post may have.
    """
    request = _log_request(body)
    if len(request.data) > MAX_LINES:
        raise OversizedRequest(f"a log post has at most {MAX_LINES} lines, and this has {len(request.data)}")
    return request


def _log_request(body: bytes) -> LogRequest:
    try:
        return parse(LogRequest, body)
    except OversizedRequest:
        raise
    except MalformedRequest as problem:
        if body.count(b",") > _MOST_READ_TOLERANTLY:
            raise
        try:
            fields = json.loads(repaired(body))
            lines = [msgspec.Raw(json.dumps(line).encode("ascii")) for line in fields["data"]]
            node_key, log_type = fields.get("node_key"), fields.get("log_type", "")
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            raise problem from None
        if not isinstance(node_key, str | None) or not isinstance(log_type, str):
            raise
        # Half of a surrogate pair is text to Python, and has no bytes.
        log_type = log_type.encode("utf-8", "backslashreplace").decode("utf-8")
        return LogRequest(node_key=node_key, log_type=log_type, data=lines, is_suspect=True)


def sort_lines(request: LogRequest, max_line_bytes: int) -> tuple[bytes, int, tuple[DeadLine, ...]]:
    """
    Part the lines of a log post into those to deliver and those that cannot be.

    A batch that is refused comes back unchanged for ever and blocks the node (buffered.cpp), so a bad line is
    kept apart and the rest accepted.

    :return: the good lines as a JSON array, how many they are, and the others.
    """
    known = request.log_type in _LOG_TYPES
    good: list[bytes] = []
    dead: list[DeadLine] = []
    for raw in request.data:
        line = bytes(raw)
        if not known:
            dead.append(DeadLine(line, f"log_type is {request.log_type[:32]!r}, not result or status"))
        elif not line.startswith(b"{"):
            dead.append(DeadLine(line, "not a JSON object"))
        elif len(line) > max_line_bytes:
            dead.append(DeadLine(line, f"longer than {max_line_bytes} bytes"))
        elif is_deep(line):
            dead.append(DeadLine(line, "nested too deeply"))
        elif request.is_suspect and (problem := _problem_inside(line)):
            dead.append(DeadLine(line, problem))
        else:
            good.append(line)
    return b"[" + b",".join(good) + b"]", len(good), tuple(dead)


def post_of(request: LogRequest) -> Post:
    """What a log post is known by when it comes again; there must be a line in it."""
    return Post(
        digest=_digest(request, len(request.data)),
        lines=len(request.data),
        opening=hashlib.sha256(request.data[0]).hexdigest()[:16],
    )


def begins_with(request: LogRequest, earlier: Post) -> bool:
    """Whether the first lines of a log post are all those of an earlier one."""
    return _digest(request, earlier.lines) == earlier.digest


def _digest(request: LogRequest, lines: int) -> str:
    digest = hashlib.sha256(request.log_type.encode())
    for raw in request.data[:lines]:
        digest.update(b"\n")
        digest.update(raw)
    return digest.hexdigest()


def answered_by(request: WriteRequest) -> list[str]:
    """
    The ids of the queries that a node answers, with rows or without; those too long to be ours are left out.

    :raise OversizedRequest: there are more than a node can have been asked.
    """
    found = dict.fromkeys([*request.queries, *request.statuses])
    if len(found) > MAX_ANSWERS:
        raise OversizedRequest(f"a distributed write answers at most {MAX_ANSWERS} queries, and this {len(found)}")
    return [query_id for query_id in found if len(query_id) <= MAX_QUERY_ID]


def rows_of(request: WriteRequest, query_id: str) -> msgspec.Raw:
    """
    The rows a node sent for a query: a JSON array, empty where it sent none or, as old clients do, a string.

    :raise OversizedRequest: they are nested more deeply than rows ever are.
    """
    raw = bytes(request.queries.get(query_id, b""))
    if not raw.startswith(b"["):
        return msgspec.Raw(b"[]")
    if is_deep(raw):
        raise OversizedRequest("rows are nested too deeply")
    # Rows are handed on as they are, a result a line.  In a string of JSON there are no line ends, so these are blanks.
    return msgspec.Raw(raw.replace(b"\n", b" ").replace(b"\r", b" "))


def count_rows(rows: msgspec.Raw) -> int:
    """How many rows there are in what :func:`rows_of` gives."""
    return len(_rows_decoder.decode(rows))


def stats_of(request: WriteRequest, query_id: str) -> dict[str, int | float]:
    """What a query cost the node; only numbers are kept, up to what a float can hold, and only so many."""
    found = {
        name: value
        for name, value in request.stats.get(query_id, {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63 and len(name) <= 64
    }
    return dict(itertools.islice(found.items(), _MAX_STATS))


def enrolled(node_key: str) -> bytes:
    """Enroll succeeded."""
    return _encoder.encode({"node_key": node_key})


def refusal(text: str) -> bytes:
    """Not now: the node keeps what it has and tries again.  Not understood by enroll and carve."""
    return _encoder.encode({"error": text})


def invalid_node(text: str) -> bytes:
    """The node's credential is proven bad: it drops its key and enrolls again.  Never for a fault of ours."""
    return _encoder.encode({"node_invalid": True, "error": text})


def work(queries: Mapping[str, str], discovery: Mapping[str, str]) -> bytes:
    """Distributed queries for a node: name to SQL, and name to the discovery query of the same name."""
    if not queries:
        return DONE
    if not discovery:
        return _encoder.encode({"queries": queries})
    return _encoder.encode({"queries": queries, "discovery": discovery})


def carve_started(session_id: str) -> bytes:
    """A carve may go on."""
    return _encoder.encode({"session_id": session_id})


def decode_array(data: bytes) -> Sequence[Any]:
    """A JSON array that was checked when it came in."""
    lines = _any_decoder.decode(data)
    return lines if isinstance(lines, list) else []


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        check_members(body)
        return decoder.decode(repaired(body))
    except BadCarve:
        raise
    except (TooMuch, TooWrong) as problem:
        raise OversizedRequest(str(problem)) from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as problem:
        raise MalformedRequest(_reason(problem)) from None


def _problem_inside(line: bytes) -> str:
    try:
        _any_decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError) as problem:
        return _reason(problem)
    return ""


def _reason(problem: Exception) -> str:
    return "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
