"""Distributed queries against a plain model: whatever happens in whatever order, the store says what the model says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import blockingCallFromThread, deferToThread

from osqtwist.query import DistributedQuery, Offer, QueryResult
from osqtwist.storage.memory import MemoryStores
from osqtwist.targeting import Target
from tests.examples import examples
from tests.harness import result_of
from tests.stores import valkey

NODES = ["a" * 20, "b" * 20]
NAMES = ["q1", "q2", "q3"]
LEASE, ATTEMPTS, LIFE = 10.0, 2, 60.0


class QueryModel(RuleBasedStateMachine):
    """The model: for each query and node the end of its lease, its attempts, and whether it answered."""

    store: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.now = 2_000_000_000.0
        self.queries: dict[str, DistributedQuery] = {}
        self.cancelled: set[str] = set()
        self.waiting: set[str] = set()
        self.state: dict[tuple[str, str], tuple[float, int, bool]] = {}
        self.begin()

    def begin(self) -> None:
        self.store = MemoryStores(Clock()).queries

    def call(self, coroutine: Any) -> Any:
        return result_of(Deferred.fromCoroutine(coroutine))

    def expected(self, name: str, node: str) -> Offer:
        query = self.queries.get(name)
        if query is None or name in self.cancelled | self.waiting:
            return Offer.CLOSED
        if not query.opens_at <= self.now < query.expires_at:
            return Offer.CLOSED
        ends, attempts, answered = self.state.get((name, node), (0.0, 0, False))
        if answered:
            return Offer.ANSWERED
        if ends > self.now:
            return Offer.LEASED
        return Offer.EXHAUSTED if attempts >= ATTEMPTS else Offer.TAKEN

    @rule(name=st.sampled_from(NAMES), opens_in=st.sampled_from([0.0, 0.0, 9.0]), waits=st.booleans())
    def add(self, name: str, opens_in: float, waits: bool) -> None:
        if name in self.queries:
            return
        self.queries[name] = DistributedQuery(
            query_id=name,
            sql="select 1",
            target=Target(),
            created_at=self.now,
            opens_at=self.now + opens_in,
            expires_at=self.now + LIFE,
            lasts=LIFE,
            lease=LEASE,
            max_attempts=ATTEMPTS,
            is_waiting=waits,
        )
        if waits:
            self.waiting.add(name)
        self.call(self.store.add(self.queries[name]))

    @rule(name=st.sampled_from(NAMES))
    def approve(self, name: str) -> None:
        query = self.queries.get(name)
        if query is None or self.now >= query.expires_at:
            return
        opens_at = max(self.now, query.opens_at)
        approved = msgspec.structs.replace(
            query, is_waiting=False, approved_by="b", approved_at=self.now, expires_at=opens_at + LIFE
        )
        is_good = name in self.waiting - self.cancelled
        assert self.call(self.store.approve(approved)) is is_good
        if is_good:
            self.queries[name] = approved
            self.waiting.remove(name)

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from(NAMES))
    def cancel(self, name: str) -> None:
        assert self.call(self.store.cancel(name, self.now)) is (name in self.queries)
        if name in self.queries:
            self.cancelled.add(name)

    @rule(node=st.sampled_from(NODES), names=st.lists(st.sampled_from(NAMES), unique=True), most=st.integers(0, 3))
    def take(self, node: str, names: list[str], most: int) -> None:
        expected: dict[str, Offer] = {}
        for name in names:
            is_full = list(expected.values()).count(Offer.TAKEN) == most
            expected[name] = Offer.LEFT if is_full else self.expected(name, node)
        taken = self.call(self.store.take(node, names, self.now, most))
        assert {name: each.offer for name, each in taken.items()} == expected
        for name, offer in expected.items():
            if offer is Offer.TAKEN:
                _, attempts, _ = self.state.get((name, node), (0.0, 0, False))
                self.state[name, node] = (self.now + LEASE, attempts + 1, False)

    @rule(node=st.sampled_from(NODES), name=st.sampled_from(NAMES))
    def release(self, node: str, name: str) -> None:
        self.call(self.store.release(node, [name]))
        ends, attempts, answered = self.state.get((name, node), (0.0, 0, False))
        if ends and not answered:
            self.state[name, node] = (0.0, attempts - 1, False)

    @rule(node=st.sampled_from(NODES), names=st.lists(st.sampled_from(NAMES)))
    def answer(self, node: str, names: list[str]) -> None:
        results = [
            QueryResult(query_id=name, node_id=node, node_name="n", received_at=self.now, rows=msgspec.Raw(b"[1]"))
            for name in names
        ]
        expected = []
        for name in names:
            ends, attempts, answered = self.state.get((name, node), (0.0, 0, False))
            if attempts and not answered:
                self.state[name, node] = (ends, attempts, True)
                expected.append(name)
        assert self.call(self.store.add_results(results)) == expected

    @invariant()
    def the_same_are_open(self) -> None:
        hidden = self.cancelled | self.waiting
        expected = {name for name, query in self.queries.items() if name not in hidden and self.now < query.expires_at}
        assert set(self.call(self.store.open_ids(self.now))) == expected

    @invariant()
    def progress_agrees(self) -> None:
        for name in self.queries:
            progress = self.call(self.store.progress(name))
            mine = [state for (query, _), state in self.state.items() if query == name]
            assert progress.offered == sum(attempts > 0 for _, attempts, _ in mine)
            assert progress.answered == sum(answered for _, _, answered in mine)
            assert len(self.call(self.store.results(name, "", 10))) == progress.answered

    @invariant()
    def it_is_known_who_was_given_what(self) -> None:
        for node in NODES:
            mine = {query: state for (query, other), state in self.state.items() if other == node}
            given = {query: answered for query, (_, attempts, answered) in mine.items() if attempts > 0 or answered}
            assert self.call(self.store.given(node, NAMES)) == given


@pytest.mark.timeout(60)
@pytest.mark.property
def test_memory_keeps_to_the_model() -> None:
    """The in-memory store."""
    run_state_machine_as_test(
        QueryModel, settings=settings(max_examples=examples(40), stateful_step_count=30, deadline=None)
    )


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_valkey_keeps_to_the_model() -> None:
    """Valkey, with the same model, driven from a thread."""
    with valkey() as server:

        class OnValkey(QueryModel):
            def begin(self) -> None:
                self.stores = server.stores(reactor)
                self.call(self.stores.ready())
                self.store = self.stores.queries

            def call(self, coroutine: Any) -> Any:
                return blockingCallFromThread(reactor, Deferred.fromCoroutine, coroutine)

            def teardown(self) -> None:
                self.call(self.stores.close())

        await deferToThread(
            run_state_machine_as_test,
            OnValkey,
            settings=settings(
                max_examples=examples(15),
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
