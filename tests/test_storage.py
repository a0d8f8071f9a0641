"""The contracts of the stores: the same tests on memory and on a real Valkey."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from osqtwist.carve import CarveSession
from osqtwist.clone import Clone
from osqtwist.denial import Denial
from osqtwist.denialinterfaces import DenialList, IDenialStore
from osqtwist.interfaces import (
    MOST_CLONES,
    ICarveStore,
    ICloneStore,
    INodeStore,
    IQueryStore,
    ISignals,
    IStores,
    ListLost,
)
from osqtwist.logbatch import LogBatch
from osqtwist.loginterfaces import ILogBuffer, ISinkQueues
from osqtwist.node import (
    AddressSeen,
    CertificateRecord,
    ConfigServed,
    FormerCertificate,
    FormerNode,
    Node,
    Revocation,
    Sighting,
)
from osqtwist.query import DistributedQuery, Offer, QueryProgress, QueryResult
from osqtwist.savedquery import SavedQuery
from osqtwist.savedqueryinterfaces import ISavedQueryStore, Kept
from osqtwist.storage import memory_denials, memory_savedqueries, redis_denials, redis_savedqueries
from osqtwist.storage.memory import MemoryStores
from osqtwist.targeting import Target
from tests.stores import RealValkey, valkey

_numbers = itertools.count()
NODE = "0" * 20
# Redis deletes by its own clock what has expired long ago.
NOW = int(time.time()) + 0.25


@pytest.fixture(scope="module")
def server() -> Iterator[RealValkey]:
    with valkey() as running:
        yield running


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def stores(request: pytest.FixtureRequest, server: RealValkey) -> AsyncIterator[Any]:
    """Each store in turn, empty."""
    clock: Any = reactor
    found: Any = MemoryStores(clock) if request.param == "memory" else server.stores(reactor)
    await found.ready()
    await found.nodes.begin_revocations([])
    yield found
    await found.close()


def a_node(number: int = 0, **more: Any) -> Node:
    fields = {"node_id": f"{number:020x}", "name": f"node-{number}", "proof": "secret", "host_identifier": f"h{number}"}
    return Node(**{**fields, **more})  # type: ignore[arg-type]


def a_query(name: str = "q1", **more: Any) -> DistributedQuery:
    fields: dict[str, Any] = {
        "query_id": name,
        "sql": "select 1",
        "target": Target(tags=("a",)),
        "created_at": NOW,
        "expires_at": NOW + 100,
        "lease": 30.0,
        "max_attempts": 2,
    }
    return DistributedQuery(**{**fields, **more})


def a_result(name: str = "q1", node: str = NODE, **more: Any) -> QueryResult:
    fields: dict[str, Any] = {"query_id": name, "node_id": node, "node_name": "n", "received_at": NOW}
    return QueryResult(**{**fields, "rows": msgspec.Raw(b'[{"a":"1"}]'), "row_count": 1, **more})


def a_batch(text: str = "x", **more: Any) -> LogBatch:
    data = b'[{"a":"' + text.encode() + b'"}]'
    fields: dict[str, Any] = {
        "node_id": NODE,
        "node_name": "n",
        "log_type": "result",
        "data": data,
        "count": 1,
        "digest": f"d{next(_numbers)}",
        "received_at": NOW,
    }
    return LogBatch(**{**fields, **more})


def a_session(name: str = "s1", **more: Any) -> CarveSession:
    fields: dict[str, Any] = {
        "session_id": name,
        "node_id": NODE,
        "node_name": "n",
        "carve_id": "c",
        "request_id": "r",
        "block_count": 3,
        "block_size": 10,
        "carve_size": 25,
        "started_at": NOW,
    }
    return CarveSession(**{**fields, **more})


async def soon() -> None:
    """Let signals arrive."""
    await deferLater(reactor, 0.05)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_stores_provide_their_interfaces(stores: Any) -> None:
    """Each store has the methods of its contract, with their arguments."""
    verifyObject(IStores, stores)
    for interface, name in (
        (INodeStore, "nodes"),
        (ICloneStore, "clones"),
        (IDenialStore, "denials"),
        (ISavedQueryStore, "saved_queries"),
        (IQueryStore, "queries"),
        (ILogBuffer, "logs"),
        (ISinkQueues, "sinks"),
        (ICarveStore, "carves"),
        (ISignals, "signals"),
    ):
        verifyObject(interface, getattr(stores, name))
    await stores.ping()


# -- nodes


@pytest_twisted.ensureDeferred
async def test_a_node_is_kept_whole(stores: Any) -> None:
    """What is recorded is what is got, details and odd letters included."""
    node = a_node(1, name='né "x"\n', host_details={"os_version": {"name": "Ubuntu"}}, tags=("a:b",), enrolled_at=NOW)
    await stores.nodes.record(node)
    assert await stores.nodes.get(node.node_id) == node
    assert await stores.nodes.get("f" * 20) is None
    assert await stores.nodes.get_many([node.node_id, "f" * 20]) == {node.node_id: node}


@pytest_twisted.ensureDeferred
async def test_nodes_are_found_by_every_name_they_have_now(stores: Any) -> None:
    """By id, name and host identifier; an old name finds nothing; a shared one finds all."""
    await stores.nodes.record(a_node(1, name="old"))
    await stores.nodes.record(a_node(1, name="new"))
    await stores.nodes.record(a_node(2, host_identifier="new"))
    assert await stores.nodes.find("old", 5) == []
    assert {node.node_id for node in await stores.nodes.find("new", 5)} == {a_node(1).node_id, a_node(2).node_id}
    assert [node.name for node in await stores.nodes.find("h1", 5)] == ["new"]
    assert [node.name for node in await stores.nodes.find(a_node(1).node_id, 5)] == ["new"]
    assert len(await stores.nodes.find("new", 1)) == 1


@pytest_twisted.ensureDeferred
async def test_given_tags_stay_through_enrollments(stores: Any) -> None:
    """They are changed apart from the record, and only of nodes that are there."""
    node = a_node(1, tags=("a:b",))
    await stores.nodes.tag(node.node_id, ["early"], [])
    assert await stores.nodes.get(node.node_id) is None
    assert (await stores.nodes.record(node)).given_tags == ()
    await stores.nodes.tag(node.node_id, ["prod", "ou:eu/web"], ["absent"])
    await stores.nodes.tag(node.node_id, ["x", "y"], ["prod", "x"])
    again = a_node(1, tags=("c",), given_tags=("not this",))
    assert (await stores.nodes.record(again)).given_tags == ("ou:eu/web", "y")
    found = await stores.nodes.get(node.node_id)
    assert (found.tags, found.given_tags) == (("c",), ("ou:eu/web", "y"))
    assert found.facts().tags == {"c", "ou:eu/web", "y"}
    assert (await stores.nodes.get_many([node.node_id]))[node.node_id] == found


@pytest_twisted.ensureDeferred
async def test_nodes_by_the_end_of_their_certificate(stores: Any) -> None:
    """The newest certificate counts, and a node without one is not there."""

    def record(number: int, not_after: float) -> Any:
        certificate = CertificateRecord("i", "CN=ca", "1f", "ab", not_after, "P-256")
        return stores.nodes.record(a_node(number, certificate=certificate))

    for number, moment in ((1, NOW + 3), (2, NOW + 1), (3, NOW + 2.5), (4, NOW - 1)):
        await record(number, moment)
    await record(3, NOW + 9)
    await stores.nodes.record(a_node(5))
    ids = [a_node(number).node_id for number in (4, 2, 1, 3)]
    assert await stores.nodes.expiring(0.0, math.inf, 9) == ids
    assert await stores.nodes.expiring(NOW, NOW + 9, 9) == ids[1:3]
    assert await stores.nodes.expiring(0.0, math.inf, 1) == ids[:1]
    assert await stores.nodes.count_expiring(-math.inf, NOW) == 1
    assert await stores.nodes.count_expiring(NOW + 1, NOW + 9) == 2
    await stores.nodes.forget(ids[0])
    assert await stores.nodes.count_expiring(-math.inf, math.inf) == 3


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_comes_in_place_of_another_is_noted(stores: Any) -> None:
    """When, and what was before; another enrollment with the same one changes nothing; issuers are counted."""

    def shown(fingerprint: str, issuer: str, at: float) -> CertificateRecord:
        return CertificateRecord("i", issuer, f"serial of {fingerprint}", fingerprint, NOW + 9, "P-256", shown_at=at)

    async def record(number: int, *words: Any) -> Node:
        return await stores.nodes.record(a_node(number, certificate=shown(*words)))  # type: ignore[no-any-return]

    assert (await record(1, "a", "CN=old", NOW)).certificate == shown("a", "CN=old", NOW)
    assert (await record(1, "a", "CN=old", NOW + 1)).certificate == shown("a", "CN=old", NOW)
    await record(2, "b", "CN=old", NOW)
    await stores.nodes.record(a_node(3))
    assert await stores.nodes.issuers() == {"CN=old": 2}
    assert await stores.nodes.renewed(0.0, 9) == []
    before = FormerCertificate("CN=old", "serial of a", NOW + 9)
    renewed = msgspec.structs.replace(shown("c", "CN=new", NOW + 2), before=before)
    assert (await record(1, "c", "CN=new", NOW + 2)).certificate == renewed
    assert (await record(1, "c", "CN=new", NOW + 3)).certificate == renewed
    assert (await stores.nodes.get(a_node(1).node_id)).certificate == renewed
    await record(2, "d", "CN=new", NOW + 4)
    assert await stores.nodes.issuers() == {"CN=new": 2}
    assert await stores.nodes.renewed(NOW, 9) == [a_node(2).node_id, a_node(1).node_id]
    assert await stores.nodes.renewed(NOW + 3, 9) == await stores.nodes.renewed(NOW, 1) == [a_node(2).node_id]
    assert [await stores.nodes.count_renewed(NOW + seconds) for seconds in (0, 3, 5)] == [2, 1, 0]
    await stores.nodes.forget(a_node(2).node_id)
    await stores.nodes.record(a_node(1))
    assert await stores.nodes.issuers() == {}
    assert await stores.nodes.renewed(0.0, 9) == []


@pytest_twisted.ensureDeferred
async def test_a_node_is_forgotten_by_every_name(stores: Any) -> None:
    """Tags and sightings too; another node of the same name stays."""
    one, two = a_node(1, name="n", host_identifier="h"), a_node(2, name="n")
    for node in (one, two):
        await stores.nodes.record(node)
        await stores.nodes.tag(node.node_id, ["t"], [])
        await stores.nodes.saw({node.node_id: Sighting(seen_at=NOW, first_seen_at=NOW)})
    await stores.nodes.forget(one.node_id)
    await stores.nodes.forget("f" * 20)
    assert await stores.nodes.find("h", 5) == []
    assert [node.node_id for node in await stores.nodes.find("n", 5)] == [two.node_id]
    assert await stores.nodes.seen_since(0, 0, 9) == [two.node_id]
    assert await stores.nodes.sightings([one.node_id]) == {}
    assert (await stores.nodes.record(one)).given_tags == ()


@pytest_twisted.ensureDeferred
async def test_sightings_never_go_back(stores: Any) -> None:
    """An older sighting changes nothing, and the first one is remembered."""
    await stores.nodes.saw({"a": Sighting(seen_at=100.5, first_seen_at=100.5, address="1")})
    await stores.nodes.saw({"a": Sighting(seen_at=200.5, first_seen_at=200.5, address="2")})
    await stores.nodes.saw({"a": Sighting(seen_at=150.0, first_seen_at=150.0, address="3")})
    addresses = (AddressSeen("2", 200.5), AddressSeen("1", 100.5))
    expected = Sighting(seen_at=200.5, first_seen_at=100.5, address="2", addresses=addresses)
    assert await stores.nodes.sightings(["a", "b"]) == {"a": expected}


@pytest_twisted.ensureDeferred
async def test_the_last_few_addresses_are_kept(stores: Any) -> None:
    """Each once, newest first, with the time at which the node was last heard of from there."""

    async def saw(*sightings: tuple[float, str]) -> list[tuple[str, float]]:
        for at, address in sightings:
            await stores.nodes.saw({"a": Sighting(seen_at=at, address=address)})
        return [(each.address, each.at) for each in (await stores.nodes.sightings(["a"]))["a"].addresses]

    assert await saw((1.0, ""), (2.5, "v4"), (3.5, "v4"), (4.0, "fe80::1")) == [("fe80::1", 4.0), ("v4", 3.5)]
    assert await saw((5.0, "fe80::1"), (6.0, "v4")) == [("v4", 6.0), ("fe80::1", 5.0)]
    found = await saw(*((7.0 + number, f"dhcp-{number}") for number in range(9)))
    assert [address for address, _ in found] == ["dhcp-8", "dhcp-7", "dhcp-6", "dhcp-5", "dhcp-4"]


@pytest_twisted.ensureDeferred
async def test_the_last_config_is_kept(stores: Any) -> None:
    """A sighting without one leaves it."""
    served = ConfigServed("e", "confirmed", NOW)
    await stores.nodes.saw({"a": Sighting(seen_at=1.0, config=ConfigServed("d", "sent", 1.0))})
    await stores.nodes.saw({"a": Sighting(seen_at=2.0, config=served)})
    await stores.nodes.saw({"a": Sighting(seen_at=3.0)})
    assert (await stores.nodes.sightings(["a"]))["a"].config == served


@pytest_twisted.ensureDeferred
async def test_found_tags_and_notes_stay_through_enrollments(stores: Any) -> None:
    """Beside the given ones, and only of nodes that are there."""
    node = a_node(1)
    await stores.nodes.tag_found(node.node_id, ["early"], [])
    await stores.nodes.annotate(node.node_id, "early")
    assert (await stores.nodes.record(node)) == node
    await stores.nodes.tag(node.node_id, ["given"], [])
    await stores.nodes.tag_found(node.node_id, ["docker", "x"], [])
    await stores.nodes.tag_found(node.node_id, [], ["x", "given"])
    await stores.nodes.annotate(node.node_id, 'né "x"\n')
    found = await stores.nodes.record(a_node(1, found_tags=("not this",), note="nor this"))
    assert (found.given_tags, found.found_tags, found.note) == (("given",), ("docker",), 'né "x"\n')
    assert await stores.nodes.get(node.node_id) == found
    assert (found.facts().tags, found.facts().found_tags) == ({"given"}, {"docker"})


@pytest_twisted.ensureDeferred
async def test_a_node_takes_over_from_another(stores: Any) -> None:
    """Given tags, note, first sighting and former nodes; the other is gone, and every name of it finds the one."""
    for number, tags in ((1, ["a", "b"]), (2, ["b", "c"]), (3, [])):
        node = a_node(number)
        await stores.nodes.record(node)
        await stores.nodes.tag(node.node_id, tags, [])
        await stores.nodes.annotate(node.node_id, f"note {number}")
        await stores.nodes.saw({node.node_id: Sighting(seen_at=NOW + number, first_seen_at=NOW + number)})
    one, two, three = (a_node(number).node_id for number in (1, 2, 3))
    first, second = FormerNode(one, 'née "x"', "h1", NOW), FormerNode(two, "node-2", "", NOW + 1.5)
    await stores.nodes.merge(first, "f" * 20)
    assert await stores.nodes.get(one)
    await stores.nodes.merge(first, two)
    await stores.nodes.merge(second, three)
    found = await stores.nodes.get(three)
    assert (found.given_tags, found.note) == (("a", "b", "c"), "note 3; note 2; note 1")
    assert found.former == (first, second)
    seen = await stores.nodes.sightings([one, two, three])
    assert {node_id: each.first_seen_at for node_id, each in seen.items()} == {three: NOW + 1}
    assert await stores.nodes.seen_since(0, 0, 9) == [three]
    for name in (one, 'née "x"', "h1", two, "node-2", three, "node-3"):
        assert [node.node_id for node in await stores.nodes.find(name, 5)] == [three], name
    assert (await stores.nodes.record(a_node(3, name="again"))).former == (first, second)
    await stores.nodes.forget(three)
    for name in (one, 'née "x"', "h1", two, "node-2", three, "again"):
        assert await stores.nodes.find(name, 5) == [], name


@pytest_twisted.ensureDeferred
async def test_nodes_are_paged_newest_first(stores: Any) -> None:
    """A page at a time, from a moment on."""
    await stores.nodes.saw({f"n{number:04}": Sighting(seen_at=float(number)) for number in range(1200)})
    assert await stores.nodes.count_since(0) == 1200
    assert await stores.nodes.count_since(1190) == 10
    assert await stores.nodes.seen_since(1190, 0, 3) == ["n1199", "n1198", "n1197"]
    assert await stores.nodes.seen_since(1190, 9, 3) == ["n1190"]


@pytest_twisted.ensureDeferred
async def test_revocations_come_and_go(stores: Any) -> None:
    """A newer one replaces an older; taking back one that is not there is no error."""
    await stores.nodes.restore("a")
    await stores.nodes.revoke(Revocation("a", 1.0, "x"))
    await stores.nodes.revoke(Revocation("a", 2.0, "y", keys_before=1.5))
    assert await stores.nodes.revocations() == [Revocation("a", 2.0, "y", keys_before=1.5)]
    await stores.nodes.restore("a")
    assert await stores.nodes.revocations() == []


@pytest_twisted.ensureDeferred
async def test_a_store_that_lost_its_data_does_not_pass_for_one_where_nobody_is_refused(server: RealValkey) -> None:
    """It says so until the lists are begun again, with what was known; what came meanwhile stays as it is."""
    stores = server.stores(reactor)
    await stores.ready()
    with pytest.raises(ListLost):
        await stores.nodes.revocations()
    assert await stores.denials.changed("") is None
    with pytest.raises(ListLost):
        await stores.denials.changed("seen before")
    await stores.nodes.revoke(Revocation("a", 2.0))
    assert await stores.nodes.begin_revocations([Revocation("a", 1.0), Revocation("b", 1.0)])
    assert not await stores.nodes.begin_revocations([Revocation("c", 1.0)])
    assert await stores.denials.begin([a_denial(1)])
    assert not await stores.denials.begin([a_denial(2)])
    revoked = sorted(await stores.nodes.revocations(), key=lambda each: each.node_id)
    assert revoked == [Revocation("a", 2.0), Revocation("b", 1.0)]
    assert list((await stores.denials.changed("")).denials) == [a_denial(1)]
    await stores.close()


# -- clones


def a_clone(number: int = 0, **more: Any) -> Clone:
    fields: dict[str, Any] = {"node_id": NODE, "clone_id": f"{number:020x}", "name": 'né "x"', "kind": "keys"}
    return Clone(**{**fields, "suspected_at": NOW, **more})


@pytest_twisted.ensureDeferred
async def test_a_clone_is_news_once(stores: Any) -> None:
    """When it is found; it is kept whole, and never lost to a mere suspicion."""
    found = a_clone(1, found_at=NOW, seen_at=NOW, places=("a", "b"), keys=(int(NOW) - 1, int(NOW)))
    assert not await stores.clones.keep(a_clone(1))
    assert await stores.clones.keep(found)
    assert not await stores.clones.keep(a_clone(1))
    assert await stores.clones.all() == [found]
    later = a_clone(1, found_at=NOW, seen_at=NOW + 9)
    assert not await stores.clones.keep(later)
    assert await stores.clones.all() == [later]
    assert await stores.clones.keep(a_clone(2, found_at=NOW))
    await stores.clones.drop([])
    await stores.clones.drop([later.clone_id, "f" * 20])
    assert [each.clone_id for each in await stores.clones.all()] == [a_clone(2).clone_id]


@pytest_twisted.ensureDeferred
async def test_clones_are_bounded(stores: Any) -> None:
    """Past the limit a new one is not kept; those that are can change."""
    for number in range(MOST_CLONES):
        await stores.clones.keep(a_clone(number))
    assert not await stores.clones.keep(a_clone(MOST_CLONES, found_at=NOW))
    assert await stores.clones.keep(a_clone(3, found_at=NOW))
    assert len(await stores.clones.all()) == MOST_CLONES


# -- denials


def a_denial(number: int) -> Denial:
    return Denial(
        denial_id=f"d{number}", kind="serial", value=f"{number:x}", issuer="CA", created_at=NOW + number, created_by="x"
    )


@pytest_twisted.ensureDeferred
async def test_denials_are_read_when_they_changed(stores: Any) -> None:
    """The oldest first; what a process has seen is not read again, and a change is never taken for that."""
    denials = stores.denials
    assert await denials.changed("") is None
    assert await denials.add(a_denial(2)) and await denials.add(a_denial(1))
    first = await denials.changed("")
    assert list(first.denials) == [a_denial(1), a_denial(2)]
    assert await denials.changed(first.version) is None
    assert await denials.remove(["d1", "d7"]) == 1
    assert await denials.remove(["d7"]) == 0
    second = await denials.changed(first.version)
    assert list(second.denials) == [a_denial(2)]
    assert await denials.changed(second.version) is None
    assert await denials.remove(["d2"]) == 1
    third = await denials.changed(second.version)
    assert third == DenialList(third.version, [])
    assert len({"", first.version, second.version, third.version}) == 4


@pytest_twisted.ensureDeferred
async def test_denials_are_bounded(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is not kept; one that is kept may be kept anew."""
    monkeypatch.setattr(memory_denials, "MOST_DENIALS", 2)
    monkeypatch.setattr(redis_denials, "MOST_DENIALS", 2)
    assert [await stores.denials.add(a_denial(number)) for number in (1, 2, 3)] == [True, True, False]
    assert await stores.denials.add(msgspec.structs.replace(a_denial(2), reason="again"))
    assert [each.reason for each in (await stores.denials.changed("")).denials] == ["", "again"]


