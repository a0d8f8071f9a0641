"""
The load of the log benchmarks: a process of its own that posts log lines over mutual TLS.

Each post is a connection with a full handshake, as osqueryd makes it, or one of many on a connection that is kept.
``python -m bench.logload`` takes its orders as JSON on standard input and answers as JSON; the moments in the answer
are of the clock that :func:`time.monotonic` reads in every process of the machine.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from http.client import HTTPSConnection
from typing import Any

_UUID = "564dc77d-5b0a-4f5c-8a2e-2a1c9b0f7a11"


def lines_of(first: int, count: int) -> str:
    """So many numbered result lines, each of some 380 bytes, as a JSON array."""
    return json.dumps([_line(number) for number in range(first, first + count)], separators=(",", ":"))


def _line(number: int) -> dict[str, Any]:
    return {
        "name": "pack_bench_process_events",
        "hostIdentifier": _UUID,
        "calendarTime": "Mon Sep 21 14:13:20 2026 UTC",
        "unixTime": 1790000000,
        "epoch": 0,
        "counter": number,
        "numerics": False,
        "decorations": {"host_uuid": _UUID, "username": "bench"},
        "columns": {
            "pid": str(number),
            "path": "/usr/bin/python3.11",
            "cmdline": "/usr/bin/python3.11 -m http.server --bind 127.0.0.1",
            "uid": "1000",
        },
        "action": "added",
    }


def _requests(order: dict[str, Any]) -> list[bytes]:
    """All posts, made before the clock starts; no two lines are the same."""
    posts, lines = order["posts"], order["lines"]
    found = []
    for post in range(posts):
        data = lines_of(order["first"] + post * lines, lines)
        found.append(f'{{"node_key":"","log_type":"result","data":{data}}}'.encode())
    return found


class _Poster:
    """Posts bodies to one server, each over a connection of its own or all over one."""

    def __init__(self, order: dict[str, Any], context: ssl.SSLContext) -> None:
        self._port, self._context = order["port"], context
        self._kept = HTTPSConnection("localhost", self._port, timeout=30, context=context) if order["keep"] else None

    def post(self, body: bytes) -> str:
        """Post; answers with what went wrong."""
        head = "POST /log HTTP/1.1\r\nHost: localhost\r\nUser-Agent: osquery/5.23.1\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            if self._kept is not None:
                self._kept.request("POST", "/log", body, {"Content-Type": "application/json"})
                answer = self._kept.getresponse().read()
                return "" if answer == b"{}" else answer.decode("latin-1")
            with (
                socket.create_connection(("127.0.0.1", self._port), 30) as raw,
                self._context.wrap_socket(raw, server_hostname="localhost") as connection,
            ):
                connection.sendall(head.encode() + body)
                answer = b""
                while part := connection.recv(65536):
                    answer += part
                return "" if answer.endswith(b"\r\n\r\n{}") else answer[-200:].decode("latin-1")
        except OSError as problem:
            return str(problem) or type(problem).__name__


def post_all(order: dict[str, Any]) -> dict[str, Any]:
    """Post ``posts`` times ``lines`` over ``threads`` threads, ``rate`` posts a second in all or as fast as can be."""
    context = ssl.create_default_context(cafile=order["ca"])
    context.load_cert_chain(order["cert"], order["key"])
    waiting = _requests(order)
    waiting.reverse()
    size = sum(map(len, waiting))
    count, failures, took = len(waiting), list[str](), list[float]()
    guard = threading.Lock()
    cpu, began = time.process_time(), time.monotonic()

    def work() -> None:
        poster = _Poster(order, context)
        while True:
            with guard:
                if not waiting:
                    return
                due = began + (count - len(waiting)) / order["rate"] if order["rate"] else 0.0
                body = waiting.pop()
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            sent = time.monotonic()
            if trouble := poster.post(body):
                failures.append(trouble)
            took.append(time.monotonic() - sent)

    threads = [threading.Thread(target=work) for _ in range(order["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "began": began,
        "ended": time.monotonic(),
        "bytes": size,
        "client_cpu": time.process_time() - cpu,
        "median_answer": sorted(took)[len(took) // 2],
        "failures": failures[:3],
        "failed": len(failures),
    }


if __name__ == "__main__":
    json.dump(post_all(json.load(sys.stdin)), sys.stdout)
