"""Figures over time: samples, the curves that they make, and the charts of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor

from osqtwist.history import Sampling
from osqtwist.metrics import Metrics
from osqtwist.sample import FIGURES, SPANS, Sample, curves
from osqtwist.storage.memory import MemoryStores
from osqtwist.web.pages.charts import chart, known_part, round_size, round_up
from osqtwist.web.pages.units import ago, amount, moment, size, span
from tests.harness import InMemoryServer
from tests.stores import RealValkey, valkey

HOUR, DAY = SPANS
UNTIL = 1_790_000_000.0


def sample(process: str, at: float, **values: float) -> Sample:
    return Sample(process=process, at=UNTIL + at, values=values)


def last(name: str, samples: list[Sample], count: int = 3) -> list[float | None]:
    return curves(samples, HOUR, UNTIL)[name][-count:]


def test_a_rate_is_what_was_counted_in_between() -> None:
    """By each process, and summed."""
    samples = [sample("a", at, log_lines=100 + at * 5) for at in (-20, -10, 0)]
    assert last("log_lines", samples) == [None, 5, 5]
    samples += [sample("b", at, log_lines=at * 2 + 40) for at in (-19.5, -9.5)]
    assert last("log_lines", samples) == [None, 5, 7]


def test_a_restart_is_no_fall() -> None:
    """A new process begins anew, and nothing is told of the time between."""
    samples = [sample("a", -30, log_lines=1e6), sample("a", -20, log_lines=1e6 + 10)]
    samples += [sample("a2", -10, log_lines=5), sample("a2", 0, log_lines=25)]
    assert last("log_lines", samples, 4) == [None, 1, None, 2]
    assert last("log_lines", [sample("a", -300, log_lines=0), sample("a", 0, log_lines=1000)]) == [None] * 3


def test_what_the_store_knows_is_not_summed() -> None:
    """Each process says the same of it; what is of each process is."""
    samples = [sample(each, 0, nodes=7, connections=3) for each in ("a", "b")]
    assert last("nodes", samples, 1) == [7]
    assert last("connections", samples, 1) == [6]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-4000, 100), st.floats(0, 1e9)), max_size=40))
def test_curves_are_as_long_as_their_span(made: list[tuple[str, float, float]]) -> None:
    """Whatever the samples are; nothing is less than nothing."""
    samples = [sample(process, at, nodes=value, log_lines=value) for process, at, value in made]
    for each in SPANS:
        found = curves(samples, each, UNTIL)
        assert set(found) == {figure.name for figure in FIGURES}
        for points in found.values():
            assert len(points) == each.points
            assert all(value is None or value >= 0 for value in points)


def test_every_figure_is_a_metric() -> None:
    """Or it would always be nothing."""
    names = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples}
    families = {metric.name for metric in Metrics().registry.collect()}
    for figure in FIGURES:
        assert figure.metric in names or figure.metric.removesuffix("_total") in families, figure


def test_samples_are_kept_and_read(tmp_path: Path) -> None:
    """One write for each, whatever there is; none while the store is away, and no harm done."""
    server = InMemoryServer(tmp_path)
    sampling = Sampling(server.reactor, server.stores, server.inventory, server.sinks, "me")
    sampling.startService()
    server.turn(10)
    server.enroll()
    for _ in range(5):
        server.turn(10)
    server.down()
    server.turn(10)
    server.down(False)
    server.turn(10)
    code, found = server.operate("/api/v1/history")
    assert (code, found["span"], found["step"], len(found["figures"]["nodes"])) == (200, "hour", 10, 360)
    assert found["figures"]["nodes"][-1] == 1
    assert 0.1 in found["figures"]["enrollments"]
    code, found = server.operate("/api/v1/history?span=day")
    assert (code, found["step"], len(found["figures"]["nodes"])) == (200, 300, 288)
    assert server.operate("/api/v1/history?span=year")[0] == 400
    assert len(server.await_(server.stores.history.since("day", 0))) == 1
    sampling.stopService()
    server.stop()


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.3, 0.3), (1, 1), (4, 5), (9, 10), (10, 10), (11, 15), (1234, 1500), (0.07, 0.08)]
)
def test_scales_are_round(value: float, top: float) -> None:
    """1, 1.5, 2, 3, 5, 8."""
    assert round_up(value) == pytest.approx(top)


def test_sizes_are_round_in_their_unit() -> None:
    """1.5 MiB, not 1.43."""
    assert [size(round_size(each)) for each in (0, 900, 1.2 * 2**20, 2**30)] == ["1 B", "1000 B", "1.5 MiB", "1.0 GiB"]


def test_a_chart_has_words() -> None:
    """For whoever cannot see it; a limit is shown when it is near."""
    made = chart("Nodes", [("online", [None, 1.0, 4.0, 2.0])], 10, UNTIL, amount, limit=5.0)
    assert made.words == "Nodes. online: 2 now, from 1 to 4 in the last 40 s."
    assert made.limit == pytest.approx(4)
    assert made.curves[0].path.startswith("M200.0,")
    assert chart("Nodes", [("online", [1.0])], 10, UNTIL, amount, limit=5.0).limit is None
    none = chart("Nodes", [("online", [None, None])], 10, UNTIL, amount)
    assert (none.has_data, none.words) == (False, "Nodes. Nothing is known yet.")


def test_what_is_not_known_yet_takes_no_room() -> None:
    """But for some."""
    assert known_part({"a": [None] * 8 + [1.0, 2.0], "b": [None] * 10}, 4) == {
        "a": [None, None, 1.0, 2.0],
        "b": [None] * 4,
    }
    assert len(known_part({"a": [1.0] * 10}, 4)["a"]) == 10


def test_units() -> None:
    """As people read them."""
    assert [size(each) for each in (0, 1023, 1024, 10 * 2**20, 2**50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "10.0 MiB",
        "1024 TiB",
    ]
    assert [span(each) for each in (1, 119, 120, 7200, 86400, 2 * 86400)] == [
        "1 s",
        "119 s",
        "2 min",
        "2 h",
        "24 h",
        "2 d",
    ]
    assert (ago(None, 0), ago(100, 160), ago(160, 100)) == ("never", "60 s ago", "in 60 s")
    assert (moment(0), moment(1e30), moment(1_790_000_000)) == ("", "", "2026-09-21T14:13:20Z")
    assert (amount(0.25), amount(12), amount(20000)) == ("0.2", "12", "20\u202f000")


@pytest.fixture(scope="module")
def running() -> Iterator[RealValkey]:
    with valkey() as started:
        yield started


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest, running: RealValkey) -> AsyncIterator[Any]:
    """An IHistoryStore, in memory and for real."""
    clock: Any = reactor
    stores: Any = MemoryStores(clock) if request.param == "memory" else running.stores(reactor)
    await stores.ready()
    yield stores.history
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_series_are_bounded_by_time(store: Any) -> None:
    """What is older goes with the next sample; two processes may say the same."""
    first, second, third = (sample("a", at, nodes=1.5) for at in (0, 10, 20))
    await store.add(first, {"hour": 0.0, "day": 0.0})
    await store.add(second, {"hour": 0.0})
    await store.add(sample("b", 10, nodes=1.5), {"hour": UNTIL + 5})
    assert [each.at - UNTIL for each in await store.since("hour", 0)] == [10, 10]
    await store.add(third, {"hour": UNTIL + 20})
    assert (await store.since("hour", 0), await store.since("day", 0)) == ([third], [first])
    assert await store.since("day", UNTIL + 1) == []
