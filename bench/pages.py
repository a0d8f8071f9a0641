"""
``python -m bench.pages``: what the operators' pages cost the server with many nodes in the store.

The store of a server that runs is filled with nodes and a whole history of figures; then each page is asked for as a
browser would, again and again.  Beside each is the CPU of the server, from
``/proc``.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.scene import Scene, cpu, scene
from osqtwist.node import CertificateRecord, Node, Sighting
from osqtwist.sample import FIGURES, SPANS, Sample
from osqtwist.storage.redis import RedisStores
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import RedisPlace

NODES = 20_000
PAGES = (
    "/",
    "/?span=day",
    "/nodes",
    "/nodes?online=1&offset=10000",
    "/nodes?where=tag:site-7",
    "/nodes?where=name:node-19999",
)
_DAY = 86400.0


def nodes(count: int, now: float) -> list[tuple[Node, Sighting]]:
    """So many, of which four in five are online for an hour from now."""
    made = []
    for number in range(count):
        certificate = CertificateRecord(
            identity=f"node-{number}",
            issuer=f"CN=CA {number % 3}",
            serial=f"{number:x}",
            fingerprint=f"{number:064x}",
            not_after=now + number % 400 * _DAY,
            key_type="P-256",
            tags=(f"site-{number % 40}",),
        )
        node = Node(
            node_id=f"{number:020x}",
            name=f"node-{number}",
            proof="certificate",
            host_identifier=f"host-{number}",
            platform_type="9",
            certificate=certificate,
            host_details={"os_version": {"platform": "ubuntu", "version": "24.04"}},
            enrolled_at=now - _DAY,
        )
        seen_at = now - _DAY if number % 5 == 0 else now + 3600
        made.append((node, Sighting(seen_at, now - _DAY, f"10.0.{number // 250}.{number % 250}", "osquery/5.23.1")))
    return made


def fill(stage: Scene, count: int) -> None:
    """Put nodes and history into the store of a server."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred, DeferredList

    loop: Any = reactor
    place = RedisPlace("unix", (), str(stage.folder / "state" / "store" / "valkey.sock"), Login())
    stores = RedisStores(loop, place, "osqtwist:")
    now = time.time()

    async def work() -> None:
        await stores.ready()
        made = nodes(count, now)
        for start in range(0, count, 200):
            part = made[start : start + 200]
            recording = [Deferred.fromCoroutine(stores.nodes.record(node)) for node, _ in part]
            await DeferredList(recording, fireOnOneErrback=True)
            await stores.nodes.saw({node.node_id: sighting for node, sighting in part})
        for span in SPANS:
            for index in range(span.points):
                values = {figure.name: float(index * 7 % 1000) for figure in FIGURES}
                sample = Sample(process="bench", at=now - index * span.step, values=values)
                await stores.history.add(sample, {span.name: 0.0})
        await stores.close()

    failed: list[Any] = []
    working = Deferred.fromCoroutine(work())
    working.addErrback(failed.append)
    working.addBoth(lambda _: loop.stop())
    loop.run()
    if failed:
        failed[0].raiseException()


class Browser:
    """Somebody signed in, on one connection for each request."""

    def __init__(self, stage: Scene) -> None:
        link = stage.admin("POST", "/api/v1/links", {})
        self.port = int(link["url"].rpartition(":")[2].partition("/")[0])
        answer = self._ask(link["path"], "")
        self.cookie = answer.getheader("Set-Cookie", "").partition(";")[0]

    def _ask(self, path: str, cookie: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("localhost", self.port, timeout=30)
        connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
        return connection.getresponse()

    def seconds_for(self, path: str) -> tuple[float, int]:
        """How long a page takes, and how many bytes it has."""
        begin = time.perf_counter()
        answer = self._ask(path, self.cookie)
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} was answered {answer.status}")
        return time.perf_counter() - begin, len(body)


def measure(stage: Scene, rounds: int, pages: Sequence[str] = PAGES) -> list[dict[str, Any]]:
    """Each page, so many times."""
    browser, found = Browser(stage), []
    for path in pages:
        browser.seconds_for(path)
        before = cpu(stage.pid)
        times = [browser.seconds_for(path) for _ in range(rounds)]
        each_cpu = (cpu(stage.pid) - before) / rounds
        wall = sorted(seconds for seconds, _ in times)
        found.append(
            {
                "page": path,
                "kib": round(times[0][1] / 1024, 1),
                "cpu_ms": round(each_cpu * 1000, 1),
                "median_ms": round(statistics.median(wall) * 1000, 1),
                "worst_ms": round(wall[-1] * 1000, 1),
            }
        )
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--rounds", type=int, default=30)
    words = parser.parse_args()
    with scene("--admin-port", "tcp:0:interface=127.0.0.1") as stage:
        fill(stage, words.nodes)
        print("| page | KiB | server's CPU ms | median ms | worst ms |\n|---|--:|--:|--:|--:|")
        for row in measure(stage, words.rounds):
            print(
                f"| `{row['page']}` | {row['kib']} | {row['cpu_ms']} | {row['median_ms']} | {row['worst_ms']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
