"""
``python -m bench.workers``: what workers do with connections, and how evenly they get them.

The load shares the machine's processors with the server, so connections a second say little: what counts is
connections for each second of CPU that the server's processes used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

from bench.scene import Scene, cpu, scene

CASES = (("1 worker", 1, False), ("2 workers, a socket each", 2, False), ("2 workers, one socket", 2, True))


def busy(stage: Scene, route: str, seconds: float) -> dict[str, Any]:
    """As many connections as go, from nodes that never pause."""
    return _measure(stage, 32, f"{route}=0", seconds, over=0)


def paced(stage: Scene, route: str, seconds: float) -> dict[str, Any]:
    """A hundred connections a second, far from what the server could."""
    return _measure(stage, 200, f"{route}=2", seconds, over=2)


def _measure(stage: Scene, nodes: int, mix: str, seconds: float, over: float) -> dict[str, Any]:
    pids = stage.node_pids()
    fleet = stage.fleet(nodes, mix, over=over)
    try:
        first = fleet.until(lambda line: line["at"] >= 2, within=30)
        before = {pid: cpu(pid) for pid in pids}
        last = fleet.until(lambda line: line["at"] >= 2 + seconds, within=seconds + 30)
        used = {pid: cpu(pid) - before[pid] for pid in pids}
        report = fleet.end()
    finally:
        fleet.kill()
    route = mix.partition("=")[0]
    count = last["answered"][route] - first["answered"][route]
    span, server = last["at"] - first["at"], last["server_cpu"] - first["server_cpu"]
    return {
        "per_second": round(count / span, 1),
        "per_server_cpu_second": round(count / server, 1),
        "server_us": round(server / count * 1e6),
        "load_us": round((last["cpu"] - first["cpu"]) / count * 1e6),
        # By CPU, since a worker that serves half of the connections uses half of it.
        "shares": [round(each / (sum(used.values()) or 1), 3) for each in used.values()],
        "ms": report["routes"][route]["ms"],
        "failed": report["routes"][route]["failed"],
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--route", default="log", choices=["log", "config", "read"])
    arguments = parser.parse_args()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for name, workers, is_shared in CASES:
            with scene("--hold", "0", "--workers", str(workers), shared_socket=is_shared) as stage:
                for work in (busy, paced):
                    result = work(stage, arguments.route, arguments.seconds)
                    print(name, work.__name__, json.dumps(result), file=sys.stderr, flush=True)
                    found.setdefault((name, work.__name__), []).append(result)
    floor = {
        work.__name__: statistics.median(each["per_server_cpu_second"] for each in found[CASES[0][0], work.__name__])
        for work in (busy, paced)
    }
    for (name, load), results in found.items():
        middle = {
            key: statistics.median(each[key] for each in results)
            for key in ("per_second", "per_server_cpu_second", "server_us", "load_us")
        }
        shares = [sorted(each["shares"]) for each in results]
        row = {"case": name, "load": load} | middle
        row["efficiency"] = round(middle["per_server_cpu_second"] / floor[load], 3)
        row["p99_ms"] = statistics.median(each["ms"].get("p99", 0.0) for each in results)
        row["shares"] = [round(statistics.median(each), 3) for each in zip(*shares, strict=True)]
        row["failed"] = sum(each["failed"] for each in results)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
