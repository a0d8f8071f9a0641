"""``python -m bench``: the tables of ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs

from bench import logmemory, logs, others, queries1000, servers
from bench.servers import Certificates, Measured

ROUTES = ("enroll", "config", "log", "distributed_read")
VERSIONS = {"1.2": "TLSv1_2", "1.3": "TLSv1_3"}
KINDS = ("P-256", "RSA-2048")
_LINE = {"name": "processes", "hostIdentifier": "h", "unixTime": 1790000000, "action": "added"}


@attrs.define
class Bench:
    """One run: how many connections in each measurement, how often, and what came of it."""

    count: int
    rounds: int
    threads: int = 4
    rows: list[dict[str, Any]] = attrs.field(factory=list)

    def load(self, server: Measured, certificates: Certificates, version: str, request: str, expected: str) -> Any:
        """Have the load made, and see what it cost the server."""
        order = {
            "ca": certificates.path("ca.pem"),
            "cert": certificates.path("node.pem"),
            "key": certificates.path("node.key"),
            "version": VERSIONS[version],
            "port": server.port,
            "request": request,
            "expected": expected,
            "count": self.count,
            "threads": self.threads,
        }
        before, before_beside = server.cpu(), server.cpu_beside()
        words = [sys.executable, "-m", "bench.load"]
        done = subprocess.run(words, input=json.dumps(order), capture_output=True, text=True, timeout=120, check=True)
        result = json.loads(done.stdout)
        if result["failed"]:
            raise RuntimeError(f"{server.name}: {result['failed']} requests failed: {result['failures']}")
        result["cpu"] = (server.cpu() - before) / result["count"]
        result["cpu_beside"] = (server.cpu_beside() - before_beside) / result["count"]
        return result

    def measure(self, folder: Path, kind: str) -> None:
        """Everything with one kind of key."""
        certificates = Certificates.mint(folder / "certs", kind)
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(servers.osqtwist(folder / "o", certificates))
            logging = stack.enter_context(servers.osqtwist(folder / "l", certificates, request_log=True))
            plain = [stack.enter_context(servers.http_server(folder / "h", certificates))]
            if servers.nginx_program():
                plain.append(stack.enter_context(servers.nginx(folder / "n", certificates)))
            if others.has_aiohttp():
                plain.append(stack.enter_context(others.aiohttp_server(folder / "a", certificates)))
            if others.go_program():
                plain.append(stack.enter_context(others.go_server(folder / "g", certificates)))
            etag = self.etag_of(ours, certificates)
            for version in VERSIONS:
                cases = [(ours, route, *_request(route, etag)) for route in ROUTES]
                cases += [(attrs.evolve(logging, name="osqtwist, request log"), "log", *_request("log", etag))]
                cases += [(server, "fixed answer", _request("log", etag)[0], "{}") for server in plain]
                found: dict[tuple[str, str], list[Any]] = {}
                for number in range(self.rounds + 1):
                    for server, route, request, expected in cases:
                        result = self.load(server, certificates, version, request, expected)
                        # The first round warms up.
                        if number:
                            found.setdefault((server.name, route), []).append(result)
                self.keep(kind, version, found)

    def keep(self, kind: str, version: str, found: dict[tuple[str, str], list[Any]]) -> None:
        """Note the medians, and the ratio to nginx."""
        cpu = {case: statistics.median(each["cpu"] for each in results) for case, results in found.items()}
        floor = cpu.get(("nginx", "fixed answer"))
        for (name, route), results in found.items():
            self.rows.append(
                {
                    "server": name,
                    "route": route,
                    "tls": version,
                    "keys": kind,
                    "cpu_us": round(cpu[name, route] * 1e6),
                    "spread_us": [round(pick(each["cpu"] for each in results) * 1e6) for pick in (min, max)],
                    "store_us": round(statistics.median(each["cpu_beside"] for each in results) * 1e6),
                    "load_us": round(statistics.median(each["client_cpu"] for each in results) * 1e6),
                    "to_nginx": round(cpu[name, route] / floor, 2) if floor else None,
                }
            )
            print("  ".join(f"{key}={value}" for key, value in self.rows[-1].items()), file=sys.stderr, flush=True)

    def etag_of(self, server: Measured, certificates: Certificates) -> str:
        """What a node that has the configuration says."""
        import http.client

        context = ssl.create_default_context(cafile=certificates.path("ca.pem"))
        context.load_cert_chain(certificates.path("node.pem"), certificates.path("node.key"))
        connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", "/config", b'{"node_key":"","etag":""}')
            return str(json.loads(connection.getresponse().read())["etag"])


@attrs.frozen
class Report:
    """What came of a benchmark: a table to read, the rows behind it, and how they came about."""

    table: str
    rows: Any
    said: str


def _request(route: str, etag: str) -> tuple[str, str]:
    lines = [{**_LINE, "columns": {"pid": str(number), "name": "x" * 60}} for number in range(10)]
    path, body, expected = {
        "enroll": ("/enroll", {"enroll_secret": "bench-secret", "host_identifier": "h"}, '{"node_key":'),
        "config": ("/config", {"node_key": "", "etag": etag}, '{"etag":"ok"}'),
        "log": ("/log", {"node_key": "", "log_type": "result", "data": lines}, "\r\n\r\n{}"),
        "distributed_read": ("/distributed/read", {"node_key": ""}, "\r\n\r\n{}"),
    }[route]
    text = json.dumps(body, separators=(",", ":"))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: osquery/5.23.1\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}", expected


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| keys | TLS | server | route | CPU µs | min-max | store µs | of nginx |",
        "|---|---|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        spread = "-".join(map(str, row["spread_us"]))
        ratio = row["to_nginx"] if row["to_nginx"] is not None else "-"
        lines.append(
            f"| {row['keys']} | {row['tls']} | {row['server']} | {row['route']} | {row['cpu_us']} | {spread} "
            f"| {row['store_us']} | {ratio} |"
        )
    return "\n".join(lines)


def connections(folder: Path, arguments: argparse.Namespace) -> Report:
    """Connections with one request each, beside other servers."""
    quick = arguments.quick
    bench = Bench(arguments.count or (100 if quick else 400), arguments.rounds or (1 if quick else 3))
    if not servers.nginx_program():
        print("nginx is not installed (Debian: nginx-light): no floor to compare with", file=sys.stderr)
    for kind in KINDS:
        place = folder / kind
        place.mkdir()
        bench.measure(place, kind)
    versions = [servers.nginx_version()] if servers.nginx_program() else []
    said = [f"{bench.count} connections a measurement, median of {bench.rounds}", *versions, *others.versions()]
    return Report(table(bench.rows), bench.rows, "; ".join(said))


def log_lines(folder: Path, arguments: argparse.Namespace) -> Report:
    """Log lines on their way to a file."""
    bench = logs.LogBench(arguments.rounds or (1 if arguments.quick else 5), 0.25 if arguments.quick else 1.0)
    bench.run(folder)
    rows, bare = bench.rows, bench.bare_rows
    return Report(logs.table(rows, bare), {"cases": rows, "bare": bare}, f"median of {bench.rounds}")


def log_memory(folder: Path, arguments: argparse.Namespace) -> Report:
    """Memory while a sink is down."""
    seconds = arguments.seconds or (15.0 if arguments.quick else 60.0)
    rows = logmemory.measure(folder, seconds)
    rate = logmemory.RATE * logmemory.LINES
    return Report(logmemory.table(rows), rows, f"{seconds:g} s at {rate:g} lines a second to each server")


def many_queries(folder: Path, arguments: argparse.Namespace) -> Report:
    """A thousand open queries."""
    quick = arguments.quick
    count, rounds = arguments.count or (100 if quick else 400), arguments.rounds or (1 if quick else 5)
    found = queries1000.measure(count, rounds, 2_000 if quick else 10_000)
    return Report(queries1000.table(found), found, f"{count} reads a measurement, median of {rounds}")


BENCHMARKS = {
    "connections": connections,
    "logs": log_lines,
    "log-memory": log_memory,
    "queries1000": many_queries,
}


def main() -> None:
    """Run one."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("benchmark", nargs="?", choices=BENCHMARKS, default="connections")
    parser.add_argument("--quick", action="store_true", help="fewer of everything: under 40 s")
    parser.add_argument("--count", type=int, help="connections in each measurement")
    parser.add_argument("--rounds", type=int, help="measurements of each case")
    parser.add_argument("--seconds", type=float, help="how long log-memory looks (60)")
    arguments = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="osqtb-") as folder:
        report = BENCHMARKS[arguments.benchmark](Path(folder), arguments)
    print(f"\nPython {platform.python_version()}, {ssl.OPENSSL_VERSION} (load)")
    print(f"{report.said}; {time.time() - began:.0f} s in all\n")
    print(report.table)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    name = "" if arguments.benchmark == "connections" else f"{arguments.benchmark}-"
    (results / f"{name}{int(began)}.json").write_text(json.dumps(report.rows, indent=1))


if __name__ == "__main__":
    main()
