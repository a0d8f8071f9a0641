"""Held distributed reads: the four ways out, the races, and what a query goes through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from osqtwist.interfaces import StoreUnavailable
from osqtwist.livequery import Asker, Question
from osqtwist.node import Node
from osqtwist.parking import ParkedReads
from osqtwist.query import QueryResult
from osqtwist.targeting import NodeFacts, Target
from osqtwist.web.site import Limits
from tests.harness import InMemoryServer, result_of

Server = InMemoryServer
FACTS = NodeFacts("0" * 20, "node-1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, hold=10.0)
    yield found
    found.stop()
    assert_nothing_left(found)


def assert_nothing_left(server: Server) -> None:
    """No read is parked and no delayed call waits, but those of the services that run."""
    assert len(server.parked) == 0
    assert server.metrics.parked_reads._value.get() == 0
    if not any(service.running for service in server.services):
        assert not [call for call in server.reactor.getDelayedCalls() if call.active()]


def park(server: Server, key: str) -> Deferred[Any]:
    """A read that waits."""
    before = len(server.parked)
    reading = server.begin("/distributed/read", {"node_key": key})
    server.turn()
    assert not reading.called
    assert len(server.parked) == before + 1
    return reading


def work_of(answer: Any) -> dict[str, Any]:
    code, _, content = answer
    assert code == 200
    found = json.loads(content)
    assert isinstance(found, dict)
    return found


# -- the four ways out


def test_woken(server: Server) -> None:
    """A query that is issued ends the wait at once."""
    reading = park(server, server.enroll())
    query = server.issue("select 2")
    assert work_of(server.finish(reading)) == {"queries": {query.query_id: "select 2"}}
    assert_nothing_left(server)


def test_held(server: Server) -> None:
    """At the end of the hold the answer is {}; chance spreads the ends over the last tenth, and no read ends later."""
    readings = [park(server, server.enroll(f"host-{number}")) for number in range(20)]
    server.turn(8.9)
    assert not any(reading.called for reading in readings)
    server.turn(0.6)
    assert 0 < sum(reading.called for reading in readings) < 20
    server.turn(0.51)
    assert [work_of(server.finish(reading)) for reading in readings] == [{}] * 20
    assert_nothing_left(server)


def test_gone(server: Server) -> None:
    """When the node goes away its read goes too, and a query issued later is not lost with it."""
    key = server.enroll()
    reading = park(server, key)
    reading.addErrback(lambda failure: None)
    reading.cancel()
    server.turn()
    assert_nothing_left(server)
    query = server.issue()
    assert query.query_id in work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))["queries"]


def test_shut_down(server: Server) -> None:
    """A stop answers every held read with {}; a read that comes meanwhile is not held."""
    key = server.enroll()
    reading = park(server, key)
    server.distributed.stopService()
    assert work_of(server.finish(reading)) == {}
    assert work_of(server.finish(server.begin("/distributed/read", {"node_key": key}))) == {}
    assert_nothing_left(server)
    server.distributed.startService()


def test_revoked(server: Server) -> None:
    """A revocation ends a held read within a turn, with node_invalid."""
    key = server.enroll("h")
    reading = park(server, key)
    server.operate("/api/v1/nodes/h/revoke", {}, "POST")
    code, _, content = server.finish(reading)
    assert code == 401
    assert json.loads(content)["node_invalid"] is True
    assert_nothing_left(server)


# -- races


def test_a_query_issued_while_the_reader_looks_is_not_missed(server: Server) -> None:
    """Issue between look and park: the wake-up is kept, and the reader looks again."""
    key = server.enroll()
    first = server.issue("select 'other'", target=Target(nodes=("host-1",)))
    gate: Deferred[None] = Deferred()
    server.outages["queries"].before = lambda name: gate if name == "take" else None
    reading = server.begin("/distributed/read", {"node_key": key})
    server.turn()
    # The reader is inside its look.  The first query is called off, a second one comes.
    server.outages["queries"].before = lambda name: None
    server.await_(server.stores.queries.store.cancel(first.query_id, server.reactor.seconds()))
    second = server.issue("select 2")
    gate.callback(None)
    assert work_of(server.finish(reading)) == {"queries": {second.query_id: "select 2"}}


def test_a_node_that_goes_away_while_taking_gets_the_query_at_its_next_read(server: Server) -> None:
    """Disconnect after take: the lease is given back, so the next read need not wait for its end."""
    key = server.enroll()
    query = server.issue()
    gate: Deferred[None] = Deferred()
    server.outages["queries"].before = lambda name: gate if name == "take" else None
    reading = server.begin("/distributed/read", {"node_key": key})
    server.turn()
    reading.addErrback(lambda failure: None)
    reading.cancel()
    server.turn()
    server.outages["queries"].before = lambda name: None
    gate.callback(None)
    server.turn()
    assert_nothing_left(server)
    answer = work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))
    assert set(answer["queries"]) == {query.query_id}
    assert server.await_(server.stores.queries.progress(query.query_id)).offered == 1


# -- what becomes of a query


def test_a_take_that_the_store_did_not_answer_is_given_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have happened; the node's next read need not wait for the end of a lease that it knows nothing of."""
    key = server.enroll()
    query = server.issue("select 5")
    take = server.stores.queries.store.take  # type: ignore[attr-defined]

    async def taken_and_not_told(*arguments: Any) -> Any:
        await take(*arguments)
        raise StoreUnavailable("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(server.distributed, "_queries", _Taking(server.stores.queries, taken_and_not_told))
        reading = park(server, key)
        server.turn(10.0)
        assert work_of(server.finish(reading)) == {}
    assert work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))["queries"] == {
        query.query_id: "select 5"
    }


