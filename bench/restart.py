"""
``python -m bench.restart``: the server is killed under its nodes and started again.

The store lives on, as it does when the server crashes.  All held reads break at one moment, so every node comes at
once.  The cap on the hold is lifted, because at osquery's pace this machine could not hold so many nodes at all.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.fleet.figures import quantiles
from bench.scene import Scene, scene

_HOLD = 60.0
_LOG_PAUSE = 60.0
_LINES = 10
_LINE = re.compile(rb'"line":"(\d+:\d+):\d+"')


def capacity(stage: Scene) -> float:
    """Connections a second, with reads that find nothing to do and are not held... by config requests."""
    fleet = stage.fleet(48, "config=0", over=0, first=10_000_000)
    try:
        first = fleet.until(lambda line: line["at"] >= 2, within=30)
        last = fleet.until(lambda line: line["at"] >= 7, within=30)
    finally:
        fleet.kill()
    return float((last["answered"]["config"] - first["answered"]["config"]) / (last["at"] - first["at"]))


def measure(stage: Scene, nodes: int, down: float, rate: float) -> dict[str, Any]:
    """Bring the nodes up, kill the server, start it again after a while, and wait until all are served."""
    can = capacity(stage)
    samples, acknowledged = stage.folder / "samples", stage.folder / "acknowledged"
    fleet = stage.fleet(
        nodes,
        f"read=1,log={_LOG_PAUSE:g}",
        over=nodes / rate,
        read_patience=_HOLD * 2,
        samples=samples,
        acknowledged=acknowledged,
    )
    try:
        fleet.until(lambda line: line["waiting"].get("read", 0) >= nodes * 0.95, within=nodes / rate + 60)
        stage.kill()
        killed = time.monotonic()
        time.sleep(down)
        stage.start()
        started = time.monotonic()
        cpu = stage.cpu()
        fleet.until(lambda line: line["waiting"].get("read", 0) >= nodes * 0.98, within=90)
        held = time.monotonic()
        cpu = stage.cpu() - cpu
        # Everybody's hold ends once more, and every log has its turn, within this.
        time.sleep(4)
        report = fleet.end()
    finally:
        fleet.kill()
    late, problems = _after(samples, killed, started)
    return {
        "nodes": nodes,
        "down_s": round(started - killed, 2),
        "capacity_per_second": round(can, 1),
        "work_over_capacity_s": round(nodes / can, 1),
        "all_held_again_s": round(held - started, 1),
        "ratio": round((held - started) / (nodes / can), 2),
        "server_cpu_s": round(cpu, 1),
        "logs_served_again_s": late,
        "problems_while_down": problems["down"],
        "problems_after": problems["after"],
        "resent": report["resent"],
    } | _stored(stage, acknowledged)


def _after(samples: Path, killed: float, started: float) -> tuple[dict[str, float], dict[str, dict[str, int]]]:
    """When logs were acknowledged again after the start, and what nodes had to put up with."""
    first: dict[str, float] = {}
    problems: dict[str, Counter[str]] = {"down": Counter(), "after": Counter()}
    for line in samples.read_text().splitlines():
        _, ended, kind, node, problem = line.split("\t")
        if float(ended) < killed:
            continue
        if problem:
            problems["after" if float(ended) > started else "down"][f"{kind} {problem}"] += 1
        elif kind == "log" and float(ended) > started:
            first.setdefault(node, float(ended) - started)
    return quantiles(list(first.values()), 1.0), {name: dict(found.most_common(8)) for name, found in problems.items()}


def _stored(stage: Scene, acknowledged: Path) -> dict[str, int]:
    """Whether every line of every acknowledged post is in the store."""
    found: Counter[bytes] = Counter()
    after = "-"
    while page := stage.store("XRANGE", "osqtwist:logs", after, "+", "COUNT", "500"):
        for number, fields in page:
            after = "(" + number.decode()
            for field in fields:
                found.update(_LINE.findall(field))
    posts = acknowledged.read_bytes().split()
    return {
        "acknowledged_posts": len(posts),
        "acknowledged_lines_lost": sum(max(0, _LINES - found[post]) for post in posts),
        "lines_stored_twice": sum(count - _LINES for count in found.values() if count > _LINES),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.restart", description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--down", type=float, default=3.0, help="seconds between the kill and the start")
    parser.add_argument("--rate", type=float, default=330.0, help="connections a second while they come first")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    words = ["--hold", str(_HOLD), "--workers", str(arguments.workers), "--log-retention-hours", "0"]
    with scene(*words, uncapped=True) as stage:
        print(json.dumps(measure(stage, arguments.nodes, arguments.down, arguments.rate), indent=1))


if __name__ == "__main__":
    main()
