"""
``python -m bench.held``: what a held distributed read takes of the server's memory.

osquery's reads are held for at most 12 s, and no machine of two cores makes 20,000 connections in that time; so the
cap on the hold is lifted here.  What a held read takes does not depend on how long it is held.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import resource
import time
from typing import Any

from bench.scene import Scene, resident, scene

_HOLD = "1800"


def measure(stage: Scene, nodes: int, rate: float, tls: str, groups: str) -> dict[str, Any]:
    """Hold so many reads, and see what the memory of the processes that serve nodes does."""
    # A few reads first, so that what is only made once is there already.
    stage.fleet(50, "read=0.01", over=0, read_patience=_HOLD, first=10_000_000, **_tls(tls, groups), seconds=2).wait()
    time.sleep(1)
    pids = stage.node_pids()
    before = {pid: resident(pid) for pid in pids}
    cpu_before = stage.cpu()
    with contextlib.ExitStack() as stack:
        fleets = []
        for first, count in _shares(nodes, processes_for(nodes)):
            more = {"first": first, "over": nodes / rate, "read_patience": _HOLD} | _tls(tls, groups)
            fleets.append(stage.fleet(count, "read=1", **more))
            stack.callback(fleets[-1].kill)
        for fleet, (_, count) in zip(fleets, _shares(nodes, len(fleets)), strict=True):
            held = fleet.until(lambda line, count=count: line["waiting"].get("read", 0) >= count, nodes / rate + 60)
        cpu_after = stage.cpu()
        time.sleep(2)
        after = {pid: resident(pid) for pid in pids}
        cpu_idle = stage.cpu()
        time.sleep(3)
        cpu_idle = (stage.cpu() - cpu_idle) / 3
        return {
            "tls": tls or "any",
            "groups": groups or "any",
            "workers": len(pids),
            "held": nodes,
            "seconds": held["at"],
            "kB_each": round(sum(after[pid] - before[pid] for pid in pids) / nodes / 1000, 2),
            "MB_before": round(sum(before.values()) / 1e6, 1),
            "MB_after": round(sum(after.values()) / 1e6, 1),
            "server_cpu_ms_each": round((cpu_after - cpu_before) / nodes * 1000, 3),
            "server_cpu_idle_percent": round(cpu_idle * 100, 1),
            "load_kB_each": round(sum(resident(fleet.pid) for fleet in fleets) / nodes / 1000, 1),
            "failed": held["failed"],
        }


def processes_for(connections: int) -> int:
    """How many processes it takes to hold so many, by the limit of open files that a process may have."""
    return -(-connections // (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500))


def _shares(nodes: int, parts: int) -> list[tuple[int, int]]:
    ends = [nodes * part // parts for part in range(parts + 1)]
    return [(begin, end - begin) for begin, end in itertools.pairwise(ends)]


def _tls(version: str, groups: str) -> dict[str, str]:
    return ({"tls": version} if version else {}) | ({"groups": groups} if groups else {})


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.held", description=__doc__)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=350.0, help="connections a second while they come")
    parser.add_argument("--workers", type=int, default=0, help="0: as many as there must be")
    parser.add_argument("--tls", default="", choices=["", "1.2", "1.3"])
    parser.add_argument("--groups", default="", help="of the key exchange that nodes offer, such as X25519:P-256")
    arguments = parser.parse_args()
    workers = arguments.workers or processes_for(arguments.nodes)
    with scene("--hold", _HOLD, "--workers", str(workers), uncapped=True) as stage:
        print(json.dumps(measure(stage, arguments.nodes, arguments.rate, arguments.tls, arguments.groups)))


if __name__ == "__main__":
    main()
