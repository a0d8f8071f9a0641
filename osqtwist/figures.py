"""
Figures of several processes as one: each sends what it counted, and the sums are what Prometheus reads.

A process that ended keeps its share of every counter, so that no counter ever falls.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import msgspec
from prometheus_client import CollectorRegistry, Metric

# By metric, then by sample and labels.
_Sums = dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]


class Family(msgspec.Struct, frozen=True, array_like=True):
    """
    One metric.

    :ivar samples: name, labels and value of each.
    """

    name: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


def figures_of(registry: CollectorRegistry, gauges: frozenset[str]) -> list[Family]:
    """
    What of a registry may be added up: counters, histograms, and these gauges.

    Times of creation are left out, as a sum of them means nothing.
    """
    return [
        Family(
            metric.name,
            metric.type,
            [
                (sample.name, sample.labels, sample.value)
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ],
        )
        for metric in registry.collect()
        if metric.type in ("counter", "histogram") or metric.name in gauges
    ]


@attrs.define(eq=False)
class SummedFigures:
    """A registry's own figures and those of other processes; what ``prometheus_client`` calls a collector."""

    own: CollectorRegistry
    _latest: dict[object, list[Family]] = attrs.field(factory=dict, init=False)
    _ended: _Sums = attrs.field(factory=dict, init=False)

    def update(self, process: object, families: list[Family]) -> None:
        """Take the place of what this process sent before."""
        self._latest[process] = families

    def end(self, process: object) -> None:
        """Forget a process' gauges, and keep what it counted."""
        counted = [family for family in self._latest.pop(process, []) if family.kind != "gauge"]
        _add(self._ended, counted)

    def value(self, name: str) -> float:
        """The sum of all samples of that name."""
        return sum(sample.value for metric in self.collect() for sample in metric.samples if sample.name == name)

    def values(self, name: str, label: str) -> dict[str, float]:
        """The samples of that name, by the value of a label."""
        found: dict[str, float] = {}
        for metric in self.collect():
            for sample in metric.samples:
                if sample.name == name:
                    found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
        return found

    def value_of(self, process: object, name: str) -> float:
        """The same of one process, as far as it has sent any."""
        families = self._latest.get(process, [])
        return sum(value for family in families for sample, _, value in family.samples if sample == name)

    def collect(self) -> Iterator[Metric]:
        """Every metric, summed."""
        sums: _Sums = {name: dict(samples) for name, samples in self._ended.items()}
        for families in self._latest.values():
            _add(sums, families)
        for metric in self.own.collect():
            samples = sums.get(metric.name, {})
            for sample in metric.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                samples[key] = samples.get(key, 0.0) + sample.value
            summed = Metric(metric.name, metric.documentation, metric.type)
            for (name, labels), value in samples.items():
                summed.add_sample(name, dict(labels), value)
            yield summed


def _add(sums: _Sums, families: list[Family]) -> None:
    for family in families:
        samples = sums.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = name, tuple(sorted(labels.items()))
            samples[key] = samples.get(key, 0.0) + value
