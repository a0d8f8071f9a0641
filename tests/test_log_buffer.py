"""The contracts of the log buffer and of the sinks' cursors: the same tests on memory and on a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from osqtwist.logbatch import DeadLine, Post
from osqtwist.loginterfaces import Appended, Budgets, BufferFull, NoSuchSink, SinkLag, SinkReport
from osqtwist.storage.memory import MemoryStores
from osqtwist.storage.sharded import Shard, ShardedStores
from tests.stores import RealValkey, valkey
from tests.test_storage import NOW, a_batch

BUDGETS = Budgets(live=10_000, low_mark=0.8, dead=3_000, duplicate_window=60.0)
DEAD = (DeadLine(b'"\xff"', "not an object"),)


@pytest.fixture(scope="module")
def server() -> Iterator[RealValkey]:
    with valkey() as running:
        yield running


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def stores(request: pytest.FixtureRequest, server: RealValkey) -> AsyncIterator[Any]:
    """Each store in turn, empty."""
    clock: Any = reactor
    found: Any = MemoryStores(clock, BUDGETS) if request.param == "memory" else server.stores(reactor, budgets=BUDGETS)
    await found.ready()
    yield found
    await found.close()


@pytest_twisted.async_yield_fixture(params=["memory", "valkey", "sharded"])
async def buffers(request: pytest.FixtureRequest, server: RealValkey) -> AsyncIterator[Any]:
    """The same, and several servers as one."""
    clock: Any = reactor
    match request.param:
        case "memory":
            found: Any = MemoryStores(clock, BUDGETS)
        case "valkey":
            found = server.stores(reactor, budgets=BUDGETS)
        case _:
            # The node of these tests is on "two", whose budget is all of it.
            shards = [Shard("one", server.stores(reactor)), Shard("two", server.stores(reactor, budgets=BUDGETS))]
            shards.append(Shard("three", server.stores(reactor), is_draining=True))
            found = ShardedStores(server.stores(reactor), shards)
    await found.ready()
    yield found
    await found.close()


async def fill(stores: Any, batches: int, **more: Any) -> list[str]:
    """Append batches, a second apart; answers with their ids."""
    return [(await stores.logs.append(a_batch(received_at=NOW + number, **more))).batch_id for number in range(batches)]


async def append(stores: Any, *arguments: Any, **more: Any) -> Appended:
    found = await stores.logs.append(a_batch(*arguments, **more))
    assert isinstance(found, Appended)
    return found


def ids(batches: Any) -> list[str]:
    return [each.batch_id for each in batches]


# -- the buffer


@pytest_twisted.ensureDeferred
async def test_batches_come_back_in_order_and_whole(buffers: Any) -> None:
    """With their bytes as they came, and who sent them; reading goes on from an id."""
    sent = [a_batch(f"\\u0001{number}é", tags=("a",), identity="i", received_at=NOW + number) for number in range(3)]
    found = [(await buffers.logs.append(batch)).batch_id for batch in sent]
    assert [each.batch for each in await buffers.logs.read("", 10)] == sent
    assert ids(await buffers.logs.read(found[0], 1)) == [found[1]]
    assert await buffers.logs.last_id() == found[-1]
    assert [each.batch for each in await buffers.logs.newest(2)] == [sent[2], sent[1]]
    assert (await buffers.logs.size()).batches == 3


@pytest_twisted.ensureDeferred
async def test_dead_letters_are_kept_apart(buffers: Any) -> None:
    """One append keeps good lines and bad ones; each is read in its place."""
    assert (await append(buffers, dead=DEAD)).batch_id
    assert await append(buffers, data=b"[]", count=0, dead=DEAD) == Appended("")
    (live,) = await buffers.logs.read("", 10)
    assert live.batch.dead == ()
    letters = await buffers.logs.dead_letters("", 10)
    assert [(each.batch.dead, each.batch.count, each.batch.data) for each in letters] == [(DEAD, 0, b"[]")] * 2
    size = await buffers.logs.size()
    assert (size.dead_letters, size.dead_bytes) == (2, sum(each.batch.size for each in letters))


@pytest_twisted.ensureDeferred
async def test_a_batch_sent_again_is_stored_once(buffers: Any) -> None:
    """Its node did not hear the answer; another node's, another log type's and a later one are batches of their own."""
    first = await append(buffers, digest="same", dead=DEAD)
    again = await append(buffers, digest="same", dead=DEAD, received_at=NOW + 59)
    assert first.batch_id
    assert again == Appended("", is_duplicate=True)
    assert not (await append(buffers, digest="same", log_type="status")).is_duplicate
    assert not (await append(buffers, digest="same", node_id="1" * 20)).is_duplicate
    # The window counts from the last time that it came.
    assert (await append(buffers, digest="same", received_at=NOW + 118)).is_duplicate
    assert not (await append(buffers, digest="same", received_at=NOW + 179)).is_duplicate
    size = await buffers.logs.size()
    assert (size.batches, size.dead_letters) == (4, 1)


@pytest_twisted.ensureDeferred
async def test_a_post_that_may_have_grown_is_asked_about(buffers: Any) -> None:
    """More lines with the same opening: nothing is stored until the caller has compared it with the earlier one."""
    small = Post(digest="small", lines=1, opening="o")
    grown = Post(digest="grown", lines=3, opening="o")
    await buffers.logs.append(a_batch(digest="small"), small)
    batch = a_batch(digest="rest")
    assert await buffers.logs.append(batch, grown) == Appended("", earlier=small)
    assert (await buffers.logs.size()).batches == 1
    assert (await buffers.logs.append(batch, msgspec.structs.replace(grown, after="small"))).batch_id
    # What was compared with one post is compared anew with another.
    larger = Post(digest="larger", lines=4, opening="o", after="small")
    assert (await buffers.logs.append(batch, larger)).earlier == Post(digest="grown", lines=3, opening="o")
    assert (await buffers.logs.append(batch, grown)).is_duplicate
    for other in (
        Post(digest="other opening", lines=9, opening="p"),
        Post(digest="no opening", lines=10),
        Post(digest="nor here", lines=11),
        Post(digest="first again", lines=12, opening="o"),
        Post(digest="not more lines", lines=12, opening="o"),
    ):
        assert (await buffers.logs.append(batch, other)).batch_id, other
    late = a_batch(received_at=NOW + 61)
    assert (await buffers.logs.append(late, Post(digest="too late", lines=13, opening="o"))).batch_id


@pytest_twisted.ensureDeferred
async def test_a_batch_that_was_refused_is_no_duplicate(buffers: Any) -> None:
    """Only what was stored counts as sent before."""
    await append(buffers, "x" * 8000)
    with pytest.raises(BufferFull):
        await append(buffers, "x" * 3000, digest="later")
    await buffers.logs.trim(NOW + 1, 0, 10)
    assert not (await append(buffers, "x" * 3000, digest="later")).is_duplicate


@pytest_twisted.ensureDeferred
async def test_the_budget_is_never_passed_and_the_low_mark_opens_again(buffers: Any) -> None:
    """A batch that does not fit is refused whole, and so is every other until there is room to speak of."""
    batch = a_batch("x" * 1000)
    stored = BUDGETS.live // batch.size
    assert len(await fill(buffers, stored, data=batch.data)) == stored
    for text in ("x" * 1000, ""):
        with pytest.raises(BufferFull):
            await append(buffers, text, dead=DEAD) if text else await append(buffers)
    size = await buffers.logs.size()
    assert (size.bytes, size.budget_bytes, size.dead_letters, size.is_shut) == (
        stored * batch.size,
        BUDGETS.live,
        0,
        True,
    )
    # Bad lines alone are still taken: refused, they would come back for ever.
    await append(buffers, data=b"[]", count=0, dead=DEAD)
    assert await buffers.logs.trim(NOW + 0.5, 0, 1) == 1
    assert (await buffers.logs.size()).bytes < BUDGETS.live * BUDGETS.low_mark
    await buffers.logs.append(batch)
    assert not (await buffers.logs.size()).is_shut


@pytest_twisted.ensureDeferred
async def test_old_dead_letters_make_room(buffers: Any) -> None:
    """A flood of bad lines neither grows without end nor blocks the good ones."""
    for number in range(8):
        await append(buffers, data=b"[]", count=0, dead=(DeadLine(str(number).encode() * 400, "r"),))
    letters = await buffers.logs.dead_letters("", 10)
    assert [each.batch.dead[0].line[:1] for each in letters] == [b"5", b"6", b"7"]
    size = await buffers.logs.size()
    assert (size.dead_letters, size.dropped_dead_letters, size.bytes) == (3, 5, 0)
    assert size.dead_bytes <= BUDGETS.dead
    await append(buffers, data=b"[]", count=0, dead=(DeadLine(b"y" * 9000, "r"),))
    assert (await buffers.logs.size()).dead_letters == 1
    await append(buffers)


@pytest_twisted.ensureDeferred
async def test_trimming_goes_by_age_and_keeps_the_account(buffers: Any) -> None:
    """Only what is older goes, dead letters too; an id read on from stays good."""
    await fill(buffers, 4, dead=DEAD)
    last = await buffers.logs.last_id()
    assert await buffers.logs.trim(NOW + 2, 0, 100) == 4
    assert [each.batch.received_at for each in await buffers.logs.read("", 10)] == [NOW + 2, NOW + 3]
    assert await buffers.logs.trim(NOW + 9, 0, 100) == 4
    size = await buffers.logs.size()
    assert (size.bytes, size.dead_bytes, size.batches, size.dead_letters) == (0, 0, 0, 0)
    assert await buffers.logs.last_id() == last
    assert await buffers.logs.read(last, 10) == []


@pytest_twisted.ensureDeferred
async def test_the_account_mends_itself_when_the_stream_is_deleted_by_hand(server: RealValkey) -> None:
    """An operator who deletes it does not leave a full buffer behind."""
    stores = server.stores(reactor, budgets=BUDGETS)
    await stores.ready()
    await append(stores, "x" * 8000)
    with pytest.raises(BufferFull):
        await append(stores, "x" * 8000)
    await stores._redis.execute("DEL", stores.logs._live)
    assert (await stores.logs.size()).bytes == 0
    await append(stores, "x" * 8000)
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_an_empty_buffer_has_no_last_id(buffers: Any) -> None:
    """Reading from nothing begins at the oldest."""
    assert await buffers.logs.last_id() == ""
    assert await buffers.logs.read("", 10) == []
    assert await buffers.logs.dead_letters("", 10) == []
    assert await buffers.logs.trim(NOW, 0, 10) == 0


# -- cursors


@pytest_twisted.ensureDeferred
async def test_each_sink_takes_every_batch_once(stores: Any) -> None:
    """Two sinks take the same batches, two consumers of one sink share them."""
    await stores.sinks.ensure("a", True)
    await stores.sinks.ensure("b", True)
    sent = await fill(stores, 4)
    assert ids(await stores.sinks.take("a", "one", 10, 10**6)) == sent
    assert ids(await stores.sinks.take("b", "one", 3, 10**6)) == sent[:3]
    assert ids(await stores.sinks.take("b", "two", 3, 10**6)) == sent[3:]
    assert await stores.sinks.take("a", "one", 10, 10**6) == []
    assert await stores.sinks.names() == ["a", "b"]


@pytest_twisted.ensureDeferred
async def test_a_take_is_bounded_in_bytes(stores: Any) -> None:
    """It ends once it has so many, and has at least one batch however large."""
    await stores.sinks.ensure("a", True)
    await fill(stores, 3)
    size = a_batch().size
    assert len(await stores.sinks.take("a", "one", 10, 1)) == 1
    assert len(await stores.sinks.take("a", "one", 10, size + 1)) == 2


@pytest_twisted.ensureDeferred
async def test_a_new_sink_begins_where_it_is_told(stores: Any) -> None:
    """At the oldest batch or at the next; one that is known goes on where it was."""
    await fill(stores, 2)
    await stores.sinks.ensure("all", True)
    await stores.sinks.ensure("next", False)
    (third,) = await fill(stores, 1)
    assert len(await stores.sinks.take("all", "one", 10, 10**6)) == 3
    assert ids(await stores.sinks.take("next", "one", 10, 10**6)) == [third]
    await stores.sinks.ensure("all", True)
    assert await stores.sinks.take("all", "one", 10, 10**6) == []


@pytest_twisted.ensureDeferred
async def test_what_was_taken_and_not_settled_is_found_again(stores: Any) -> None:
    """By the same consumer at once, in order; settled is settled, twice too."""
    await stores.sinks.ensure("a", True)
    sent = await fill(stores, 3)
    taken = await stores.sinks.take("a", "one", 10, 10**6)
    assert await stores.sinks.taken("a", "one", 10) == taken
    assert ids(await stores.sinks.taken("a", "one", 2)) == sent[:2]
    assert await stores.sinks.taken("a", "two", 10) == []
    await stores.sinks.settle("a", sent[:2])
    await stores.sinks.settle("a", sent[:2])
    assert ids(await stores.sinks.taken("a", "one", 10)) == sent[2:]


@pytest_twisted.ensureDeferred
async def test_another_consumer_takes_over_what_shows_no_life(stores: Any) -> None:
    """Not before it is idle for so long, and keeping alive begins the time anew."""
    await stores.sinks.ensure("a", True)
    sent = await fill(stores, 2)
    await stores.sinks.take("a", "one", 10, 10**6)
    assert await stores.sinks.claim("a", "two", 0.2, 10) == []
    await deferLater(reactor, 0.15)  # type: ignore[arg-type]
    await stores.sinks.keep_alive("a", "one", sent[:1])
    await deferLater(reactor, 0.1)  # type: ignore[arg-type]
    assert ids(await stores.sinks.claim("a", "two", 0.2, 10)) == sent[1:]
    assert ids(await stores.sinks.taken("a", "one", 10)) == sent[:1]
    assert ids(await stores.sinks.taken("a", "two", 10)) == sent[1:]


@pytest_twisted.ensureDeferred
async def test_nothing_unsettled_is_ever_trimmed(stores: Any) -> None:
    """Not by age and not for room; what every sink has settled goes."""
    await stores.sinks.ensure("a", True)
    await stores.sinks.ensure("b", True)
    sent = await fill(stores, 4)
    assert await stores.logs.trim(NOW + 99, 1, 100) == 0
    await stores.sinks.take("a", "one", 10, 10**6)
    await stores.sinks.take("b", "one", 3, 10**6)
    await stores.sinks.settle("a", sent)
    assert await stores.logs.trim(NOW + 99, 1, 100) == 0
    await stores.sinks.settle("b", sent[1:3])
    assert await stores.logs.trim(NOW + 99, 1, 100) == 0
    await stores.sinks.settle("b", sent[:1])
    # The fourth was not even taken by b.
    assert await stores.logs.trim(NOW + 99, 1, 100) == 3
    assert ids(await stores.logs.read("", 10)) == sent[3:]


@pytest_twisted.ensureDeferred
async def test_settled_batches_stay_while_there_is_room(stores: Any) -> None:
    """Down to the bytes to keep, oldest first, so that they can be replayed."""
    await stores.sinks.ensure("a", True)
    sent = await fill(stores, 4)
    await stores.sinks.take("a", "one", 10, 10**6)
    await stores.sinks.settle("a", sent)
    size = a_batch().size
    assert await stores.logs.trim(0.0, 5 * size, 100) == 0
    assert await stores.logs.trim(0.0, 2 * size, 100) == 2
    assert ids(await stores.logs.read("", 10)) == sent[2:]
    assert (await stores.logs.size()).bytes == sum(each.batch.size for each in await stores.logs.read("", 10))


@pytest_twisted.ensureDeferred
async def test_without_a_sink_only_age_counts(buffers: Any) -> None:
    """Nobody has had the lines yet, but for whoever follows them by hand."""
    await fill(buffers, 3)
    assert await buffers.logs.trim(0.0, 1, 100) == 0
    assert await buffers.logs.trim(NOW + 1, 1, 100) == 1


@pytest_twisted.ensureDeferred
async def test_the_lag_counts_what_is_not_settled(stores: Any) -> None:
    """Lines, bytes, and when the oldest came; none for a sink that does not exist."""
    await stores.sinks.ensure("a", True)
    assert await stores.sinks.lag(["a", "unknown"]) == {"a": SinkLag()}
    sent = await fill(stores, 3, count=2)
    sizes = [each.batch.size for each in await stores.logs.read("", 10)]
    assert await stores.sinks.lag(["a"]) == {"a": SinkLag(6, sum(sizes), NOW, 0)}
    await stores.sinks.take("a", "one", 2, 10**6)
    assert await stores.sinks.lag(["a"]) == {"a": SinkLag(6, sum(sizes), NOW, 2)}
    await stores.sinks.settle("a", sent[:1])
    assert await stores.sinks.lag(["a"]) == {"a": SinkLag(4, sum(sizes[1:]), NOW + 1, 1)}
    await stores.sinks.settle("a", sent[1:2])
    assert await stores.sinks.lag(["a"]) == {"a": SinkLag(2, sizes[2], NOW + 2, 0)}
    # The account goes on after a trim.
    await stores.logs.trim(NOW + 99, 0, 10)
    assert await stores.sinks.lag(["a"]) == {"a": SinkLag(2, sizes[2], NOW + 2, 0)}


@pytest_twisted.ensureDeferred
async def test_dead_letters_of_a_sink(stores: Any) -> None:
    """Kept in the same step as settling, read in order, deleted; past their budget the oldest make room."""
    await stores.sinks.ensure("a", True)
    sent = await fill(stores, 1)
    (taken,) = await stores.sinks.take("a", "one", 10, 10**6)
    letter = attrs_replace(taken.batch, DeadLine(b"{}", "refused"))
    await stores.sinks.settle("a", sent, [letter])
    (kept,) = await stores.sinks.dead_letters("a", "", 10)
    assert kept.batch == letter
    assert (await stores.sinks.lag(["a"]))["a"] == SinkLag(dead_letters=1)
    for number in range(8):
        await stores.sinks.settle("a", (), [attrs_replace(taken.batch, DeadLine(str(number).encode() * 400, "r"))])
    letters = await stores.sinks.dead_letters("a", "", 10)
    assert [each.batch.dead[0].line[:1] for each in letters] == [b"5", b"6", b"7"]
    await stores.sinks.forget_dead_letters("a", ids(letters[:2]))
    await stores.sinks.forget_dead_letters("a", ids(letters[:2]))
    assert await stores.sinks.dead_letters("a", "", 10) == letters[2:]
    await stores.sinks.settle("a", (), [letter, letter])
    assert len(await stores.sinks.dead_letters("a", "", 10)) == 3


def attrs_replace(batch: Any, *dead: DeadLine) -> Any:
    import msgspec

    return msgspec.structs.replace(batch, data=b"[]", count=0, dead=dead)


@pytest_twisted.ensureDeferred
async def test_a_rewound_sink_gets_it_again(stores: Any) -> None:
    """From a batch on, or from a moment on; other sinks notice nothing."""
    for name in ("a", "b"):
        await stores.sinks.ensure(name, True)
    sent = await fill(stores, 3)
    for name in ("a", "b"):
        await stores.sinks.take(name, "one", 10, 10**6)
        await stores.sinks.settle(name, sent)
    await stores.sinks.rewind("a", sent[0], 0.0)
    assert ids(await stores.sinks.take("a", "one", 10, 10**6)) == sent[1:]
    await stores.sinks.rewind("a", "", NOW - 3600)
    assert ids(await stores.sinks.take("a", "one", 10, 10**6)) == sent
    await stores.sinks.rewind("a", "", NOW + 3600)
    assert await stores.sinks.take("a", "one", 10, 10**6) == []
    assert await stores.sinks.take("b", "one", 10, 10**6) == []
    with pytest.raises(ValueError, match="not the id"):
        await stores.sinks.rewind("a", "nonsense", 0.0)


@pytest_twisted.ensureDeferred
async def test_a_forgotten_sink_keeps_nothing_back(stores: Any) -> None:
    """Its cursor, dead letters, reports and pause are gone, and the buffer waits for it no more."""
    await stores.sinks.ensure("a", True)
    await fill(stores, 2)
    (taken, _) = await stores.sinks.take("a", "one", 10, 10**6)
    await stores.sinks.settle("a", (), [attrs_replace(taken.batch, DeadLine(b"{}", "r"))])
    await stores.sinks.pause("a", True)
    await stores.sinks.report(a_report())
    assert await stores.sinks.forget("a") is True
    assert await stores.sinks.forget("a") is False
    assert await stores.sinks.names() == []
    assert await stores.sinks.dead_letters("a", "", 10) == []
    assert await stores.sinks.paused() == frozenset()
    assert await stores.sinks.reports() == []
    assert await stores.logs.trim(NOW + 99, 0, 10) == 2
    # A consumer that still works for it is told so, but may settle what it has done.
    await stores.sinks.settle("a", [taken.batch_id])
    for call in (
        stores.sinks.take("a", "one", 1, 1),
        stores.sinks.taken("a", "one", 1),
        stores.sinks.claim("a", "one", 0, 1),
        stores.sinks.rewind("a", "", 0.0),
        stores.sinks.keep_alive("a", "one", [taken.batch_id]),
    ):
        with pytest.raises(NoSuchSink, match="'a'"):
            await call


@pytest_twisted.ensureDeferred
async def test_levers_of_operators(stores: Any) -> None:
    """Pausing and asking again are kept until they are taken back or taken up, and wake whoever listens."""
    heard: list[str] = []
    leave = stores.signals.subscribe("sinks", heard.append)
    await deferLater(reactor, 0.05)  # type: ignore[arg-type]
    await stores.sinks.pause("a", True)
    await stores.sinks.pause("b", True)
    await stores.sinks.pause("b", False)
    assert await stores.sinks.paused() == {"a"}
    await stores.sinks.ask_again("a")
    assert await stores.sinks.was_asked_again("b") is False
    assert [await stores.sinks.was_asked_again("a") for _ in range(2)] == [True, False]
    await deferLater(reactor, 0.05)  # type: ignore[arg-type]
    assert heard == ["a", "b", "b", "a"]
    leave()


def a_report(**more: Any) -> SinkReport:
    fields: dict[str, Any] = {"sink": "a", "kind": "file", "consumer": "one", "state": "running", "at": 1.0}
    return SinkReport(**{**fields, "since": 0.0, **more})


@pytest_twisted.ensureDeferred
async def test_the_last_report_of_each_process_is_kept(stores: Any) -> None:
    """One for each sink and consumer."""
    await stores.sinks.report(a_report())
    await stores.sinks.report(a_report(at=2.0, lines=7))
    await stores.sinks.report(a_report(consumer="two"))
    found = await stores.sinks.reports()
    assert [(each.consumer, each.at, each.lines) for each in found] == [("one", 2.0, 7), ("two", 1.0, 0)]
