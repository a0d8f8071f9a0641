"""
``python -m bench.capacity``: what so many nodes need, by a model; what waiting does to it, by simulation.

The model multiplies what nodes do with what was measured (``docs/benchmarks.md``); ``--measure`` measures anew what
the store needs for a log post and a sighting.  The simulation lets connections come to the processes of several hosts
and wait in line.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from osqtwist.capacity import LIMITS, MIXES, STOCK, Costs, Host, figure, first_limits, needs


@attrs.define
class Line:
    """Processes that take connections as they come, each in turn, from a queue of its own."""

    free_at: list[float]
    service: Callable[[], float]

    def take(self, now: float, process: int) -> float:
        """When a connection that comes now is done."""
        done = max(now, self.free_at[process]) + self.service()
        self.free_at[process] = done
        return done


def waits(utilisation: float, processes: int, seconds: float, costs: Costs, seed: int = 1) -> dict[str, float]:
    """
    Milliseconds from a connection's arrival to its answer.

    Arrivals are by chance, each goes to a process by chance, as the kernel and a balancer spread them; the work of one
    is spread too, since a config with news or a log post costs more than a read.
    """
    chance = random.Random(seed)
    mean = costs.connection_us / 1e6
    line = Line([0.0] * processes, lambda: chance.lognormvariate(math.log(mean) - 0.08, 0.4))
    rate = utilisation * processes / mean
    now, found = 0.0, []
    while now < seconds:
        now += chance.expovariate(rate)
        found.append((line.take(now, chance.randrange(processes)) - now) * 1000)
    found.sort()
    return {
        "p50": found[len(found) // 2],
        "p99": found[len(found) * 99 // 100],
        "max": found[-1],
    }


def herd(nodes: int, processes: int, seconds_each: float, away: float, backlog: int = 4096, seed: int = 1) -> float:
    """
    Seconds from the moment that serving begins again until every node holds a read again.

    All connections broke at once.  A node tries at once and again 1 s and 4 s after a failure, as osquery does, then
    each second (its pause); a try fails while nobody listens, and waits in the kernel's queue once somebody does.  Past
    the end of the queue TCP sends again after 1, 3, 7 and 15 s.
    """
    chance = random.Random(seed)
    line = Line([away] * processes, lambda: seconds_each)
    queue: list[list[float]] = [[] for _ in range(processes)]
    events = [(chance.uniform(0.0, 0.5), number, 0, 0.0) for number in range(nodes)]
    heapq.heapify(events)
    last = 0.0
    while events:
        now, number, tries, first = heapq.heappop(events)
        if now < away:
            pause = (1.0, 4.0, 1.0)[min(tries, 2)]
            heapq.heappush(events, (now + pause + chance.uniform(0, 0.05), number, tries + 1, 0.0))
            continue
        process = chance.randrange(processes)
        waiting = queue[process]
        while waiting and waiting[0] <= now:
            heapq.heappop(waiting)
        if len(waiting) >= backlog:
            first = first or now
            again = next((first + after for after in (1.0, 3.0, 7.0, 15.0) if first + after > now), 0.0)
            heapq.heappush(events, (again or now + 1.0, number, tries, first if again else 0.0))
            continue
        done = line.take(now, process)
        heapq.heappush(waiting, done)
        last = max(last, done)
    return last - away


def measure_store(folder: Path) -> dict[str, float]:
    """Microseconds of Valkey's CPU for a log post of 2 kB, and for a node that was seen."""
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    from bench.servers import cpu_of
    from osqtwist.logbatch import LogBatch
    from osqtwist.node import Sighting
    from osqtwist.storage.embedded import EmbeddedValkey
    from osqtwist.storage.redis import RedisStores

    found: dict[str, float] = {}
    data = b"[" + b",".join(b'{"name":"n","columns":"%0170d"}' % number for number in range(10)) + b"]"

    async def work(reactor: Any) -> None:
        valkey = EmbeddedValkey(reactor, folder)
        await valkey.start()
        stores = RedisStores(reactor, valkey.place)
        await stores.ready()
        pid = _process_of(folder)
        try:
            for kind, count, each in (
                ("append_us", 20_000, _append(stores, LogBatch, data)),
                _sightings(stores, Sighting),
            ):
                before = cpu_of(pid)
                for _ in range(count // 100):
                    for asked in [Deferred.fromCoroutine(each()) for _ in range(100)]:
                        await asked
                found[kind] = (cpu_of(pid) - before) * 1e6 / count / (500 if kind == "sighting_us" else 1)
        finally:
            await stores.close()
            await valkey.stop()

    try:
        react(lambda reactor: Deferred.fromCoroutine(work(reactor)))
    except SystemExit as ended:
        if ended.code:
            raise
    return found


def _append(stores: Any, kind: Any, data: bytes) -> Callable[[], Any]:
    numbers = iter(range(10**9))

    def one() -> Any:
        number = next(numbers)
        batch = kind(
            node_id=f"{number % 5000:020}",
            node_name="n",
            log_type="result",
            data=data,
            count=10,
            digest=f"{number:032x}",
            received_at=1e9 + number,
        )
        return stores.logs.append(batch)

    return one


def _sightings(stores: Any, kind: Any) -> tuple[str, int, Callable[[], Any]]:
    moments = iter(range(10**9))

    def one() -> Any:
        moment = next(moments)
        start = moment % 20 * 500
        return stores.nodes.saw(
            {
                f"{start + number:020}": kind(
                    seen_at=float(moment), first_seen_at=1.0, address="10.0.0.1", user_agent="o"
                )
                for number in range(500)
            }
        )

    return "sighting_us", 200, one


def _process_of(folder: Path) -> int:
    (found,) = [each for each in Path("/proc").glob("[0-9]*") if str(folder).encode() in _words_of(each)]
    return int(found.name)


def _words_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def tables(sizes: list[int], host: Host) -> Iterator[str]:
    """Everything, as Markdown."""
    for name, mix in MIXES.items():
        columns = [needs(size, mix, Costs(), host) for size in sizes]
        yield f"\n{name}: {mix.connections:.3f} connections a second and node\n"
        yield "| | " + " | ".join(f"{size:,} nodes" for size in sizes) + " |"
        yield "|---|" + "--:|" * len(sizes)
        for key in list(columns[0])[1:]:
            yield f"| {key} | " + " | ".join(figure(column[key]) for column in columns) + " |"
        limits = first_limits(mix, Costs(), host)
        yield "\none of each is good for: " + ", ".join(f"{key} {limits[key]:,.0f} nodes" for key in LIMITS)
    yield "\n| busy | p50 ms | p99 ms | max ms |\n|--:|--:|--:|--:|"
    for utilisation in (0.3, 0.5, 0.7, 0.8, 0.9):
        found = waits(utilisation, 8, 60.0, Costs())
        yield f"| {utilisation:.0%} | {found['p50']:.1f} | {found['p99']:.1f} | {found['max']:.0f} |"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    parser.add_argument("--nodes", type=int, action="append", help="may be given more than once")
    parser.add_argument("--cores", type=int, default=8, help="of a host")
    parser.add_argument("--memory", type=float, default=16.0, help="of a host, GB")
    parser.add_argument("--measure", action="store_true", help="measure what the store needs, and end")
    parser.add_argument("--json", action="store_true", help="the stock mix, for programs")
    arguments = parser.parse_args()
    host = Host(arguments.cores, arguments.memory * 1e9, arguments.cores)
    if arguments.measure:
        with tempfile.TemporaryDirectory(prefix="osqtb-") as folder:
            print(json.dumps(measure_store(Path(folder))))
    elif arguments.json:
        print(json.dumps([needs(size, STOCK, Costs(), host) for size in arguments.nodes or [100_000]]))
    else:
        print("\n".join(tables(arguments.nodes or [10_000, 100_000, 1_000_000], host)))


if __name__ == "__main__":
    main()
