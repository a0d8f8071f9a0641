"""
``python -m bench.held``: what a held distributed read takes of the server's memory.

osquery's reads are held for at most 12 s, and no machine of two cores makes 20,000 connections in that time; so the
cap on the hold is lifted here.  What a held read takes does not depend on how long it is held.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from bench.scene import Scene, resident, scene

_HOLD = "1800"


def measure(stage: Scene, nodes: int, rate: float, tls: str, groups: str) -> dict[str, Any]:
    """Hold so many reads, and see what the memory of the processes that serve nodes does."""
    # A few reads first, so that what is only made once is there already.
    warm = stage.fleet(50, "read=0.01", seconds=2, over=0, read_patience=_HOLD, first=10_000_000, **_tls(tls, groups))
    warm.wait()
    time.sleep(1)
    pids = stage.node_pids()
    before = {pid: resident(pid) for pid in pids}
    cpu_before = stage.cpu()
    fleet = stage.fleet(nodes, "read=1", over=nodes / rate, read_patience=_HOLD, **_tls(tls, groups))
    try:
        held = fleet.until(lambda line: line["waiting"].get("read", 0) >= nodes, within=nodes / rate + 90)
        cpu_after = stage.cpu()
        time.sleep(2)
        after = {pid: resident(pid) for pid in pids}
        cpu_idle = stage.cpu()
        time.sleep(3)
        cpu_idle = (stage.cpu() - cpu_idle) / 3
        own = resident(fleet.pid)
        return {
            "tls": tls or "any",
            "groups": groups or "any",
            "held": nodes,
            "seconds": held["at"],
            "kB_each": round(sum(after[pid] - before[pid] for pid in pids) / nodes / 1000, 2),
            "MB_before": round(sum(before.values()) / 1e6, 1),
            "MB_after": round(sum(after.values()) / 1e6, 1),
            "server_cpu_ms_each": round((cpu_after - cpu_before) / nodes * 1000, 3),
            "server_cpu_idle_percent": round(cpu_idle * 100, 1),
            "load_kB_each": round(own / nodes / 1000, 1),
            "failed": held["failed"],
        }
    finally:
        fleet.kill()


def _tls(version: str, groups: str) -> dict[str, str]:
    return ({"tls": version} if version else {}) | ({"groups": groups} if groups else {})


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.held", description=__doc__)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=350.0, help="connections a second while they come")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tls", default="", choices=["", "1.2", "1.3"])
    parser.add_argument("--groups", default="", help="of the key exchange that nodes offer, such as X25519:P-256")
    arguments = parser.parse_args()
    with scene("--hold", _HOLD, "--workers", str(arguments.workers), uncapped=True) as stage:
        print(json.dumps(measure(stage, arguments.nodes, arguments.rate, arguments.tls, arguments.groups)))


if __name__ == "__main__":
    main()
