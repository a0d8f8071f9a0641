"""
``python -m bench.mix``: how many nodes a processor serves.

Each node has a distributed read held for 10 s with a pause of 1 s, asks for its config once a minute with the etag of
the one it has, and posts 2 kB of logs every 10 s.  What the server's processes use for so many nodes says how many
would use one processor up.  nginx, with the same certificates and a fixed answer, says what the connections alone
would cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench import servers
from bench.scene import Fleet, Scene, cpu, scene

MIX = "read=1,config=60,log=10"
_PER_NODE = 0.21


def ours(stage: Scene, nodes: int, seconds: float, groups: dict[str, str]) -> dict[str, Any]:
    """The mix, once it is steady."""
    warm = 14.0
    fleet = stage.fleet(nodes, MIX, over=11, **groups)
    try:
        first = fleet.until(lambda line: line["at"] >= warm, within=60)
        parts = {pid: cpu(pid) for pid in stage.pids()}
        last = fleet.until(lambda line: line["at"] >= warm + seconds, within=seconds + 30)
        parts = {pid: cpu(pid) - before for pid, before in parts.items()}
        report = fleet.end()
    finally:
        fleet.kill()
    span = last["at"] - first["at"]
    answered = {kind: count - first["answered"].get(kind, 0) for kind, count in last["answered"].items()}
    requests, used = sum(answered.values()), last["server_cpu"] - first["server_cpu"]
    store = last["store_cpu"] - first["store_cpu"]
    return {
        "nodes": nodes,
        "requests_per_node_second": round(requests / span / nodes, 4),
        "requests": answered,
        "server_us": round(used / requests * 1e6),
        "store_us": round(store / requests * 1e6),
        "processor_percent": round(used / span * 100, 1),
        "nodes_per_core": round(nodes * span / used),
        "nodes_per_core_without_store": round(nodes * span / (used - store)),
        "load_us": round((last["cpu"] - first["cpu"]) / requests * 1e6),
        "late_p99_ms": report["late_ms"]["p99"],
        "ms": {kind: route["ms"] for kind, route in report["routes"].items()},
        "failed": {kind: route["problems"] for kind, route in report["routes"].items() if route["failed"]},
    }


def floor(stage: Scene, seconds: float, rounds: int, rate: float, groups: dict[str, str]) -> float:
    """What a connection with a log post costs nginx at so many a second, in seconds of CPU."""
    certificates = servers.Certificates(stage.folder / "certs")
    found = []
    with tempfile.TemporaryDirectory(prefix="osqtb-") as folder, servers.nginx(Path(folder) / "n", certificates) as it:
        for _ in range(rounds):
            fleet = _against(it.port, stage, rate, groups)
            try:
                first = fleet.until(lambda line: line["at"] >= 1, within=30)
                before = it.cpu()
                last = fleet.until(lambda line: line["at"] >= 1 + seconds, within=seconds + 30)
                found.append((it.cpu() - before) / (last["answered"]["log"] - first["answered"]["log"]))
            finally:
                fleet.kill()
    return statistics.median(found)


def _against(port: int, stage: Scene, rate: float, groups: dict[str, str]) -> Fleet:
    elsewhere = Scene(stage.folder, port, [])
    return elsewhere.fleet(200, f"log={200 / rate:.3f}", over=0.5, **groups)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.mix", description=__doc__)
    parser.add_argument("--nodes", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=35.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--groups", default="X25519", help="of the key exchange; nginx's OpenSSL may know no ML-KEM")
    arguments = parser.parse_args()
    groups = {"groups": arguments.groups} if arguments.groups else {}
    with scene("--workers", str(arguments.workers)) as stage:
        has_nginx = bool(servers.nginx_program())
        # The same number of connections a second: a busier server finds more of what it needs in the caches.
        rate = arguments.nodes * _PER_NODE
        costs = [floor(stage, 5, 1, rate, groups)] if has_nginx else []
        found = ours(stage, arguments.nodes, arguments.seconds, groups)
        costs += [floor(stage, 5, 2, rate, groups)] if has_nginx else []
    if costs:
        cost = statistics.median(costs)
        allowed = 1 / (found["requests_per_node_second"] * cost)
        found |= {
            "nginx": servers.nginx_version(),
            "nginx_us": round(cost * 1e6),
            "nodes_per_core_nginx": round(allowed),
            "of_nginx": round(found["nodes_per_core"] / allowed, 3),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
