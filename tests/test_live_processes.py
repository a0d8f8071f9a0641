"""Live queries in real processes: over a restart, and with several workers."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.test_twistd import BIN, Start, start

__all__ = ["start"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_scheduled_query_opens_in_every_worker_after_a_restart(start: Start) -> None:
    """At its moment, for nodes whose reads each worker holds; who follows it does not keep a server from stopping."""
    words = ("--port", "ssl:0", "--workers", "2")
    first = start(*words)
    opens_at = time.time() + 12
    query = first.json("query", "issue", "select 1 as one", "--from", str(opens_at), "--for", "1h")
    assert query["state"] == "scheduled"
    follower = subprocess.Popen(
        [str(BIN / "osqtwist"), "--json", "query", "follow", query["query_id"]],
        cwd=first.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(1.5)
    began = time.monotonic()
    assert first.stop() == 0
    assert time.monotonic() - began < 10
    assert follower.wait(10) == 3
    second = start(*words, folder=first.folder)
    simulation = subprocess.Popen(
        [str(BIN / "osqtwist"), "simulate", "--nodes", "6", "--server", f"localhost:{second.port}", "--duration", "60"],
        cwd=second.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while time.time() < opens_at - 1:
        assert second.json("query", "show", query["query_id"], "--no-results")["offered"] == 0
        time.sleep(1)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if second.json("query", "show", query["query_id"], "--no-results")["answered"] == 6:
            break
        time.sleep(0.3)
    lines = second.osqtwist("query", "export", query["query_id"], "--format", "ndjson").stdout.splitlines()
    received = [json.loads(line)["received_at"] - opens_at for line in lines]
    assert len(received) == 6
    # Some may be between two reads, or at work on something else.
    assert 0 <= min(received) < 3
    # A saved query is asked of whom it says, unless somebody says otherwise.
    words = ("query", "save", "one", "select 1 as one, hostname from system_info", "--where", "name:node-00002*")
    saved = second.json(*words)
    assert second.osqtwist(*words).returncode == 1
    assert second.json("query", "saved") == [saved]
    assert second.osqtwist("query", "run", "@one").stdout.splitlines()[1:] == ["node-00002.sim\t1\tnode-00002.sim"]
    assert len(second.osqtwist("query", "run", "@one", "--where", "name:node-0000[12]*").stdout.splitlines()) == 3
    assert second.osqtwist("query", "forget", "one").returncode == 0
    assert second.osqtwist("query", "run", "@one").returncode == 1
    simulation.terminate()
    simulation.wait(20)
