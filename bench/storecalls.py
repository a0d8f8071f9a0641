"""
``python -m bench.storecalls``: calls of Redis for each request, by route, in steady state.

Redis itself says what it is asked (MONITOR); what a script does inside counts as the one call that it is.  What the
server asks anyway, such as its looks for revocations, is measured on an idle server and taken off.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import pkgutil
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import osqtwist.storage
from bench.scene import Scene, scene
from osqtwist.storage.redis_connection import Script

NODES = 20
_PAUSE = 0.05
_LINE = re.compile(rb'^\+?\d+\.\d+ \[\d+ ([^\]]*)\] "([^"]*)"(?: "([^"]*)")?')


def scripts() -> dict[str, str]:
    """The names of the server's scripts, by their SHA-1."""
    found = {}
    for each in pkgutil.iter_modules(osqtwist.storage.__path__, "osqtwist.storage."):
        for name, value in vars(importlib.import_module(each.name)).items():
            if isinstance(value, Script):
                found[value.sha1] = name.strip("_").lower()
    return found


@contextlib.contextmanager
def listening(stage: Scene) -> Iterator[Counter[str]]:
    """What clients ask of the store meanwhile: scripts by their name."""
    found: Counter[str] = Counter()
    names = scripts()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(stage.folder / "state" / "store" / "valkey.sock"))
        raw.sendall(b"MONITOR\r\n")

        def listen() -> None:
            with contextlib.suppress(OSError):
                for line in raw.makefile("rb"):
                    if (said := _LINE.match(line)) and said[1] != b"lua":
                        word = said[2].decode().lower()
                        found[names.get((said[3] or b"").decode(), word) if word == "evalsha" else word] += 1

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        time.sleep(0.2)
        yield found
        time.sleep(0.3)
        raw.shutdown(socket.SHUT_RDWR)
        listener.join(5)


def steady(stage: Scene, route: str, seconds: float) -> dict[str, Any]:
    """Calls for each request of a route, of nodes that the server knows."""
    more = {"secret": "bench-secret"} if route == "enroll" else {}
    with listening(stage) as idle:
        time.sleep(seconds)
    fleet = stage.fleet(NODES, f"{route}={_PAUSE}", over=0, **more)
    try:
        begin = fleet.until(lambda line: line["at"] >= 2, within=30)
        with listening(stage) as asked:
            first = fleet.until(lambda line: line["at"] > begin["at"], within=30)
            asked.clear()
            last = fleet.until(lambda line: line["at"] >= first["at"] + seconds, within=seconds + 30)
            calls = asked.copy()
    finally:
        fleet.kill()
    answered = last["answered"][route] - first["answered"][route]
    more_than_idle = calls - idle
    return {
        "route": route,
        "requests": answered,
        "calls_each": round(more_than_idle.total() / answered, 3),
        "calls": {name: round(count / answered, 3) for name, count in more_than_idle.most_common(6)},
    }


def query(stage: Scene, nodes: int) -> dict[str, Any]:
    """Calls for each node that a live query is given to, and for each result."""
    fleet = stage.fleet(nodes, "read=30", over=0, first=1000)
    try:
        fleet.until(lambda line: line["waiting"].get("read", 0) >= nodes, within=30)
        with listening(stage) as asked:
            stage.admin("POST", "/api/v1/queries", {"sql": "select 1", "expires_in": 60})
            fleet.until(lambda line: line["answered"].get("write", 0) >= nodes, within=30)
    finally:
        fleet.kill()
    return {
        "route": "live query",
        "requests": nodes,
        "calls": {name: round(asked[name] / nodes, 3) for name in ("take", "add_results")},
    }


def measure(seconds: float) -> list[dict[str, Any]]:
    """Every route."""
    found = []
    with scene("--hold", "0") as stage:
        found += [steady(stage, route, seconds) for route in ("config", "read", "log", "enroll")]
    with scene("--hold", "12") as stage:
        found.append(query(stage, 200))
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.storecalls", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    for row in measure(parser.parse_args().seconds):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