class _Taking:
    def __init__(self, queries: Any, take: Any) -> None:
        self.queries, self.take = queries, take

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queries, name)


def test_a_lost_answer_is_offered_again_until_the_attempts_are_used_up(server: Server) -> None:
    """Under a lease nothing is given; when it ends the query comes again, three times in all."""
    key = server.enroll()
    server.issue(lease=30.0, max_attempts=3)
    for _ in range(3):
        assert work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))["queries"]
        reading = park(server, key)
        server.turn(10.1)
        assert work_of(server.finish(reading)) == {}
        server.turn(20)
    reading = park(server, key)
    server.turn(10.1)
    assert work_of(server.finish(reading)) == {}


def test_discovery_queries_come_alone(server: Server) -> None:
    """One bad discovery query sinks a whole reply at the node: each comes in a reply of its own."""
    key = server.enroll()
    plain = [server.issue(f"select {number}").query_id for number in range(2)]
    found = [server.issue("select 9", discovery=f"select {number}").query_id for number in range(2)]
    answers = [work_of(server.finish(server.begin("/distributed/read", {"node_key": key}))) for _ in range(3)]
    assert set(answers[0]["queries"]) == set(plain)
    assert "discovery" not in answers[0]
    for answer in answers[1:]:
        assert len(answer["queries"]) == 1
        assert set(answer["discovery"]) == set(answer["queries"])
    assert {next(iter(answer["queries"])) for answer in answers[1:]} == set(found)


def test_targets_expiry_and_cancelling(server: Server) -> None:
    """Only nodes of the target are given a query, only until it expires, and not after it is called off."""
    key = server.enroll("mine")
    server.issue("select 'not mine'", target=Target(nodes=("other",)))
    short = server.issue("select 'short'", expires_at=server.reactor.seconds() + 1)
    called_off = server.issue("select 'called off'")
    assert server.operate(f"/api/v1/queries/{called_off.query_id}/cancel", {}, "POST")[1]["state"] == "cancelled"
    server.turn(2)
    reading = park(server, key)
    server.turn(10.1)
    assert work_of(server.finish(reading)) == {}
    assert server.operate(f"/api/v1/queries/{short.query_id}")[1]["state"] == "expired"


def test_only_concerned_reads_wake(server: Server) -> None:
    """A query for one node leaves the others parked."""
    keys = [server.enroll(f"h{number}") for number in range(3)]
    readings = [server.begin("/distributed/read", {"node_key": key}) for key in keys]
    server.turn()
    assert len(server.parked) == 3
    server.issue(target=Target(nodes=("h1",)))
    server.turn()
    assert [reading.called for reading in readings] == [False, True, False]
    server.turn(10.1)
    for reading in readings:
        result_of(reading)


