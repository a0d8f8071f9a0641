"""Worker processes for real: one twistd, several processes that serve nodes, kills, replacements, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.test_delivery_process import children, until
from tests.test_embedded import is_alive
from tests.test_twistd import BIN, Server, Start, refused, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WORKERS = 3


def begin(start: Start, *more: str, folder: Path | None = None) -> Server:
    return start("--port", "ssl:0", "--workers", str(WORKERS), *more, folder=folder)


def pids(server: Server) -> list[int]:
    return [row["pid"] for row in server.json("worker", "list")]


def figure(server: Server, name: str) -> float:
    """The sum of a metric's samples."""
    words = ["curl", "-s", "--unix-socket", str(server.folder / "state" / "admin.sock"), "http://x/metrics"]
    text = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((name + " ", name + "{"))
    )


@contextmanager
def simulated(server: Server, nodes: int, seconds: int) -> Iterator[dict[str, Any]]:
    """A fleet for as long as the block lasts; its summary is there after it."""
    summary: dict[str, Any] = {}
    words = ["simulate", "--nodes", str(nodes), "--server", f"localhost:{server.port}", "--duration", str(seconds)]
    process = subprocess.Popen(
        [str(BIN / "osqtwist"), *words],
        cwd=server.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield summary
        out, _ = process.communicate(timeout=seconds + 40)
        summary.update(json.loads(out))
    finally:
        process.kill()
        process.wait()


def test_a_fleet_on_several_workers(start: Start) -> None:
    """Connections are spread, a live query reaches reads held by any of them, and the figures are those of all."""
    server = begin(start)
    with simulated(server, 30, 14) as summary:
        # Each worker counts at a moment of its own, and reads end and begin meanwhile.
        until(lambda: server.json("status")["parked_reads"] >= 25)
        rows = server.json("worker", "list")
        assert all(row["parked_reads"] for row in rows)
        done = server.osqtwist("query", "run", "select 1 as one")
        assert "30 of 30 nodes answered" in done.stderr
    assert summary["failures"] == {}
    assert summary["schedule_wipes"] == summary["invalidated"] == 0
    until(lambda: figure(server, "osqtwist_log_lines_total") == summary["lines_acknowledged"], 10)
    assert figure(server, "osqtwist_enrollments_total") == 30
    assert figure(server, "osqtwist_workers") == WORKERS
    lines = server.osqtwist("--json", "log", "tail", "--no-follow").stdout.splitlines()
    assert len(lines) == summary["lines_acknowledged"]
    assert server.stop() == 0
    assert "Unhandled" not in server.text()
    assert "Traceback" not in server.text()


def test_a_killed_worker_comes_back(start: Start) -> None:
    """What it counted stays counted, the others serve meanwhile, and what waits for it is served by the next."""
    server = begin(start)
    for number in range(12):
        assert server.ask("/log", {"node_key": "", "log_type": "result", "data": [{"n": number}]}) == {}
    until(lambda: figure(server, "osqtwist_log_lines_total") == 12)
    before = pids(server)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for number in range(12, 24):
        assert server.ask("/log", {"node_key": "", "log_type": "result", "data": [{"n": number}]}) == {}
    until(lambda: not set(pids(server)) & {*before, None})
    assert {row["starts"] for row in server.json("worker", "list")} == {2}
    until(lambda: figure(server, "osqtwist_log_lines_total") == 24)
    assert figure(server, "osqtwist_worker_deaths_total") == WORKERS
    assert "worker 1 ended" in server.text()


def test_replacing_workers_refuses_nobody(start: Start) -> None:
    """New ones serve before old ones end; reads that these hold are answered; no request fails."""
    server = begin(start)
    with simulated(server, 20, 22) as summary:
        until(lambda: server.json("status")["parked_reads"] >= 15)
        before = pids(server)
        assert server.json("worker", "replace") == {"replaced": WORKERS}
        assert not set(pids(server)) & set(before)
        assert not any(is_alive(pid) for pid in before)
        until(lambda: server.json("status")["parked_reads"] >= 15, 10)
    assert summary["failures"] == {}
    assert figure(server, "osqtwist_worker_deaths_total") == 0
    until(lambda: figure(server, "osqtwist_log_lines_total") == summary["lines_acknowledged"], 10)
    assert server.stop() == 0


def test_without_workers_there_is_nothing_to_replace(start: Start) -> None:
    """One process does everything, and says so."""
    server = start()
    assert server.json("worker", "list") == []
    done = server.osqtwist("worker", "replace")
    assert done.returncode == 1
    assert "--workers is 1" in done.stderr


def test_a_revocation_ends_a_read_held_by_any_worker(start: Start) -> None:
    """Within two seconds, whichever worker holds it."""
    server = begin(start)
    server.ask("/config", {"node_key": ""})
    ended: list[float] = []

    def read() -> None:
        answer = server.ask("/distributed/read", {"node_key": ""})
        ended.append(time.monotonic())
        assert answer.get("node_invalid") or answer == {}

    for _ in range(3):
        ended.clear()
        readers = [threading.Thread(target=read) for _ in range(6)]
        for reader in readers:
            reader.start()
        until(lambda: server.json("status")["parked_reads"] == 6)
        began = time.monotonic()
        assert server.osqtwist("node", "revoke", "node-1.example.com").returncode == 0
        for reader in readers:
            reader.join(12)
        assert len(ended) == 6
        assert max(ended) - began < 3
        assert server.osqtwist("node", "restore", "node-1.example.com").returncode == 0
        until(lambda: "schedule" in server.ask("/config", {"node_key": ""}), 5)


def test_sighup_reaches_every_worker(start: Start, tmp_path: Path) -> None:
    """A new layer is served by all of them."""
    (tmp_path / "00.conf").write_text('{"options": {"custom_a": 1}}')
    server = begin(start, "--config", str(tmp_path))
    (tmp_path / "10.conf").write_text('{"options": {"custom_b": 2}}')
    server.process.send_signal(signal.SIGHUP)
    for number in range(1, WORKERS + 1):
        server.wait_for(f"worker {number}: .*2 layers")
    for _ in range(10):
        assert server.ask("/config", {"node_key": ""})["options"]["custom_b"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_workers_end_with_their_parent(number: signal.Signals, start: Start) -> None:
    """However it ends."""
    server = begin(start)
    before = list(children(server.process.pid))
    assert len(before) >= WORKERS
    workers = pids(server)
    server.process.send_signal(number)
    server.process.wait(20)
    until(lambda: not any(is_alive(pid) for pid in workers))


def test_ctrl_c_ends_it_in_order(start: Start) -> None:
    """A terminal sends it to every process at once."""
    server = begin(start)
    workers = pids(server)
    for pid in [*workers, server.process.pid]:
        os.kill(pid, signal.SIGINT)
    server.process.wait(20)
    assert not any(is_alive(pid) for pid in workers)
    assert "is started again" not in server.text()


def test_a_port_that_another_server_shares_is_refused(start: Start) -> None:
    """Otherwise each would get half of the nodes."""
    server = begin(start)
    other = start("--port", f"ssl:{server.port}", "--workers", "2", wait=False)
    assert "already in use" in refused(other)


def test_workers_that_cannot_start_are_one_sentence(start: Start, tmp_path: Path) -> None:
    """What is wrong with the settings is found before the first worker starts."""
    words = ["--port", "ssl:0", "--workers", "2", "--config", "/nowhere"]
    assert "/nowhere" in refused(start(*words, wait=False))
    assert "--workers is 65" in refused(start("--workers", "65", wait=False))
