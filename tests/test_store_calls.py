"""What a request costs Redis: nothing where memory suffices, one call where something is stored."""

from __future__ import annotations

import pytest

from bench.storecalls import measure


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_request_asks_the_store_once_or_not_at_all() -> None:
    """Config with the etag and a read with nothing to do ask nothing; a log post once; a query once for each node."""
    found = {row["route"]: row for row in measure(2.0)}
    # Who was seen is written down every two seconds, for all nodes at once.
    assert found["config"]["calls_each"] < 0.05, found
    assert found["read"]["calls_each"] < 0.05, found
    assert 0.95 < found["log"]["calls_each"] < 1.05, found
    assert found["log"]["requests"] > 50
    assert found["live query"]["calls"]["take"] <= 1
    assert 0.95 < found["live query"]["calls"]["add_results"] <= 1.05
