"""
``python -m bench.query``: a live query to many nodes that are held, and what else is served meanwhile.

The cap on the hold is lifted, so that all of them are held at the moment of the query; see ``bench.held``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.fleet.figures import quantiles
from bench.scene import Scene, scene

_HOLD = "1800"
_QUIET = 6.0
_LONGEST = 100.0
_OTHERS = "config=1,log=1,enroll=1"


def measure(stage: Scene, nodes: int, rate: float, think: float, others: int) -> dict[str, Any]:
    """Hold the reads of so many nodes, ask them something, and see when it reaches them and what comes back."""
    times, samples = stage.folder / "queries.json", stage.folder / "samples"
    held = stage.fleet(nodes, "read=1", over=nodes / rate, read_patience=_HOLD, think=think, queries=times)
    beside = None
    try:
        held.until(lambda line: line["waiting"].get("read", 0) >= nodes, within=nodes / rate + 60)
        beside = stage.fleet(others, _OTHERS, over=1, secret="bench-secret", first=10_000_000, samples=samples)
        beside.until(lambda line: line["at"] >= _QUIET + 2, within=30)
        cpu = stage.cpu()
        asked = time.monotonic()
        answer = stage.admin("POST", "/api/v1/queries", {"sql": "select 1", "expires_in": 600})
        called = time.monotonic()
        query, progress = answer["query_id"], {"offered": 0, "answered": 0}
        cpu_reached = 0.0
        while progress["answered"] < nodes and time.monotonic() < asked + _LONGEST:
            time.sleep(0.1)
            progress = stage.admin("GET", f"/api/v1/queries/{query}")
            if not cpu_reached and progress["offered"] >= nodes:
                cpu_reached = stage.cpu()
        cpu_all = stage.cpu()
        beside.end()
        report = held.end()
    finally:
        held.kill()
        if beside:
            beside.kill()
    found = json.loads(times.read_text())
    delivered = [moment - asked for moment in found["delivered"].get(query, ())]
    stored = [moment - asked for moment in found["stored"].get(query, ())]
    reached = asked + max(delivered, default=0.0)
    done = asked + max(stored, default=0.0)
    return {
        "nodes": nodes,
        "call_ms": round((called - asked) * 1000, 1),
        "reached": len(delivered),
        "reached_ms": quantiles(delivered),
        "stored": len(stored),
        "stored_ms": quantiles(stored),
        "cpu_ms_each_to_reach_at_most": round((cpu_reached - cpu) / nodes * 1000, 3),
        "cpu_ms_each_in_all": round((cpu_all - cpu) / nodes * 1000, 3),
        "failed": {kind: route["problems"] for kind, route in report["routes"].items() if route["failed"]},
        "others_ms": {
            "before": _by_kind(samples, asked - _QUIET, asked),
            "until all are reached": _by_kind(samples, asked, reached),
            "until all is stored": _by_kind(samples, reached, done),
        },
    }


def _by_kind(samples: Path, begin: float, end: float) -> dict[str, Any]:
    """How long requests took that began between two moments."""
    found: dict[str, list[float]] = {}
    for began, ended, kind in _read(samples):
        if begin <= began < end:
            found.setdefault(kind, []).append(ended - began)
    return {kind: {"count": len(values)} | quantiles(values) for kind, values in sorted(found.items())}


def _read(samples: Path) -> Iterable[tuple[float, float, str]]:
    for line in samples.read_text().splitlines():
        began, ended, kind, *_ = line.split("\t")
        yield float(began), float(ended), kind


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.query", description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=450.0, help="connections a second while they come")
    parser.add_argument("--workers", type=int, action="append", help="may be given more than once; 1 if not at all")
    parser.add_argument("--think", type=float, default=1.0, help="seconds a node takes for the query at most")
    parser.add_argument("--others", type=int, default=10, help="nodes that enroll, ask and log once a second meanwhile")
    parser.add_argument("--burst", type=int, default=3072, help="the server's --query-burst")
    arguments = parser.parse_args()
    for workers in arguments.workers or [1]:
        words = ("--hold", _HOLD, "--workers", str(workers), "--query-burst", str(arguments.burst))
        with scene(*words, uncapped=True) as stage:
            found = measure(stage, arguments.nodes, arguments.rate, arguments.think, arguments.others)
            print(json.dumps({"workers": workers} | found, indent=1), flush=True)


if __name__ == "__main__":
    main()
