"""
``python -m bench log-memory``: the memory of the delivery process while its sink is down.

Two servers get the same steady load at once.  The sink of each is a webhook; one destination takes every line, the
other answers 503 to everything for the whole run, so that its lines stay in the buffer.  Before it begins, the sinks
are paused and the buffers get a backlog, so that the delivery process has as much in hand as it ever takes.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs

from bench.pipeline import PARTS, Pipeline, pipeline
from bench.servers import Certificates

LINES = 50
RATE = 30.0
"""Posts a second to each of the servers."""
BACKLOG = 20
"""Posts of a thousand lines before the load begins: more than a delivery process takes at once (4 MiB)."""
_SAMPLE = 0.5
_SLACK = 0.05
_SLACK_MIB = 1.0


class Destination(ThreadingHTTPServer):
    """
    What a webhook posts to.

    :ivar lines: how many it took.
    :ivar asked: how many requests there were.
    """

    daemon_threads = True

    def __init__(self, is_up: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.is_up = is_up
        self.lines = self.asked = 0


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Destination

    def do_POST(self) -> None:
        """Count the lines, or refuse them."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        if self.server.is_up:
            self.server.lines += body.count(b'"event_id"')
        self.send_response(200 if self.server.is_up else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing to say."""


@contextlib.contextmanager
def destination(is_up: bool) -> Iterator[Destination]:
    """Run one."""
    with Destination(is_up) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@attrs.define
class Memory:
    """What was seen of one server: a sample is seconds since the load began, and KiB by part."""

    sink: str
    samples: list[tuple[float, dict[str, int]]] = attrs.field(factory=list)
    mib_posted: float = 0.0
    lines_taken: int = 0
    requests: int = 0

    def row(self, part: str) -> dict[str, Any]:
        """
        First, last, most, and the growth of the last two thirds, in MiB.

        Memory is flat if it grew by less than a MiB, or by less than a twentieth of what was posted meanwhile.
        """
        series = [(at, each[part] / 1024) for at, each in self.samples]
        sizes = [size for _, size in series]
        late = series[len(series) // 3 :]
        seconds = late[-1][0] - late[0][0]
        grown = slope(late) * seconds
        posted = self.mib_posted * seconds / series[-1][0]
        return {
            "sink": self.sink,
            "process": part,
            "first_mib": round(sizes[0], 1),
            "last_mib": round(sizes[-1], 1),
            "max_mib": round(max(sizes), 1),
            "mib_per_minute": round(slope(late) * 60, 2),
            "grown_mib": round(grown, 2),
            "posted_mib": round(posted, 1),
            "is_flat": grown <= max(_SLACK_MIB, _SLACK * posted),
            "lines_taken": self.lines_taken,
            "requests": self.requests,
        }


def slope(series: Sequence[tuple[float, float]]) -> float:
    """By how much the second of each pair grows with the first: the line of least squares."""
    return statistics.linear_regression(*zip(*series, strict=True)).slope


def measure(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Run both for so long; a row for each process of each."""
    certificates = Certificates.mint(folder / "certs", "P-256")
    found = {name: Memory(name) for name in ("up", "down")}
    with contextlib.ExitStack() as stack:
        running: dict[str, tuple[Pipeline, Destination]] = {}
        for name in found:
            there = stack.enter_context(destination(name == "up"))
            url = f"http://127.0.0.1:{there.server_port}/lines"
            sink = f'kind = "webhook"\nurl = "{url}"\nlongest_pause = 1.0\n'
            running[name] = stack.enter_context(pipeline(folder / name, certificates, sink)), there
        for server, _ in running.values():
            server.operate("sink", "pause", "bench")
            server.load(lines=1000, posts=BACKLOG, threads=2).result(60)
            server.operate("sink", "resume", "bench")
        order = {"first": BACKLOG * 1000, "lines": LINES, "posts": int(RATE * seconds), "rate": RATE, "threads": 4}
        loads = {name: server.load(**order) for name, (server, _) in running.items()}
        for load in loads.values():
            stack.callback(load.end)
        began = time.monotonic()
        while any(load.is_running for load in loads.values()) and time.monotonic() < began + seconds + 30:
            for name, (server, _) in running.items():
                found[name].samples.append((time.monotonic() - began, server.rss()))
            time.sleep(_SAMPLE)
        for name, (_, there) in running.items():
            memory = found[name]
            memory.mib_posted = loads[name].result(10)["bytes"] / 2**20
            memory.lines_taken, memory.requests = there.lines, there.asked
    return [memory.row(part) for part in reversed(PARTS) for memory in found.values()]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| process | sink | first MiB | last MiB | max MiB | MiB/min | grown MiB | posted MiB | flat |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    keys = ("first_mib", "last_mib", "max_mib", "mib_per_minute", "grown_mib", "posted_mib")
    for row in rows:
        figures = " | ".join(str(row[key]) for key in keys)
        process = "Valkey" if row["process"] == "store" else row["process"]
        lines.append(f"| {process} | {row['sink']} | {figures} | {'yes' if row['is_flat'] else 'no'} |")
    return "\n".join(lines)
