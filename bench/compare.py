"""
``python -m bench.compare before=FOLDER after=FOLDER``: what a request costs in two or more trees of this project.

One server of each tree, and nginx, get the same connections in turn, forth and back, so that what else the machine
does falls on all of them.  CPU is that of the whole server process, kernel included, to the nanosecond, which is why
few connections a measurement and many rounds serve better than the other way round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from bench import servers
from bench.__main__ import VERSIONS, Bench, _request
from bench.servers import Certificates, Measured


def cpu(server: Measured) -> float:
    """Microseconds of CPU so far, of all threads of a server's processes."""
    tasks = [task for pid in server.pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e3


@contextlib.contextmanager
def of_tree(tree: Path, folder: Path, certificates: Certificates) -> Iterator[Measured]:
    """The server as it is in a tree, with the packages of this environment."""
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tree.absolute())
    try:
        context = servers.osqtwist(folder, certificates)
        server = context.__enter__()
    finally:
        if inherited is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = inherited
    with contextlib.ExitStack() as stack:
        stack.push(context)
        yield server


def quiet(values: list[float]) -> float:
    """The fifth from below of each: what it costs when the machine does little else."""
    return sorted(values)[len(values) // 5]


@attrs.define
class Comparison:
    """What was found: microseconds by server and route."""

    bench: Bench
    certificates: Certificates
    found: dict[tuple[str, str], list[float]] = attrs.field(factory=dict)

    def measure(self, cases: list[tuple[Measured, str, str, str]], version: str) -> None:
        """All rounds with one version of TLS; the first warms up."""
        self.found.clear()
        for number in range(self.bench.rounds + 1):
            for server, route, request, expected in cases if number % 2 else reversed(cases):
                before = cpu(server)
                self.bench.load(server, self.certificates, version, request, expected)
                if number:
                    cost = (cpu(server) - before) / self.bench.count
                    self.found.setdefault((server.name, route), []).append(cost)

    def tell(self, kind: str, version: str, first: str) -> None:
        """Print a row for each server and route."""
        floor = self.found.get(("nginx", "fixed answer"))
        for (name, route), values in self.found.items():
            base = self.found.get((first, route), values)
            ratios = [
                f"{statistics.median(one / other for one, other in zip(values, others, strict=True)):.2f}"
                f" ({quiet(values) / quiet(others):.2f})"
                for others in (base, floor)
                if others
            ]
            print(
                f"| {kind} | {version} | {name} | {route} | {statistics.median(values):.0f} | {quiet(values):.0f} "
                f"| {' | '.join(ratios)} |",
                flush=True,
            )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("trees", nargs="+", metavar="NAME=FOLDER", help="the first is what the others are compared to")
    parser.add_argument("--count", type=int, default=120, help="connections in each measurement")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--keys", default="P-256", help="such as P-256,P-384,RSA-2048")
    parser.add_argument("--routes", default="config", help="such as enroll,config,log,distributed_read")
    parser.add_argument("--versions", default=",".join(VERSIONS))
    arguments = parser.parse_args()
    bench = Bench(arguments.count, arguments.rounds)
    trees = dict(each.split("=", 1) for each in arguments.trees)
    print("| keys | TLS | server | route | CPU µs | quiet | of the first (quiet) | of nginx (quiet) |")
    print("|---|---|---|---|--:|--:|--:|--:|")
    for kind in arguments.keys.split(","):
        with tempfile.TemporaryDirectory(prefix="osqtc-") as place, contextlib.ExitStack() as stack:
            certificates = Certificates.mint(Path(place) / "certs", kind)
            cases = []
            for name, tree in trees.items():
                server = stack.enter_context(of_tree(Path(tree), Path(place) / name, certificates))
                server.name = name
                etag = bench.etag_of(server, certificates)
                cases += [(server, route, *_request(route, etag)) for route in arguments.routes.split(",")]
            if servers.nginx_program():
                plain = stack.enter_context(servers.nginx(Path(place) / "nginx", certificates))
                cases.append((plain, "fixed answer", _request("config", "")[0], "{}"))
            comparison = Comparison(bench, certificates)
            for version in arguments.versions.split(","):
                comparison.measure(cases, version)
                comparison.tell(kind, version, next(iter(trees)))


if __name__ == "__main__":
    main()