def test_a_read_with_nothing_to_do_costs_no_store_call(server: Server) -> None:
    """Neither does one whose queries are all answered or leased."""
    key = server.enroll()
    server.issue()
    server.finish(server.begin("/distributed/read", {"node_key": key}))
    queries = server.outages["queries"]
    queries.calls.clear()
    reading = park(server, key)
    assert "take" not in queries.calls
    server.turn(10.1)
    result_of(reading)


def test_a_store_that_is_down_holds_and_answers_nothing(server: Server) -> None:
    """The read is held as if there were nothing to do, and the query comes once the store is back."""
    key = server.enroll()
    query = server.issue()
    server.ask("/config", {"node_key": key})
    server.down()
    reading = park(server, key)
    server.turn(10.1)
    assert work_of(server.finish(reading)) == {}
    server.down(False)
    assert query.query_id in work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))["queries"]


def test_a_query_issued_in_another_process_is_seen_at_a_signal_or_soon(server: Server) -> None:
    """A signal wakes the read at once; without one the periodic look does within 5 s."""
    key = server.enroll()
    for signals in (True, False):
        reading = park(server, key)
        elsewhere = server.live.new_query(Question("select 3"), Asker("me"))
        server.await_(server.stores.queries.store.add(elsewhere))
        if signals:
            server.await_(server.stores.signals.publish("queries", elsewhere.query_id))
        else:
            server.turn(5.0)
        assert elsewhere.query_id in work_of(server.finish(reading))["queries"]


def test_hold_is_counted_from_acceptance(server: Server) -> None:
    """What handshake and upload took is not held on top."""
    now = server.reactor.seconds()
    reading = Deferred.fromCoroutine(server.distributed.read(FACTS, now + 4.0))
    server.turn(3.9)
    assert not reading.called
    server.turn(0.2)
    assert result_of(reading) == ()


# -- many queries


def answer_all(server: Server, key: str, query_ids: Any) -> None:
    rows = {query_id: [{"1": "1"}] for query_id in query_ids}
    body = {"node_key": key, "queries": rows, "statuses": dict.fromkeys(rows, 0)}
    assert server.ask("/distributed/write", body) == (200, {})


def test_many_queries_come_in_batches_each_once(server: Server) -> None:
    """However many there are for a node, it gets a few at a time, and each of them once."""
    key = server.enroll()
    issued = [server.issue(f"select {number}").query_id for number in range(130)]
    seen: list[str] = []
    while len(seen) < len(issued):
        work = work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))["queries"]
        assert 0 < len(work) <= 20
        seen += work
        answer_all(server, key, work)
    assert seen == issued
    reading = park(server, key)
    server.turn(10.1)
    assert work_of(server.finish(reading)) == {}


def test_queries_for_others_cost_a_read_nothing(server: Server) -> None:
    """With a thousand open ones, for tags, for names: no call of the store, and no comparison at a second read."""
    keys = [server.enroll(f"host-{number}") for number in range(2)]
    for number in range(1000):
        server.issue(target=Target(nodes=(f"other-{number}",)) if number % 2 else Target(tags=(f"t{number % 7}",)))
    queries = server.outages["queries"]
    queries.calls.clear()
    for key in keys:
        reading = park(server, key)
        server.turn(10.1)
        assert work_of(server.finish(reading)) == {}
    assert "take" not in queries.calls
    mine = server.issue(target=Target(nodes=("host-1",)))
    assert work_of(server.finish(server.begin("/distributed/read", {"node_key": keys[1]})))["queries"] == {
        mine.query_id: "select 1"
    }


def test_what_was_settled_elsewhere_does_not_hide_what_is_new(server: Server) -> None:
    """A process that has just begun asks the store about hundreds, in one read, and finds the one that is left."""
    key = server.enroll()
    issued = [server.issue(f"select {number}") for number in range(250)]
    facts = server.await_(server.stores.nodes.find("host-1", 1))[0].facts()
    store = server.stores.queries.store
    for query in issued[:-1]:
        server.await_(store.take(facts.node_id, [query.query_id], server.reactor.seconds(), 20))
        result = QueryResult(query_id=query.query_id, node_id=facts.node_id, node_name="n", received_at=1.0)
        server.await_(store.add_results([result]))
    server.outages["queries"].calls.clear()
    work = work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))["queries"]
    assert list(work) == [issued[-1].query_id]
    assert server.outages["queries"].calls.count("take") == 3