# -- saved queries


def a_saved_query(name: str, **more: Any) -> SavedQuery:
    return SavedQuery(**{"name": name, "sql": "select 'é'", "saved_by": "x", "saved_at": NOW, **more})


@pytest_twisted.ensureDeferred
async def test_saved_queries_are_kept_by_name(stores: Any) -> None:
    """By name; one takes the place of another only when told so."""
    saved = stores.saved_queries
    assert (await saved.all(), await saved.get("a"), await saved.forget("a")) == ([], None, False)
    one, other = a_saved_query("b", target=Target(where="tag:x")), a_saved_query("a", description="d", discovery="s")
    assert [await saved.keep(each, False) for each in (one, other)] == [Kept.KEPT] * 2
    assert await saved.all() == [other, one]
    again = a_saved_query("b", sql="select 2")
    assert await saved.keep(again, False) is Kept.TAKEN
    assert await saved.get("b") == one
    assert await saved.keep(again, True) is Kept.KEPT
    assert await saved.get("b") == again
    assert await saved.forget("b") is True
    assert await saved.all() == [other]


@pytest_twisted.ensureDeferred
async def test_saved_queries_are_bounded(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is not kept; one that is there may be replaced."""
    monkeypatch.setattr(memory_savedqueries, "MOST_SAVED", 2)
    monkeypatch.setattr(redis_savedqueries, "MOST_SAVED", 2)
    kept = [await stores.saved_queries.keep(a_saved_query(name), True) for name in ("a", "b", "c", "a")]
    assert kept == [Kept.KEPT, Kept.KEPT, Kept.FULL, Kept.KEPT]


# -- queries


@pytest_twisted.ensureDeferred
async def test_a_query_is_kept_whole(stores: Any) -> None:
    """What is added is what is got, and is open until it expires."""
    query = a_query(discovery="select 2", created_by="me")
    await stores.queries.add(query)
    assert await stores.queries.get("q1") == query
    assert await stores.queries.get("q2") is None
    assert await stores.queries.open_ids(NOW) == ["q1"]
    assert await stores.queries.open_ids(NOW + 100) == []
    assert await stores.queries.recent(5) == [query]


@pytest_twisted.ensureDeferred
async def test_recent_queries_are_newest_first(stores: Any) -> None:
    """In the order of their creation; many are had at once."""
    for number in (2, 1, 3):
        await stores.queries.add(a_query(f"q{number}", created_at=NOW + number, expires_at=NOW + 100))
    assert set(await stores.queries.open_ids(NOW + 5)) == {"q1", "q2", "q3"}
    assert set(await stores.queries.get_many(["q1", "q3", "q9"])) == {"q1", "q3"}
    assert [query.query_id for query in await stores.queries.recent(2)] == ["q3", "q2"]


@pytest_twisted.ensureDeferred
async def test_a_lease_keeps_a_query_from_being_taken_again(stores: Any) -> None:
    """Taken, leased, taken again when the lease is over, exhausted when the attempts are used up."""
    await stores.queries.add(a_query())

    async def take(at: float) -> Any:
        return (await stores.queries.take(NODE, ["q1"], at, 20))["q1"]

    first = await take(NOW)
    assert (first.offer, first.lease_ends_at) == (Offer.TAKEN, pytest.approx(NOW + 30, abs=1e-3))
    assert (await take(NOW + 29)).offer is Offer.LEASED
    assert (await take(NOW + 31)).offer is Offer.TAKEN
    assert (await take(NOW + 62)).offer is Offer.EXHAUSTED
    assert (await stores.queries.take("1" * 20, ["q1", "q2"], NOW + 62, 20))["q1"].offer is Offer.TAKEN
    assert await stores.queries.progress("q1") == QueryProgress(2, 0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_takes_of_many_nodes_at_one_time_do_not_mix(stores: Any) -> None:
    """Each node gets what it asked for, also while hundreds take; one that stops waiting disturbs nobody."""
    for name in ("q1", "q2"):
        await stores.queries.add(a_query(name))
    nodes = [f"{number:020}" for number in range(300)]
    await stores.queries.take(nodes[7], ["q1"], NOW, 20)
    wanted = {node: [["q1"], ["q2", "q9"], ["q2", "q1"]][number % 3] for number, node in enumerate(nodes)}
    asked = {node: Deferred.fromCoroutine(stores.queries.take(node, names, NOW, 20)) for node, names in wanted.items()}
    asked.pop(nodes[100]).addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    for node, taking in asked.items():
        expected = {name: Offer.CLOSED if name == "q9" else Offer.TAKEN for name in wanted[node]}
        if node == nodes[7]:
            expected = {"q2": Offer.TAKEN, "q9": Offer.CLOSED}
        assert {name: each.offer for name, each in (await taking).items()} == expected
    again = await stores.queries.take(nodes[299], ["q1", "q2"], NOW, 20)
    assert {each.offer for each in again.values()} == {Offer.LEASED}
    assert (await stores.queries.progress("q2")).offered in (199, 200)


@pytest_twisted.ensureDeferred
async def test_what_is_closed_is_not_taken(stores: Any) -> None:
    """Unknown, expired and cancelled queries are closed."""
    await stores.queries.add(a_query("q1"))
    await stores.queries.add(a_query("q2"))
    assert await stores.queries.cancel("q2", NOW) is True
    assert await stores.queries.cancel("q9", NOW) is False
    taken = await stores.queries.take(NODE, ["q1", "q2", "q9"], NOW + 100, 20)
    assert {name: each.offer for name, each in taken.items()} == dict.fromkeys(("q1", "q2", "q9"), Offer.CLOSED)
    assert (await stores.queries.get("q2")).cancelled_at == NOW
    assert await stores.queries.open_ids(NOW) == ["q1"]
    assert await stores.queries.take(NODE, [], NOW, 20) == {}


@pytest_twisted.ensureDeferred
async def test_a_release_undoes_a_take(stores: Any) -> None:
    """The query can be taken at once, and the attempt did not count; an answer is not undone."""
    await stores.queries.add(a_query(max_attempts=1))
    await stores.queries.take(NODE, ["q1"], NOW, 20)
    await stores.queries.release(NODE, ["q1", "q9"])
    await stores.queries.release(NODE, ["q1"])
    assert (await stores.queries.progress("q1")).offered == 0
    assert (await stores.queries.take(NODE, ["q1"], NOW, 20))["q1"].offer is Offer.TAKEN
    await stores.queries.add_results([a_result()])
    await stores.queries.release(NODE, ["q1"])
    assert (await stores.queries.take(NODE, ["q1"], NOW, 20))["q1"].offer is Offer.ANSWERED


@pytest_twisted.ensureDeferred
async def test_a_result_counts_once(stores: Any) -> None:
    """Repeats, results that nobody asked for, and those to unknown queries are left out."""
    await stores.queries.add(a_query("q1"))
    await stores.queries.add(a_query("q2"))
    await stores.queries.take(NODE, ["q1"], NOW, 20)
    assert await stores.queries.add_results([a_result("q1"), a_result("q2"), a_result("q9"), a_result("q1")]) == ["q1"]
    assert await stores.queries.add_results([a_result("q1")]) == []
    assert await stores.queries.add_results([]) == []
    (stored,) = await stores.queries.results("q1", "", 10)
    assert stored.result == a_result("q1")
    assert await stores.queries.progress("q1") == QueryProgress(1, 1, 0, 11, 1)


@pytest_twisted.ensureDeferred
async def test_late_results_count(stores: Any) -> None:
    """After the lease, the expiry and the cancelling, a node that took the query may still answer."""
    await stores.queries.add(a_query())
    await stores.queries.take(NODE, ["q1"], NOW, 20)
    await stores.queries.cancel("q1", NOW)
    assert await stores.queries.add_results([a_result(status=1, message="no such table", received_at=NOW + 500)]) == [
        "q1"
    ]
    assert (await stores.queries.progress("q1")).failed == 1


@pytest_twisted.ensureDeferred
async def test_results_have_a_size_limit_and_pages(stores: Any) -> None:
    """Past the limit the answers count and their rows are dropped; results are read on from an id."""
    await stores.queries.add(a_query(max_results_bytes=25))
    nodes = [f"{number:020x}" for number in range(4)]
    for node in nodes:
        await stores.queries.take(node, ["q1"], NOW, 20)
        await stores.queries.add_results([a_result(node=node)])
    first = await stores.queries.results("q1", "", 3)
    rest = await stores.queries.results("q1", first[-1].result_id, 3)
    assert [each.result.node_id for each in [*first, *rest]] == nodes
    assert [each.result.rows_dropped for each in [*first, *rest]] == [False, False, True, True]
    assert bytes(rest[0].result.rows) == b"[]"
    assert await stores.queries.progress("q1") == QueryProgress(4, 4, 0, 22, 2)
    assert await stores.queries.results("q9", "", 3) == []


@pytest_twisted.ensureDeferred
async def test_results_have_a_limit_of_rows(stores: Any) -> None:
    """One more than so many are not kept; fewer after that are."""
    await stores.queries.add(a_query(max_results_rows=3))
    nodes = [f"{number:020x}" for number in range(3)]
    for node, rows in zip(nodes, (2, 2, 1), strict=True):
        await stores.queries.take(node, ["q1"], NOW, 20)
        await stores.queries.add_results([a_result(node=node, row_count=rows)])
    found = await stores.queries.results("q1", "", 3)
    assert [each.result.rows_dropped for each in found] == [False, True, False]
    assert [each.result.row_count for each in found] == [2, 2, 1]
    assert (await stores.queries.progress("q1")).results_rows == 3


@pytest_twisted.ensureDeferred
async def test_what_a_result_cost_is_kept(stores: Any) -> None:
    """osquery's figures, and the time from the newest lease; of an old osquery that time alone."""
    await stores.queries.add(a_query(max_results_bytes=0))
    stats = {"wall_time_ms": 12, "user_time": 3, "system_time": 1, "memory": 4096, "more": 1}
    nodes = [f"{number:020x}" for number in range(3)]
    await stores.queries.take(nodes[0], ["q1"], NOW, 20)
    await stores.queries.add_results([a_result(node=nodes[0], stats=stats, received_at=NOW + 2.5)])
    for moment in (NOW, NOW + 40):
        await stores.queries.take(nodes[1], ["q1"], moment, 20)
    await stores.queries.add_results([a_result(node=nodes[1], received_at=NOW + 41)])
    # Another server's clock is behind.
    await stores.queries.take(nodes[2], ["q1"], NOW + 1, 20)
    await stores.queries.add_results([a_result(node=nodes[2], received_at=NOW)])
    costs = await stores.queries.costs("q1")
    assert [(cost.node_id, cost.wall_time_ms, cost.memory) for cost in costs] == [
        (nodes[0], 12, 4096),
        (nodes[1], None, None),
        (nodes[2], None, None),
    ]
    assert [cost.elapsed for cost in costs] == pytest.approx([2.5, 1.0, 0.0], abs=1e-3)
    results = await stores.queries.results("q1", "", 9)
    assert [each.result.elapsed for each in results] == pytest.approx([2.5, 1.0, 0.0], abs=1e-3)
    assert results[0].result.stats == stats
    assert await stores.queries.costs("q9") == []


@pytest_twisted.ensureDeferred
async def test_a_node_takes_no_more_than_it_can_have(stores: Any) -> None:
    """The first that it may have; those behind are left, and cost it nothing."""
    for number in range(5):
        await stores.queries.add(a_query(f"q{number}", max_attempts=1))
    await stores.queries.take(NODE, ["q1"], NOW, 20)
    names = [f"q{number}" for number in range(5)]
    taken = await stores.queries.take(NODE, names, NOW, 2)
    expected = [Offer.TAKEN, Offer.LEASED, Offer.TAKEN, Offer.LEFT, Offer.LEFT]
    assert [taken[name].offer for name in names] == expected
    again = await stores.queries.take(NODE, names, NOW, 20)
    assert [again[name].offer for name in names[3:]] == [Offer.TAKEN] * 2
    assert (await stores.queries.progress("q4")).offered == 1


@pytest_twisted.ensureDeferred
async def test_a_query_opens_when_its_time_has_come(stores: Any) -> None:
    """Before that it is there for those who watch, and nobody can take it."""
    await stores.queries.add(a_query(opens_at=NOW + 10))
    assert await stores.queries.open_ids(NOW) == ["q1"]
    assert (await stores.queries.take(NODE, ["q1"], NOW + 9, 20))["q1"].offer is Offer.CLOSED
    assert (await stores.queries.take(NODE, ["q1"], NOW + 10, 20))["q1"].offer is Offer.TAKEN


@pytest_twisted.ensureDeferred
async def test_a_query_that_waits_for_approval_is_offered_to_nobody(stores: Any) -> None:
    """Before somebody approves; the first to do so counts, and what is called off is not approved any more."""
    waiting = [a_query(name, is_waiting=True, created_by="a", lasts=50.0) for name in ("q1", "q2")]
    for query in waiting:
        await stores.queries.add(query)
    assert await stores.queries.open_ids(NOW) == []
    assert (await stores.queries.take(NODE, ["q1"], NOW, 20))["q1"].offer is Offer.CLOSED
    assert {query.query_id for query in await stores.queries.recent(5)} == {"q1", "q2"}
    approved = waiting[0].approved("b", NOW + 90)
    assert await stores.queries.approve(approved) is True
    assert await stores.queries.approve(waiting[0].approved("c", NOW + 91)) is False
    assert await stores.queries.get("q1") == approved
    assert approved.expires_at == NOW + 140
    assert await stores.queries.open_ids(NOW + 100) == ["q1"]
    assert (await stores.queries.take(NODE, ["q1"], NOW + 139, 20))["q1"].offer is Offer.TAKEN
    await stores.queries.cancel("q2", NOW)
    assert await stores.queries.approve(waiting[1].approved("b", NOW)) is False
    assert await stores.queries.approve(a_query("q9", created_by="b")) is False
    assert await stores.queries.open_ids(NOW) == ["q1"]


@pytest_twisted.ensureDeferred
async def test_queries_are_kept_as_long_as_they_say(stores: Any, server: RealValkey) -> None:
    """All that belongs to one goes with it."""
    await stores.queries.add(a_query("q1", expires_at=NOW - 10, created_at=NOW - 20, keep=5.0))
    await stores.queries.add(a_query("q2", keep=1000.0))
    await stores.queries.take(NODE, ["q2"], NOW, 20)
    await stores.queries.add_results([a_result("q2")])
    assert [query.query_id for query in await stores.queries.recent(5)] == ["q2"]
    if isinstance(stores, MemoryStores):
        return
    for part in ("", ":nodes", ":results", ":costs"):
        # NOW is when the tests began.
        left = int(server.ask("TTL", f"{stores.queries._prefix}query:q2{part}")) + time.time() - NOW
        assert 1000 < left <= 1102, part


# -- carves


@pytest_twisted.ensureDeferred
async def test_blocks_are_counted_once(stores: Any) -> None:
    """The same block twice is one block."""
    await stores.carves.add(a_session())
    assert [await stores.carves.mark("s1", block) for block in (2, 0, 2, 1)] == [1, 2, 2, 3]
    progress = await stores.carves.get("s1")
    assert (progress.session, progress.received_blocks) == (a_session(), 3)
    assert await stores.carves.get("s9") is None


@pytest_twisted.ensureDeferred
async def test_a_carve_is_completed_once(stores: Any) -> None:
    """The first wins; a complete session is not under way any more."""
    await stores.carves.add(a_session())
    await stores.carves.add(a_session("s2", started_at=NOW + 1))
    assert {each.session_id for each in await stores.carves.unfinished(NODE)} == {"s1", "s2"}
    done = a_session(completed_at=NOW + 2, sha256="ab", file_name="f")
    assert await stores.carves.complete(done) is True
    assert await stores.carves.complete(a_session(completed_at=NOW + 3)) is False
    assert (await stores.carves.get("s1")).session == done
    assert [each.session_id for each in await stores.carves.unfinished(NODE)] == ["s2"]
    assert [each.session.session_id for each in await stores.carves.recent(5)] == ["s2", "s1"]


@pytest_twisted.ensureDeferred
async def test_a_session_can_be_forgotten(stores: Any) -> None:
    """Nothing of it is left; forgetting what is not there is no error."""
    await stores.carves.add(a_session())
    await stores.carves.forget("s1")
    await stores.carves.forget("s1")
    assert await stores.carves.get("s1") is None
    assert await stores.carves.unfinished(NODE) == []
    assert await stores.carves.recent(5) == []


# -- signals


@pytest_twisted.ensureDeferred
async def test_signals_reach_every_subscriber_of_their_topic(stores: Any) -> None:
    """With their payload, and not those of other topics; who has left hears nothing more."""
    heard: list[tuple[str, str]] = []
    leave = stores.signals.subscribe("a", lambda payload: heard.append(("one", payload)))
    leave_two = stores.signals.subscribe("a", lambda payload: heard.append(("two", payload)))
    await soon()
    await stores.signals.publish("a", "x")
    await stores.signals.publish("b", "y")
    await soon()
    assert sorted(heard) == [("one", "x"), ("two", "x")]
    leave()
    leave()
    await stores.signals.publish("a", "z")
    await soon()
    assert heard[2:] == [("two", "z")]
    leave_two()


@pytest_twisted.ensureDeferred
async def test_stores_signal_what_they_store(stores: Any) -> None:
    """A result wakes with its query's id, a batch wakes the topic of logs."""
    heard: list[str] = []
    leaving = [stores.signals.subscribe(topic, heard.append) for topic in ("results", "logs")]
    await soon()
    await stores.queries.add(a_query())
    await stores.queries.take(NODE, ["q1"], NOW, 20)
    await stores.queries.add_results([a_result()])
    await stores.logs.append(a_batch())
    await soon()
    assert sorted(heard) == ["", "q1"]
    for leave in leaving:
        leave()
