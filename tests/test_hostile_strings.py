"""Strings of nodes, where people and programs see them: terminals, logs, spreadsheets, files, headers."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from twisted.logger import capturedLogs, eventAsText
from twisted.python.failure import Failure

from osqtwist import wire
from osqtwist.adminclient import AdminRefused, Door
from osqtwist.cli.console import Operator, plain, visible
from osqtwist.cli.promptrows import PromptRows
from osqtwist.cli.results import ResultPrinter
from osqtwist.interfaces import NoSuchThing
from osqtwist.query import QueryResult
from osqtwist.resultexport import csv_head, csv_lines
from tests.harness import SECRET, InMemoryServer

NASTY = "=1+1\x1b[2J\x07\r\nroute=enroll \u202e[red]\\[/x]\x9b1m<script>'; DROP TABLE nodes;--"
"""A formula, commands to a terminal, a line of a log, markup, HTML and SQL."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path)
    yield made
    made.stop()


def printer() -> tuple[Operator, io.StringIO]:
    out = io.StringIO()
    return Operator(Door(Path("x")), False, Console(file=out, highlight=False, width=400)), out


def harmless(text: str) -> bool:
    """Whether all of it can be seen: line ends and tabs are our own."""
    return all(letter.isprintable() or letter in "\n\t" for letter in text) and "\nroute=enroll" not in text


