"""``osqtwist query prompt``: what completes, when a text is whole, and the whole of it in a real terminal."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from rich.console import Console

from osqtwist.cli.prompt import PipedLines
from osqtwist.cli.promptrows import MOST_ROWS, PromptRows
from osqtwist.cli.promptwords import completions, is_whole
from tests.test_twistd import BIN, Server, Start, start

__all__ = ["start"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select 1;", True),
        ("select 1; ", True),
        ("select 1; -- done", True),
        ("select ';", False),
        ("select ';';", True),
        ("select 1 -- ;", False),
        ("select 1 /* ;", False),
        ("select 1\n", False),
        (".tables", True),
        ("  ", True),
    ],
)
def test_a_text_is_whole_at_its_semicolon(text: str, expected: bool) -> None:
    """Not at one in a string or a comment; commands need none."""
    assert is_whole(text) is expected


@pytest.mark.parametrize(
    ("before", "behind", "some", "length"),
    [
        ("sel", "", {"select"}, 3),
        ("SEL", "", {"SELECT"}, 3),
        ("select * from us", "", {"users", "user_groups"}, 2),
        ("select * from ", "", {"users", "processes"}, 0),
        ("select * from users join proc", "", {"processes", "process_events"}, 4),
        ("select u", " from users", {"uid", "uuid", "username"}, 1),
        ("select ", " from users", {"uid", "shell"}, 0),
        ("select p.na", " from processes p, users", {"name"}, 2),
        ("select p.", " from processes as p", {"pid", "name"}, 2 - 2),
        ("select users.sh", "", {"shell"}, 2),
        ("select carv", "", {"carve", "carves"}, 4),
        (".ta", "", {".tables", ".target"}, 3),
        (".mode c", "", {"csv"}, 1),
        (".schema cur", "", {"curl", "curl_certificate"}, 3),
        (".target x", "", set(), 1),
        ("select x'", "", set(), 0),
    ],
)
def test_what_can_come_next(before: str, behind: str, some: set[str], length: int) -> None:
    """Tables after FROM, columns of the tables that are named, also by an alias, and words of SQL."""
    words, begun = completions(before + behind, before)
    assert set(words) >= some
    assert bool(words) is bool(some)
    assert begun == length
    typed = before[len(before) - begun :].lower()
    assert all(word.lower().startswith(typed) for word in words)


def test_columns_of_other_tables_are_not_offered() -> None:
    """Where it is clear which is meant."""
    words, _ = completions("select p. from processes p, users", "select p.")
    assert "shell" not in words
    words, _ = completions("select sh from users", "select sh")
    assert words[0] == "shell"


def test_statements_of_a_pipe_may_have_lines() -> None:
    """Several in a line are one text; what has no end is sent at the end."""
    text = "select 1;\nselect\n 2;\n.mode csv\nselect 3"
    assert list(PipedLines(iter(io.StringIO(text)))) == ["select 1;\n", "select\n 2;\n", ".mode csv\n", "select 3"]


def printed(mode: str, *results: Any, capsys: Any) -> str:
    console = Console(highlight=False, width=80, file=sys.stdout)
    rows = PromptRows(console, mode)
    rows.take({"type": "begin", "query_id": "q1", "expected": len(results)})
    for name, values in results:
        line = {"type": "result", "node": "n", "name": name, "status": 0, "message": "", "rows": values}
        rows.take(line)
    rows.take({"type": "end", "answered": len(results), "silent": []})
    rows.finish(0.5)
    out: str = capsys.readouterr().out
    return out


def test_rows_are_printed_in_every_mode(capsys: Any) -> None:
    """Nothing of a node reaches the terminal as a command to it, in none."""
    results = [("one", [{"a": "1", "b": "x\x1b[31m"}]), ("two", [{"c": "[bold]"}])]
    table = printed("table", *results, capsys=capsys)
    assert [line.split() for line in table.splitlines()] == [
        ["node", "a", "b", "c"],
        ["one", "1", "x\\x1b[31m"],
        ["two", "[bold]"],
    ]
    assert "\x1b" not in printed("csv", *results, capsys=capsys)
    assert printed("line", *results, capsys=capsys).splitlines()[:4] == [
        "node = one",
        "   a = 1",
        "   b = x\\x1b[31m",
        "",
    ]
    lines = printed("json", *results, capsys=capsys).splitlines()
    assert lines == ['{"node":"one","a":"1","b":"x\\u001b[31m"}', '{"node":"two","c":"[bold]"}']


def test_a_table_keeps_so_many_rows(capsys: Any) -> None:
    """And says that there are more."""
    results = [(f"n{number}", [{"a": "1"}] * (MOST_ROWS // 2)) for number in range(3)]
    assert printed("csv", *results, capsys=capsys).count("\n") == MOST_ROWS + 1


@pytest.fixture
def fleet(start: Start) -> Iterator[Server]:
    """A server with three simulated nodes, whose reads are held."""
    server = start()
    words = ["simulate", "--nodes", "3", "--server", f"localhost:{server.port}", "--duration", "90"]
    simulation = subprocess.Popen(
        [str(BIN / "osqtwist"), *words], cwd=server.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.json("status")["parked_reads"] < 3:
        time.sleep(0.2)
    yield server
    simulation.terminate()
    simulation.wait(30)


def plain(text: str) -> str:
    """What a terminal shows, about."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_prompt_in_a_terminal(fleet: Server, tmp_path: Path) -> None:
    """SQL over several lines, commands, completion, history, Ctrl-C while a query runs, and the way out."""
    history = tmp_path / "state" / "history"
    words = ["query", "prompt", "--node", "node-00001.sim", "--history", str(history)]
    child = pexpect.spawn(
        str(BIN / "osqtwist"),
        words,
        cwd=str(fleet.folder),
        # Nobody answers where the cursor is.
        env={**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1"},
        encoding="utf-8",
        timeout=30,
        dimensions=(40, 120),
        # Whoever runs the tests in the background may have turned Ctrl-C off.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    seen = io.StringIO()
    child.logfile_read = seen
    child.expect("node-00001.sim>")
    child.send("select 1 as one,\r")
    child.expect_exact("...")
    child.send("hostname from system_info;\r")
    child.expect("1 of 1 nodes answered; 1 rows in")
    assert re.search(r"node-00001.sim\s+1\s+node-00001.sim", plain(seen.getvalue()))
    child.send(".target all\r")
    child.expect("target all")
    child.expect("all>")
    child.send(".mode json\r")
    child.expect("mode json")
    child.send("select 2 as two;\r")
    for _ in range(3):
        child.expect(r'\{"node":"node-0000\d.sim","two":"2"\}')
    child.expect("3 of 3 nodes answered")
    # One match alone is put in by Tab.
    child.send(".schema curl_cer")
    time.sleep(0.5)
    child.send("\t")
    time.sleep(0.5)
    child.send("\r")
    child.expect("hostname text, required")
    child.send("selec nonsense;\r")
    child.expect("syntax error")
    # A node that is online and never asks for work.
    fleet.ask(
        "/enroll",
        {
            "enroll_secret": (fleet.folder / "state" / "enroll-secret").read_text().split()[0],
            "host_identifier": "silent",
        },
        node=None,
    )
    child.send(".target host:silent\r")
    child.expect("target host:silent")
    child.send(".timeout 60\r")
    child.expect("timeout 60 s")
    child.send("select 3;\r")
    time.sleep(2)
    child.sendintr()
    child.expect("cancelled")
    child.expect("host:silent>")
    child.send(".exit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    queries = fleet.json("query", "list")
    assert (queries[0]["sql"], queries[0]["state"]) == ("select 3", "cancelled")
    assert "Traceback" not in seen.getvalue()
    assert history.stat().st_mode & 0o777 == 0o600
    assert "+select 1 as one,\n+hostname from system_info;\n" in history.read_text()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_queries_of_an_operator(fleet: Server, tmp_path: Path) -> None:
    """Issued, followed, exported, shown with what they cost; statements from a pipe; exit statuses."""
    issued = fleet.json(
        "query", "issue", "select 1 as one, '=2' as two", "--for", "5s", "--keep", "1h", "--percent", "99.9"
    )
    query_id = issued["query_id"]
    followed = fleet.osqtwist("query", "follow", query_id)
    assert followed.returncode == 0, followed.stderr
    assert "3 nodes answered" in followed.stderr
    exported = fleet.osqtwist("query", "export", query_id, "--format", "csv", "-o", str(tmp_path / "rows.csv"))
    assert exported.returncode == 0, exported.stderr
    lines = sorted((tmp_path / "rows.csv").read_text().splitlines())
    assert lines[:2] == ['"node","one","two"', '"node-00001.sim","1","\'=2"']
    assert not list(tmp_path.glob("*.partial"))
    assert len(fleet.osqtwist("query", "export", query_id, "--format", "ndjson").stdout.splitlines()) == 3
    shown = fleet.osqtwist("query", "show", query_id, "--no-results").stdout
    assert re.search(r"cost: time\s+median \S+ ms, most \S+ ms \(node-0000\d.sim\)", shown)
    assert re.search(r"cost: until the answer\s+median", shown)
    later = fleet.json("query", "issue", "select 1", "--from", "1h")
    assert [each["query_id"] for each in fleet.json("query", "list", "--state", "scheduled")] == [later["query_id"]]
    # Whoever may open the socket is an admin here, and issues alone what may do harm.
    assert fleet.osqtwist("query", "approve", later["query_id"]).returncode == 1
    assert fleet.osqtwist("query", "cancel", later["query_id"]).returncode == 0
    assert fleet.osqtwist("query", "show", "q1").returncode == 1
    assert fleet.osqtwist("query", "issue", "select 1", "--for", "1h", "--until", "2h").returncode == 2
    done = subprocess.run(
        [str(BIN / "osqtwist"), "query", "prompt", "--mode", "csv"],
        input="select 1\n as one;\n.mode line\nselect 2 as two;\n",
        cwd=fleet.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == '"node","one"'
    assert done.stdout.count(" two = 2") == 3


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_dangerous_query_from_the_command(start: Start, tmp_path: Path) -> None:
    """It waits, which is an exit status of its own; who issued it cannot approve, another actor can."""
    settings = tmp_path / "settings.toml"
    settings.write_text("[live]\nadmins_need_approval = true\n")
    server = start("--port", "ssl:0", "--settings", str(settings))
    done = server.osqtwist("query", "run", "select * from curl where url = 'http://x/'")
    assert done.returncode == 4
    assert "the table curl" in done.stderr
    (waiting,) = server.json("query", "list", "--state", "waiting")
    approve = ("query", "approve", waiting["query_id"])
    refused = server.osqtwist(*approve)
    assert (refused.returncode, "somebody else must approve" in refused.stderr) == (1, True)
    token = tmp_path / "token"
    token.write_text(server.osqtwist("token", "add", "second", "--role", "operator").stdout)
    found = server.json("--token-file", str(token), *approve)
    assert (found["state"], found["approved_by"]) == ("open", "token second")