def test_many_queries_that_are_issued_together_look_through_the_reads_together(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first wakes its node at once; the others gather a moment, and none is forgotten."""
    keys = [server.enroll(f"h{number}") for number in range(4)]
    readings = [park(server, key) for key in keys]
    looks: list[Any] = []
    wake = ParkedReads.wake

    def counted(parked: ParkedReads, *arguments: Any) -> None:
        looks.append(arguments)
        wake(parked, *arguments)

    monkeypatch.setattr(ParkedReads, "wake", counted)
    for number in range(4):
        server.issue(target=Target(nodes=(f"h{number}",)))
        server.turn()
    assert [reading.called for reading in readings] == [True, False, False, False]
    server.turn(0.03)
    assert all(work_of(server.finish(reading))["queries"] for reading in readings)
    assert len(looks) == 2


# -- when a query opens


def test_a_query_opens_at_its_time(server: Server) -> None:
    """A held read gets it at that moment; before, it waits in every process, also in one that starts later."""
    key = server.enroll()
    now = server.reactor.seconds()
    query = server.issue(opens_at=now + 6.5, expires_at=now + 3600)
    server.distributed.stopService()
    server.distributed.startService()
    assert server.operate("/api/v1/status")[1]["scheduled_queries"] == 1
    reading = park(server, key)
    server.turn(6.4)
    assert not reading.called
    server.turn(0.2)
    assert list(work_of(server.finish(reading))["queries"]) == [query.query_id]
    assert server.operate("/api/v1/status")[1]["scheduled_queries"] == 0


def test_a_query_that_is_called_off_before_it_opens_never_does(server: Server) -> None:
    """Also where it was already waited for."""
    key = server.enroll()
    now = server.reactor.seconds()
    query = server.issue(opens_at=now + 3, expires_at=now + 3600)
    server.await_(server.distributed.cancel(query.query_id))
    reading = park(server, key)
    server.turn(10.1)
    assert work_of(server.finish(reading)) == {}


def test_a_query_of_next_year_is_waited_for_in_steps(server: Server) -> None:
    """No timer runs for longer than a system can count."""
    now = server.reactor.seconds()
    server.issue(opens_at=now + 300 * 86400, expires_at=now + 301 * 86400)
    assert max(call.getTime() for call in server.reactor.getDelayedCalls()) <= now + 3600


def test_a_node_that_comes_back_in_time_is_asked(server: Server) -> None:
    """It was away when the query was issued; it answers before the query expires, and its result is there."""
    early, late = server.enroll("early"), server.enroll("late")
    query = server.issue(expires_at=server.reactor.seconds() + 3600)
    work = work_of(server.finish(server.begin("/distributed/read", {"node_key": early})))
    answer_all(server, early, work["queries"])
    server.turn(3000)
    work = work_of(server.finish(server.begin("/distributed/read", {"node_key": late})))
    assert list(work["queries"]) == [query.query_id]
    server.turn(1000)
    answer_all(server, late, work["queries"])
    lines = server.operate(f"/api/v1/queries/{query.query_id}/results")[1]
    assert [line["name"] for line in lines] == ["early", "late"]
    reading = park(server, server.enroll("too-late"))
    server.turn(10.1)
    assert work_of(server.finish(reading)) == {}


# -- running a query and following it


def test_run_streams_rows_and_ends_when_all_answered(server: Server) -> None:
    """The stream begins with how many are expected, has a line for each answer, and names the silent at the end."""
    key = server.enroll("h")
    server.enroll("silent")
    lines: list[Any] = []

    async def emit(line: dict[str, Any]) -> None:
        lines.append(line)

    running = Deferred.fromCoroutine(server.live.run(Question("select 1", lasts=5.0), Asker("me"), emit))
    server.turn()
    assert lines[0]["expected"] == 2
    work = work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))
    (query_id,) = work["queries"]
    server.ask("/distributed/write", {"node_key": key, "queries": {query_id: [{"1": "1"}]}, "statuses": {query_id: 0}})
    server.turn()
    assert lines[1]["name"] == "h"
    assert not running.called
    server.turn(2.1)
    server.turn(2.1)
    server.turn(1.0)
    result_of(running)
    assert lines[-1] == {"type": "end", "answered": 1, "silent": ["silent"]}


def test_run_that_is_broken_off_calls_the_query_off(server: Server) -> None:
    """When the operator goes away nobody else is asked."""
    server.enroll("h")

    async def emit(line: dict[str, Any]) -> None:
        pass

    running = Deferred.fromCoroutine(server.live.run(Question("select 1"), Asker("me"), emit))
    server.turn()
    running.cancel()
    with pytest.raises(CancelledError):
        result_of(running)
    server.turn()
    (query,) = server.operate("/api/v1/queries")[1]["queries"]
    assert query["state"] == "cancelled"


# -- parking by itself


def test_a_wake_up_before_the_wait_is_kept() -> None:
    """A read that is woken while it looks does not sleep on it."""
    clock = Clock()
    parked = ParkedReads(clock)
    read = parked.park(FACTS)
    parked.wake(lambda facts: True)
    assert result_of(Deferred.fromCoroutine(read.woken(10.0))) is True
    waiting = Deferred.fromCoroutine(read.woken(10.0))
    assert not waiting.called
    clock.advance(10)
    assert result_of(waiting) is False
    assert not clock.getDelayedCalls()


def test_removing_one_read_leaves_the_other_of_its_node() -> None:
    """Two connections of one node (clones, a silent re-send) are two reads."""
    parked = ParkedReads(Clock())
    one, two = parked.park(FACTS), parked.park(FACTS)
    parked.remove(one)
    parked.remove(one)
    assert len(parked) == 1
    parked.remove(two)
    assert len(parked) == 0


def test_a_node_holds_so_many_reads() -> None:
    """With one more its oldest is answered, whether it waits or is looking; another node's are not touched."""
    clock, ended = Clock(), []
    parked = ParkedReads(clock, most_of_node=2, on_end=lambda: ended.append(1))
    other = parked.park(NodeFacts("b" * 20, FACTS.node_id))
    looking, waiting = parked.park(FACTS), parked.park(FACTS)
    answer = Deferred.fromCoroutine(waiting.woken(10))
    third = parked.park(FACTS)
    assert (len(ended), len(parked), answer.called) == (1, 3, False)
    assert result_of(Deferred.fromCoroutine(looking.woken(10))) is False
    fourth = parked.park(FACTS)
    assert result_of(answer) is False
    for read in (other, looking, waiting, third, fourth):
        parked.remove(read)
    assert len(parked) == 0 and not parked._named and not clock.getDelayedCalls()


def test_an_address_holds_so_many_reads() -> None:
    """Whatever nodes they are of."""
    parked = ParkedReads(Clock(), most_of_address=2)
    reads = [parked.park(NodeFacts(f"{number:020}", "n"), "192.0.2.1") for number in range(3)]
    elsewhere = parked.park(NodeFacts("c" * 20, "n"), "192.0.2.2")
    assert len(parked) == 3
    assert result_of(Deferred.fromCoroutine(reads[0].woken(10))) is False
    for read in (*reads, elsewhere):
        parked.remove(read)
    assert not parked._of_address and not parked._reads


def test_reads_that_are_crowded_out_are_answered(tmp_path: Path) -> None:
    """As at the end of their hold, and counted: a node loses nothing by it."""
    server = Server(tmp_path, limits=Limits(held_reads_per_node=1))
    key = server.enroll("h")
    first = park(server, key)
    second = server.begin("/distributed/read", {"node_key": key})
    assert work_of(server.finish(first)) == {}
    assert not second.called
    assert server.metrics.registry.get_sample_value("osqtwist_reads_crowded_out_total") == 1
    server.turn(12)
    server.finish(second)
    server.stop()


def test_only_reads_under_a_name_are_looked_at() -> None:
    """Those of nodes that have it, in any case of letters, and those whose names say nothing so plain."""
    clock = Clock()
    parked = ParkedReads(clock)
    names = ("Web-1", "web-2", "\u017ferver", "web-1")
    reads = [parked.park(NodeFacts(f"{number:020}", name)) for number, name in enumerate(names)]
    looked: list[str] = []
    parked.wake(lambda facts: bool(looked.append(facts.name)), names={"web-1", ""})  # type: ignore[func-returns-value]
    assert sorted(looked) == ["Web-1", "web-1", "\u017ferver"]
    for read in reads[:1] * 2 + reads[2:]:
        parked.remove(read)
    looked.clear()
    parked.wake(lambda facts: bool(looked.append(facts.name)), names={"web-1", "web-2"})  # type: ignore[func-returns-value]
    assert looked == ["web-2"]
    parked.remove(reads[1])
    assert not parked._named


def test_facts_follow_a_signal(server: Server) -> None:
    """What another process learned of a node is looked up again when it says so."""
    key = server.enroll("h")
    server.issue(target=Target(tags=("new",)))
    reading = park(server, key)
    server.turn(10.1)
    assert work_of(server.finish(reading)) == {}
    node: Node = server.await_(server.stores.nodes.find("h", 1))[0]
    changed = Node(node_id=node.node_id, name="h", proof="secret", host_identifier="h", tags=("new",))
    server.await_(server.stores.nodes.record(changed))
    server.await_(server.stores.signals.publish("nodes", node.node_id))
    server.turn()
    assert work_of(server.finish(server.begin("/distributed/read", {"node_key": key})))["queries"]


def test_many_reads_wake_a_few_at_a_time() -> None:
    """Other requests get their turn in between; while the store is busy with those awake, the rest waits."""
    clock = Clock()
    parked = ParkedReads(clock)
    reads = [parked.park(NodeFacts(f"{number:020}", "n")) for number in range(400)]
    waiting = [Deferred.fromCoroutine(read.woken(10.0)) for read in reads]
    is_busy = False
    parked.wake(lambda facts: facts.node_id != reads[50].facts.node_id, lambda: is_busy)
    first = sum(each.called for each in waiting)
    assert 0 < first < 300
    parked.remove(reads[390])
    is_busy = True
    clock.advance(0)
    clock.advance(1)
    assert sum(each.called for each in waiting) == first
    is_busy = False
    for _ in range(10):
        clock.advance(0.01)
    assert [number for number, each in enumerate(waiting) if not each.called] == [50, 390]
    parked.wake_node(reads[50].facts.node_id)
    assert waiting[50].result is True
    clock.advance(10)
    assert waiting[390].result is False
    assert not clock.getDelayedCalls()


@pytest.mark.slow
def test_no_more_nodes_are_out_with_a_query_than_can_come_back(server: Server) -> None:
    """Of a large fleet so many get a query as can come back in some seconds; the others as those do, or take long."""
    distributed, clock, most = server.distributed, server.reactor, 3072
    facts = [NodeFacts(f"{number:020}", f"node-{number}") for number in range(most + 400)]
    until = clock.seconds() + 60
    reading = [Deferred.fromCoroutine(distributed.read(each, until)) for each in facts]
    query = server.issue()

    def out() -> int:
        clock.pump([0.001] * 300)
        return sum(each.called for each in reading)

    first = out()
    assert most <= first < most + 100
    distributed.queued = lambda: 1000
    for each in [each for each, read in zip(facts, reading, strict=True) if read.called][:200]:
        result = QueryResult(query_id=query.query_id, node_id=each.node_id, node_name="n", received_at=clock.seconds())
        server.await_(distributed.record([result]))
    assert out() == first
    distributed.queued = lambda: 0
    assert first + 100 < out() < first + 300
    # A query for one node does not wait behind it.
    last = reading[-1]
    assert not last.called
    server.issue(target=Target(nodes=(facts[-1].name,)))
    clock.pump([0.001] * 5)
    assert last.called
    clock.advance(2)
    assert out() == len(reading)


def test_looking_through_many_reads_gives_others_their_turn() -> None:
    """Also if none of them is concerned."""
    clock = Clock()
    parked = ParkedReads(clock)
    for number in range(5000):
        parked.park(NodeFacts(f"{number:020}", "n"))
    looked: list[NodeFacts] = []
    parked.wake(lambda facts: bool(looked.append(facts)))  # type: ignore[func-returns-value]
    assert 0 < len(looked) < 5000
    clock.pump([0] * 5)
    assert len(looked) == 5000