def test_no_string_of_a_node_reaches_a_terminal_or_a_log_as_it_is(
    server: InMemoryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a node calls itself, sends and is refused for: it is shown with escapes."""
    with capturedLogs() as events:
        enroll = {"enroll_secret": SECRET, "host_identifier": NASTY, "platform_type": "9"}
        enroll["host_details"] = {"os_version": {"name": NASTY, NASTY: NASTY}}  # type: ignore[assignment]
        key = server.ask("/enroll", enroll)[1]["node_key"]
        query = server.issue()
        for path, body in {
            "/config": {"etag": NASTY},
            "/log": {"log_type": NASTY, "data": [{"name": NASTY}]},
            "/log?": {"log_type": "result", "data": [{"name": NASTY, "columns": {NASTY: NASTY}}]},
            "/distributed/read": {},
            "/distributed/write": {
                "queries": {query.query_id: [{NASTY: NASTY}], NASTY: []},
                "statuses": {query.query_id: 1},
                "messages": {query.query_id: NASTY},
            },
            "/carver/start": {"carve_id": NASTY, "block_count": 1, "block_size": 4, "carve_size": 4},
            "/carver/continue": {"session_id": NASTY, "block_id": 0, "data": ""},
        }.items():
            agent = {"User-Agent": NASTY.encode("ascii", "ignore").decode()}
            asked = server.begin(path, {"node_key": key, **body}, headers=agent)
            server.turn(10)
            assert asked.called
        server.ask("/config", {"node_key": NASTY})
        server.ask("/enroll", enroll | {"enroll_secret": NASTY})
        server.turn(10)
    said = [eventAsText(event, includeTimestamp=False, includeSystem=False) for event in events]
    assert len(said) >= 9
    assert [text for text in said if not harmless(text) or "\n" in text.strip()] == []
    (node,) = server.operate("/api/v1/nodes")[1]["nodes"]
    assert node["name"] == NASTY
    operator, out = printer()
    operator.rows([node], dict.fromkeys(node, "X"))
    operator.fields(server.operate(f"/api/v1/nodes/{node['node']}")[1])
    for path in ("/api/v1/carves", "/api/v1/audit", "/api/v1/queries"):
        for rows in server.operate(path)[1].values():
            for row in rows if isinstance(rows, list) else ():
                operator.fields(row)
    assert NASTY[:4] in out.getvalue() and harmless(out.getvalue())
    for line in [server.operate(f"/api/v1/queries/{query.query_id}/results")[1]]:
        ResultPrinter(operator).take(line)
        if line["type"] == "result":
            for mode in ("table", "csv", "json", "line"):
                rows_ = PromptRows(operator.console, mode, query.query_id)
                rows_.take(line)
                rows_.finish(1.0)
    printed = capsys.readouterr()
    assert "[red]" in printed.out and harmless(printed.out.replace("\r\n", "\n")) and harmless(printed.err)


@pytest.mark.parametrize("value", [NASTY, [NASTY], {"a": NASTY}, {NASTY: 1}, "\\[red]", "[/x]", "\\"])
def test_a_cell_is_no_markup(value: Any) -> None:
    """rich would make a link of it, or fail at a tag that closes nothing."""
    operator, out = printer()
    operator.fields({"a": value})
    operator.rows([{"a": value}], {"a": "A"})
    assert harmless(out.getvalue())
    assert out.getvalue().count(plain(value)) == 2


def test_what_can_be_seen_is_left_as_it_is() -> None:
    """Letters of any language; what turns the direction of writing, or the terminal's C1 controls, is not."""
    assert visible("añ€😀 [x] \\ 'ok'") == "añ€😀 [x] \\ 'ok'"
    assert visible("a\u202eb\x9bc\x1bd\ne") == "a\\u202eb\\x9bc\\x1bd\\x0ae"


def test_a_refusal_of_the_server_is_shown_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    """It may repeat the name of a node."""
    operator, _ = printer()
    with pytest.raises(SystemExit):
        operator._give_up(Failure(AdminRefused(f"{NASTY} was heard of just now")))
    assert harmless(capsys.readouterr().err)


def test_no_cell_of_an_export_is_a_formula() -> None:
    """In the name of the node, in columns and in their names."""
    rows = msgspec.Raw(json.dumps([{NASTY: NASTY, "@x": "+1-2", "n": "-5.2e1"}]).encode())
    result = QueryResult(query_id="q", node_id="n", node_name=NASTY, received_at=0.0, rows=rows)
    text = csv_head([NASTY, "@x", "n"]) + csv_lines(result, [NASTY, "@x", "n"])
    for line in csv.reader(io.StringIO(text, newline="")):
        for cell in line:
            assert not re.match(r"[=+\-@\t\r]", cell) or cell == "-5.2e1"


@pytest.mark.parametrize("name", ["../../../etc/x", "..", "/etc/passwd", "a\0b", "~/.ssh/x", "C:\\x", "a" * 500, NASTY])
def test_no_name_of_a_carve_leaves_its_folder(server: InMemoryServer, tmp_path: Path, name: str) -> None:
    """Only letters, digits and dashes of it get into the name of a file."""
    key = server.enroll()
    before = {path.name for path in tmp_path.iterdir()}
    order = {"node_key": key, "carve_id": name, "request_id": name, "block_count": 1, "block_size": 4, "carve_size": 4}
    session = server.ask("/carver/start", order)[1]["session_id"]
    block = {"session_id": session, "block_id": 0, "data": "YWJjZA==", "node_key": key}
    assert server.ask("/carver/continue", block) == (200, {})
    (made,) = {path.name for path in tmp_path.iterdir()} - before
    assert re.fullmatch(r"[0-9a-f]{20}-[A-Za-z0-9-]{1,40}-[0-9a-f]{8}\.tar", made)
    path, _ = server.await_(server.api.carves.file_of(name[:128]))
    assert path == tmp_path / made
    with pytest.raises(NoSuchThing):
        server.await_(server.api.carves.file_of(f"../{tmp_path.name}/{made}"))


def test_nothing_of_a_node_is_in_a_header(server: InMemoryServer) -> None:
    """Neither its names nor what it asked for."""
    asked = server.begin(
        "/enroll", {"enroll_secret": SECRET, "host_identifier": "a\r\nX-Evil: 1"}, headers={"X-A": "b"}
    )
    _, headers, _ = server.finish(asked)
    named = {name.lower() for name, _ in headers.getAllRawHeaders()}
    assert named <= {b"server", b"content-length", b"content-encoding", b"content-type", b"date", b"connection"}


def test_keys_that_would_collide_elsewhere_cost_nothing() -> None:
    """Python's hashes of text have a random seed; so many keys of any kind are read in no time."""
    # All of these have one hash where text is hashed as in Java.
    pairs = ("Aa", "BB")
    keys = [""]
    for _ in range(15):
        keys = [key + pair for key in keys for pair in pairs]
    body = json.dumps({"enroll_secret": "s", "host_identifier": "h", **dict.fromkeys(keys, 0)}).encode()
    before = time.process_time()
    assert wire.parse_enroll(body, "enroll_secret").host_identifier == "h"
    assert time.process_time() - before < 1
