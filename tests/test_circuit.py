"""The circuit breaker of a connection to the store."""

from __future__ import annotations

from osqtwist.metrics import Metrics
from osqtwist.storage.circuit import Circuit


def figures(metrics: Metrics) -> dict[str, float]:
    return {
        ".".join([sample.name.removeprefix("osqtwist_store_"), *sample.labels.values()]): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name.startswith("osqtwist_store_") and sample.labels and not sample.name.endswith("_created")
    }


def test_calls_fail_at_once_while_there_is_no_connection() -> None:
    """And each is counted; a connection that was lost, rather than too slow, lets all through when it is back."""
    metrics = Metrics()
    circuit = Circuit("s", metrics.store, most=10)
    circuit.begin()
    assert circuit.refusal(0) == "does not answer"
    assert figures(metrics) == {"connections_down.s": 1, "calls_refused_total.s.away": 1}
    circuit.connected()
    assert circuit.refusal(9) == ""
    assert "too many" in circuit.refusal(10)
    circuit.lost()
    circuit.lost()
    assert figures(metrics) == {
        "connections_down.s": 1,
        "calls_refused_total.s.away": 1,
        "calls_refused_total.s.behind": 1,
    }
    circuit.connected()
    assert circuit.refusal(9) == ""


def test_after_a_call_that_was_not_answered_a_few_try_it() -> None:
    """Until one is answered, however often the connection is made anew."""
    metrics = Metrics()
    circuit = Circuit("s", metrics.store, most=100, on_trial=2)
    circuit.begin()
    circuit.connected()
    circuit.too_late()
    circuit.lost()
    for _ in range(2):
        circuit.connected()
        assert circuit.refusal(1) == ""
        assert "tried again" in circuit.refusal(2)
        circuit.lost()
    circuit.connected()
    circuit.answered()
    assert circuit.refusal(99) == ""
    assert figures(metrics) == {"connections_down.s": 0, "calls_refused_total.s.trial": 2, "timeouts_total.s": 1}


def test_a_connection_that_nobody_wants_is_not_down() -> None:
    """A closed one is not counted, and may be closed twice."""
    metrics = Metrics()
    circuit = Circuit("s", metrics.store)
    circuit.begin()
    circuit.end()
    circuit.end()
    assert figures(metrics) == {"connections_down.s": 0}
