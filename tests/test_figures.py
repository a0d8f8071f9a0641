"""Figures of several processes, summed."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from osqtwist.figures import SummedFigures, figures_of


class Process:
    """The metrics of one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.asked = Counter("asked", "How often.", ["route"], registry=self.registry)
        self.took = Histogram("took", "How long.", buckets=(1, 2), registry=self.registry)
        self.open = Gauge("open", "How many.", registry=self.registry)
        self.expiry = Gauge("expiry", "When.", registry=self.registry)

    def send(self, to: SummedFigures) -> None:
        to.update(self, figures_of(self.registry, frozenset({"open"})))


def shown(figures: SummedFigures) -> dict[str, float]:
    lines = generate_latest(figures).decode().splitlines()  # type: ignore[arg-type]
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        if "_created" not in name
    }


def test_what_can_be_added_is_added() -> None:
    """Counters, histograms and the gauges named; what every process says alike stays what this one says."""
    own, one, two = Process(), Process(), Process()
    figures = SummedFigures(own.registry)
    for number, process in enumerate((own, one, two), 1):
        process.asked.labels(route="a").inc(number)
        process.took.observe(number - 0.5)
        process.open.set(number)
        process.expiry.set(100 * number)
    two.asked.labels(route="b").inc(7)
    one.send(figures)
    two.send(figures)
    one.send(figures)
    found = shown(figures)
    assert found == {
        'asked_total{route="a"}': 6,
        'asked_total{route="b"}': 7,
        'took_bucket{le="1.0"}': 1,
        'took_bucket{le="2.0"}': 2,
        'took_bucket{le="+Inf"}': 3,
        "took_count": 3,
        "took_sum": 4.5,
        "open": 6,
        "expiry": 100,
    }
    assert figures.value("asked_total") == 13
    assert figures.value_of(two, "asked_total") == 10
    assert figures.value_of(object(), "asked_total") == 0


def test_a_process_that_ended_keeps_what_it_counted() -> None:
    """No counter falls when a process dies and another begins at nothing; its gauges are gone."""
    own, one, two = Process(), Process(), Process()
    figures = SummedFigures(own.registry)
    one.asked.labels(route="a").inc(5)
    one.open.set(3)
    one.send(figures)
    figures.end(one)
    figures.end(one)
    two.asked.labels(route="a").inc(1)
    two.open.set(1)
    two.send(figures)
    found = shown(figures)
    assert (found['asked_total{route="a"}'], found["open"]) == (6, 1)
