"""The log benchmarks measure what they say, of real processes; what they find is no test's business."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from bench import capacity, logmemory, logs, queries1000, revocation
from bench.logload import lines_of
from bench.pipeline import PARTS


@pytest.fixture
def folder() -> Iterator[Path]:
    # A socket's path is short.
    with tempfile.TemporaryDirectory(prefix="osqtb-") as name:
        yield Path(name)


def test_no_two_lines_of_a_load_are_the_same() -> None:
    """Numbered lines are JSON and all different, so that no post is taken for one that came before."""
    lines = json.loads(lines_of(0, 5)) + json.loads(lines_of(5, 5))
    assert len({json.dumps(line) for line in lines}) == 10


def test_a_tail_counts_whole_lines(folder: Path) -> None:
    """Lines are counted as they are written, each once and only when it is whole."""
    path = folder / "lines"
    path.write_bytes(b"one\ntw")
    tail = logs.Tail(path)
    assert tail.look() == 1
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert tail.look() == 3
    tail.close()


def test_memory_that_keeps_what_comes_is_not_flat() -> None:
    """Memory that grows with what is posted is called so; memory that jumps at first and then stays is flat."""
    leaking, steady = logmemory.Memory("down", mib_posted=100.0), logmemory.Memory("down", mib_posted=100.0)
    for second in range(60):
        leaking.samples.append((float(second), {"delivery": (50 + second) * 1024}))
        steady.samples.append((float(second), {"delivery": (50 + min(second, 9)) * 1024}))
    assert leaking.row("delivery")["mib_per_minute"] == pytest.approx(60)
    assert not leaking.row("delivery")["is_flat"]
    assert steady.row("delivery")["is_flat"]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_lines_are_measured_from_socket_to_file(folder: Path) -> None:
    """Each case is measured until its last line is in the file, by process, and beside a bare XADD."""
    bench = logs.LogBench(rounds=1, share=0.02, cases=(logs.Case(50, 1000), logs.Case(50, 1000, keep=True)))
    bench.run(folder)
    assert len(bench.rows) == 2
    for row in bench.rows:
        assert row["lines_per_second"] > 0
        assert row["all_us"] == pytest.approx(sum(row[f"{part}_us"] for part in PARTS), abs=0.1)
    # Each case twice, for the first round warms up.
    assert sum((folder / f"{number}.jsonl").read_bytes().count(b"\n") for number in (0, 1)) == 4 * 20 * 50
    assert "| new | append | 50 |" in logs.table(bench.rows, bench.bare_rows)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_memory_is_measured_beside_a_sink_that_works(folder: Path) -> None:
    """One destination gets every line, the other none, and of both servers each process is sampled."""
    rows = logmemory.measure(folder, 4.0)
    assert {(row["process"], row["sink"]) for row in rows} == {
        (part, sink) for part in PARTS for sink in ("up", "down")
    }
    by_sink = {row["sink"]: row for row in rows}
    assert by_sink["up"]["lines_taken"] >= logmemory.BACKLOG * 1000
    assert by_sink["down"]["lines_taken"] == 0
    assert by_sink["down"]["requests"] > 0
    assert "| delivery | down |" in logmemory.table(rows)


def test_the_model_is_what_its_inputs_say() -> None:
    """Twice the nodes need twice of everything that is not rounded, and the first limit is where one host is full."""
    host = capacity.Host()
    one, two = (capacity.needs(count, capacity.STOCK, capacity.Costs(), host) for count in (100_000, 200_000))
    for name in ("connections a second", "cores", "memory GB", "log Redis cores", "main Redis GB"):
        assert two[name] == pytest.approx(2 * one[name])
    limits = capacity.first_limits(capacity.STOCK, capacity.Costs(), host)
    full = capacity.needs(int(limits["host CPU"]), capacity.STOCK, capacity.Costs(), host)
    assert full["cores"] == pytest.approx(host.cores, rel=0.001)
    assert full["hosts"] == 1


def test_waiting_grows_with_the_load_and_a_herd_takes_its_work() -> None:
    """And the same seed gives the same figures."""
    calm, busy = (capacity.waits(share, 4, 5.0, capacity.Costs()) for share in (0.3, 0.9))
    assert calm["p99"] < busy["p99"]
    assert capacity.waits(0.3, 4, 5.0, capacity.Costs()) == calm
    assert capacity.herd(2000, 2, 0.001, 3.0) >= 1.0
    assert capacity.herd(2000, 1, 0.001, 3.0) > capacity.herd(2000, 4, 0.001, 3.0)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest_twisted.ensureDeferred
async def test_reads_are_measured_beside_open_queries() -> None:
    """With every kind of target; a look that was done once is quick, and those who are meant are reached."""
    reads = await deferToThread(queries1000.over_connections, 8, 1)
    found = {"reads": reads, "looks": queries1000.in_memory()}
    found["issued"] = await queries1000.issued_to_held(reactor, 1000)
    assert [row["open"] for row in found["reads"]] == ["none", *queries1000.CASES]
    assert all(row["again_us"] < 100 for row in found["looks"])
    assert found["issued"]["reached"] == queries1000.OPEN
    assert "| for ten tags |" in queries1000.table(found)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_revocations_are_measured_to_the_closed_socket() -> None:
    """Every way, over workers and over servers; each read that was held is closed, and by nobody's patience."""
    rows = revocation.run(4)
    assert {(row["over"], row["way"]) for row in rows} == {
        (place, way) for place in revocation.PLACES for way in revocation.WAYS
    }
    assert all(row["closed"] == sum(row["held"]) == 4 for row in rows)
    assert all(row["max_ms"] < 10_000 for row in rows)
    assert "| two workers | deny list entry |" in revocation.table(rows)
