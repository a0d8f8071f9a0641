"""Clones: two machines under one name, key or certificate are told apart, served and reported; one machine is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from osqtwist import cloneevidence
from osqtwist.clone import is_another, mark_of
from osqtwist.cloneevidence import GRACE, READ_TURNS, READS_LOOKED_AT, KeysInTurn, ReadsAtOnce
from tests.harness import SECRET, InMemoryServer, certificate_for

A, B, C = ("aaaa-1", "s-1"), ("bbbb-2", "s-2"), ("cccc-3", "s-3")


def details(uuid: str = "", serial: str = "", instance: str = "") -> dict[str, Any]:
    system = {"uuid": uuid, "hardware_serial": serial}
    return {"system_info": system, "osquery_info": {"instance_id": instance}}


class Server(InMemoryServer):
    """With what was reported, and machines that enroll."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.reports: list[tuple[str, str, Any]] = []
        self.api.clones._report = lambda *report: self.reports.append(report)

    def machine(self, machine: tuple[str, str] = ("", ""), host: str = "web", instance: str = "") -> str:
        """A machine that enrolls; answers with its key."""
        body = {"enroll_secret": SECRET, "host_identifier": host, "host_details": details(*machine, instance)}
        code, answer = self.ask("/enroll", body)
        assert code == 200, answer
        return str(answer["node_key"])

    def serve(self, *keys: str) -> None:
        """A request with each key, one after the other, in half a minute."""
        for key in keys:
            assert "options" in self.ask("/config", {"node_key": key})[1]
            self.turn(30 / len(keys))

    def node_of(self, key: str) -> Any:
        """The node that a key stands for: known by the rows of a query that it answers."""
        query = self.issue(f"select {self.reactor.seconds()}")
        assert query.query_id in self.ask("/distributed/read", {"node_key": key})[1]["queries"]
        self.ask("/distributed/write", {"node_key": key, "queries": {query.query_id: []}, "statuses": {}})
        (result,) = self.await_(self.stores.queries.results(query.query_id, "", 9))
        self.await_(self.distributed.cancel(query.query_id))
        return result.result.node_id

    def clones(self) -> Any:
        """What operators see."""
        return self.operate("/api/v1/clones")[1]["clones"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    yield found
    found.stop()
    assert not [call for call in found.reactor.getDelayedCalls() if call.active()]


# -- what shows that there are two


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (A, B, True),
        (A, A, False),
        (("AAAA-1", "S-1"), A, False),
        (("aaaa-1", "s-9"), A, True),
        (("", "s-1"), A, False),
        (("", ""), A, False),
        (("03000200-0400-0500-0006-000700080009", "To be filled by O.E.M."), A, False),
        (("03000200-0400-0500-0006-000700080009", "s-2"), A, True),
        (("aaaa-1", "0000000"), ("aaaa-1", "Default string"), False),
    ],
)
def test_marks_of_machines(one: tuple[str, str], other: tuple[str, str], expected: bool) -> None:
    """By UUID and serial number; one that says nothing, or a vendor's placeholder, is nobody's."""
    assert is_another(mark_of(details(*one)), mark_of(details(*other))) is expected
    assert is_another(mark_of(details(*other)), mark_of(details(*one))) is expected


def test_no_details_are_no_mark() -> None:
    """Every table may be missing."""
    assert not is_another(mark_of({}), mark_of(details(*A)))


def turns(*steps: tuple[float, float]) -> list[bool]:
    """Keys used at times, the newest of which is from 1000."""
    keys = KeysInTurn()
    return [keys.used("n", key, 1000.0, at) for key, at in steps]


def test_keys_in_turn() -> None:
    """An older key, the newest, an older one: nobody alone does that."""
    assert turns((900, 1070), (1000, 1080), (900, 1090)) == [False, False, True]
    assert turns((900, 1070), (900, 1080), (1000, 1090), (1000, 1095), (800, 1099)) == [False] * 4 + [True]


@pytest.mark.parametrize(
    "steps",
    [
        [(900, 1001), (1000, 1002), (900, 1010), (1000, 1011)],
        [(1000, 1070 + number) for number in range(9)],
        [(1000, 1070), (900, 1080), (900, 1090), (900, 1100)],
        [(900, 1070), (900, 1080), (1000, 1090), (1000, 1100)],
        [(900, 1070), (1000, 1080), (900, 1080 + cloneevidence.TURNS_WITHIN)],
    ],
    ids=["requests under way", "the newest alone", "set back to a snapshot", "and forth again", "seldom"],
)
def test_one_machine_does_not_take_turns_with_itself(steps: list[tuple[float, float]]) -> None:
    """What a single machine can do."""
    assert not any(turns(*steps))


def test_two_machines_read_at_once() -> None:
    """Each begins while the other is held: shown after some five reads."""
    reads = ReadsAtOnce()
    reads.begin("n", "a")
    found = []
    for address, other in [("b", "a"), ("a", "b")] * 5:
        found.append(reads.begin("n", address))
        reads.end("n", other)
    assert [bool(each) for each in found].index(True) == READ_TURNS
    assert next(filter(None, found)) == ("b", "a")


def test_with_many_processes_it_takes_longer() -> None:
    """Of the pairs of reads few are in one process; they are enough."""
    reads = ReadsAtOnce(shares=8)
    found = None
    for number in range(400):
        address, other = ("a", "b") if number % 2 else ("b", "a")
        # Here is one read in eight, and beside it now and then the other's.
        if number % 8 < 2:
            reads.begin("n", other)
            found = found or reads.begin("n", address)
            reads.end("n", address)
    assert found


@pytest.mark.parametrize(
    "script",
    [
        ["+a", "-a"] * 20,
        ["+a", "-a", "+b", "-b"] * 20,
        ["+a", "+b", "-a", "-b", *["+b", "-b"] * 20] * 3,
        ["+a", "+b", "-a", *["-b", "+b"] * 6, "+a", "-b", *["-a", "+a"] * 6] * 20,
        ["+a", "+a", "-a"] * 20,
        [word for number in range(40) for word in (f"+{number}", f"+{number + 1}", f"-{number}")],
    ],
    ids=["stays", "two addresses", "moves", "to and fro", "sends again", "a new address each time"],
)
def test_one_machine_does_not_read_at_once(script: list[str]) -> None:
    """A laptop that moves leaves one read behind, one that has IPv4 and IPv6 none."""
    reads = ReadsAtOnce()
    for word in script:
        if word[0] == "+":
            assert reads.begin("n", word[1:]) is None
        else:
            reads.end("n", word[1:])


def test_evidence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever nodes do."""
    monkeypatch.setattr(cloneevidence, "MOST_SUSPECTS", 10)
    keys, reads = KeysInTurn(), ReadsAtOnce()
    for number in range(50):
        keys.used(f"n{number}", 900, 1000, 2000)
        reads.begin(f"n{number}", "a")
        reads.begin(f"n{number}", "b")
        reads.end(f"n{number}", "b")
    assert (len(keys), len(reads), len(reads._held)) == (10, 10, 0)
    for _ in range(READS_LOOKED_AT):
        reads.begin("n49", "b")
    assert len(reads) == 9


# -- two machines of one host identifier


def test_another_machine_gets_an_id_of_its_own(server: Server) -> None:
    """At once; both keys stay good, each enrolls again as itself, and operators find each by its name."""
    first = server.machine(A)
    second = server.machine(B)
    assert server.node_of(first) != server.node_of(second)
    assert server.node_of(server.machine(B)) == server.node_of(second)
    assert server.node_of(server.machine(A)) == server.node_of(first)
    server.turn(3)
    names = {each["name"] for each in server.operate("/api/v1/nodes")[1]["nodes"]}
    assert names == {"web", f"web~{server.node_of(second)[:6]}"}
    assert server.operate("/api/v1/nodes/web")[1]["node"] == server.node_of(first)
    assert server.operate(f"/api/v1/nodes/web~{server.node_of(second)[:6]}")[1]["node"] == server.node_of(second)


def test_it_is_reported_once_both_live(server: Server) -> None:
    """After a minute in which both go on; once, in the log, the metric, the list and the call-back."""
    first, second = server.machine(A), server.machine(B)
    server.serve(first, second)
    assert server.clones() == []
    for _ in range(4):
        server.serve(first, second)
    (clone,) = server.clones()
    ids = (server.node_of(first), server.node_of(second))
    assert (clone["node"], clone["clone"]) == ids
    assert (clone["name"], clone["kind"], clone["parted"]) == ("web", "machines", True)
    assert clone["places"] == ["aaaa-1|s-1", "bbbb-2|s-2"]
    for own, other in (ids, ids[::-1]):
        assert server.operate(f"/api/v1/nodes/{own}")[1]["clones"] == [other]
    assert server.operate("/api/v1/status")[1]["node_clones"] == 1
    for _ in range(300):
        server.serve(first, second)
    ((kind, node_id, facts),) = server.reports
    assert (kind, node_id, facts["name"]) == ("clone", ids[1], "web")
    assert server.clones()[0]["seen_at"] > clone["seen_at"]


def test_a_machine_that_took_the_place_of_another_is_no_clone(server: Server) -> None:
    """New hardware under the old name: a node of its own, and nothing to report, since the old one is gone."""
    server.serve(server.machine(A))
    second = server.machine(B)
    for _ in range(20):
        server.serve(second)
    assert server.clones() == server.reports == []


def test_a_forgotten_place_is_free(server: Server) -> None:
    """Who comes next under that name has it."""
    first, second = server.machine(A), server.machine(B)
    node_id = server.node_of(first)
    server.operate(f"/api/v1/nodes/{node_id}/forget", {}, "POST")
    assert server.node_of(server.machine(C)) == node_id
    assert server.node_of(server.machine(B)) == server.node_of(second)


def test_machines_that_change_all_the_time_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image with a new UUID at each start takes the place that was silent longest."""
    monkeypatch.setattr("osqtwist.clonewatch.MOST_OF_ONE_NAME", 3)
    for number in range(8):
        server.serve(server.machine((f"uuid-{number}", "")))
    assert len(server.operate("/api/v1/nodes")[1]["nodes"]) == 3


# -- machines that look alike


def test_a_machine_that_is_imaged_anew_is_the_same_node(server: Server) -> None:
    """The old key is never used again: nothing is reported."""
    old = server.machine(A, instance="1")
    server.serve(old)
    new = server.machine(A, instance="2")
    assert server.node_of(new) == server.node_of(old)
    for _ in range(10):
        server.serve(new)
    assert server.clones() == server.reports == []


def part(server: Server, first: str, second: str) -> None:
    server.turn(GRACE)
    for _ in range(3):
        server.serve(first, second)


def test_clones_are_parted_when_both_go_on(server: Server) -> None:
    """One UUID, two keys in turn: the later one stands for a node of its own; neither is ever refused."""
    first, second = server.machine(A), server.machine(A)
    assert server.node_of(first) == server.node_of(second)
    part(server, first, second)
    one, other = server.node_of(first), server.node_of(second)
    assert one != other
    (clone,) = server.clones()
    assert (clone["node"], clone["clone"], clone["kind"], clone["parted"]) == (one, other, "keys", True)
    assert [report[1] for report in server.reports] == [other]
    for _ in range(10):
        server.serve(first, second)
    assert len(server.reports) == 1
    assert {each["name"] for each in server.operate("/api/v1/nodes")[1]["nodes"]} == {"web", f"web~{other[:6]}"}


def test_parted_clones_come_back_as_themselves(server: Server) -> None:
    """When they enroll again: by their database's id, or else the one that fell silent is the one that enrolled."""
    first, second = server.machine(A, instance="1"), server.machine(A, instance="2")
    part(server, first, second)
    one, other = server.node_of(first), server.node_of(second)
    assert server.node_of(server.machine(A, instance="2")) == other
    assert server.node_of(server.machine(A, instance="1")) == one
    first, third = server.machine(A, instance="1"), server.machine(A, instance="1")
    part(server, first, third)
    assert server.node_of(third) == other
    assert len(server.clones()) == 1


def test_three_alike(server: Server) -> None:
    """Each in the end has an id of its own."""
    keys = [server.machine(A, instance=str(number)) for number in range(3)]
    server.turn(GRACE)
    for _ in range(8):
        server.serve(*keys)
    assert len({server.node_of(key) for key in keys}) == 3


def test_keys_of_one_second_are_two(server: Server) -> None:
    """Otherwise clones that enroll at one moment could never be told apart."""
    keys = [server.machine(A) for _ in range(5)]
    assert len(set(keys)) == 5


def test_what_was_found_is_known_after_a_restart(server: Server, tmp_path: Path) -> None:
    """And in every other process: it is in the store."""
    first, second = server.machine(A), server.machine(A)
    part(server, first, second)
    claims = server.api.enrollment.node_keys.verify(second)
    other = InMemoryServer(tmp_path)
    other.stores.clones.store = server.stores.clones.store
    other.await_(other.api.clones.refresh())
    assert other.api.clones.node_of(claims.node_id, claims.issued_at) == server.node_of(second)
    other.stop()


def test_a_parted_clone_can_be_revoked_alone(server: Server) -> None:
    """By its own name; the other goes on."""
    first, second = server.machine(A), server.machine(A)
    part(server, first, second)
    other = server.node_of(second)
    server.operate(f"/api/v1/nodes/web~{other[:6]}/revoke", {}, "POST")
    assert server.ask("/config", {"node_key": second})[1]["node_invalid"] is True
    server.serve(first)


def test_forgetting_a_clone_keeps_its_key_apart(server: Server) -> None:
    """It is no longer on the list, and comes back as what it was."""
    first, second = server.machine(A), server.machine(A)
    part(server, first, second)
    one, other = server.node_of(first), server.node_of(second)
    server.operate(f"/api/v1/nodes/{other}/forget", {}, "POST")
    assert server.clones() == []
    assert (server.node_of(first), server.node_of(second)) == (one, other)


def test_a_store_that_is_away_is_tried_again(server: Server) -> None:
    """Nodes are served meanwhile; the clone is found later."""
    first, second = server.machine(A), server.machine(A)
    server.serve(first, second)
    server.turn(GRACE)
    server.outages["clones"].is_down = True
    for _ in range(3):
        server.serve(first, second)
    assert not server.reports
    server.outages["clones"].is_down = False
    for _ in range(3):
        server.serve(first, second)
    assert len(server.reports) == 1


# -- one certificate in two places


def enroll_over(server: Server, machine: tuple[str, str]) -> str:
    server.certificate = "node-1"
    body = {"enroll_secret": "", "host_identifier": "h", "host_details": details(*machine)}
    return str(server.ask("/enroll", body)[1]["node_key"])


def test_keys_of_one_certificate_in_turn_are_reported(server: Server) -> None:
    """The certificate stands for one node: it stays one, and to revoke it refuses both."""
    first, second = enroll_over(server, A), enroll_over(server, B)
    part(server, first, second)
    assert server.node_of(first) == server.node_of(second)
    (clone,) = server.clones()
    assert (clone["kind"], clone["parted"], clone["node"]) == ("keys", False, clone["clone"])
    assert server.operate("/api/v1/nodes/node-1")[1]["clones"] == [clone["node"]]
    server.operate("/api/v1/nodes/node-1/revoke", {}, "POST")
    for key in (first, second):
        assert server.ask("/config", {"node_key": key})[1]["node_invalid"] is True


def test_enrollments_of_one_certificate_in_turn_are_reported(server: Server) -> None:
    """This machine, that machine, and this one again; a machine that was replaced is no clone."""
    for machine in (A, A, B, B, C):
        enroll_over(server, machine)
    assert server.clones() == []
    enroll_over(server, B)
    (clone,) = server.clones()
    assert (clone["kind"], clone["places"]) == ("enrollments", ["cccc-3|s-3", "bbbb-2|s-2"])


def read_from(server: Server, address: str, seconds: float) -> None:
    """A read of node-1 that is held, from an address."""
    caller = server.api.authentication.authenticate("", None, certificate_for("node-1"))
    server.api.watch.begin_read(caller, address)
    server.reactor.callLater(seconds, server.api.watch.end_read, caller, address)


def test_reads_of_one_certificate_at_one_time_are_reported(server: Server) -> None:
    """Without any key: two machines that hold reads at one time, from two addresses."""
    server.certificate = "node-1"
    server.ask("/config", {"node_key": ""})
    for _ in range(4):
        read_from(server, "192.0.2.1", 10)
        server.turn(5)
        read_from(server, "2001:db8::2", 10)
        server.turn(6)
    (clone,) = server.clones()
    assert (clone["kind"], clone["name"], clone["parted"]) == ("reads", "node-1", False)
    assert set(clone["places"]) == {"192.0.2.1", "2001:db8::2"}
    writes = server.outages["clones"].calls.count("keep")
    for _ in range(20):
        read_from(server, "192.0.2.1", 10)
        server.turn(5)
        read_from(server, "2001:db8::2", 10)
        server.turn(6)
    assert server.outages["clones"].calls.count("keep") == writes
    assert len(server.reports) == 1
    server.turn(20)


def test_real_reads_are_watched(server: Server) -> None:
    """While they are held, and no longer."""
    key = server.machine(A)
    reading = server.begin("/distributed/read", {"node_key": key})
    server.turn()
    assert len(server.api.watch._reads._held) == 1
    server.turn(12)
    server.finish(reading)
    assert not server.api.watch._reads._held


# -- the way out


def test_a_copied_key_can_be_taken_away(server: Server) -> None:
    """Both machines enroll again, and are two: osqtwist node rekey."""
    key = server.machine(A)
    server.turn(3)
    assert server.operate("/api/v1/nodes/web/rekey", {}, "POST")[0] == 200
    assert server.ask("/config", {"node_key": key})[1]["node_invalid"] is True
    server.turn(1)
    assert server.node_of(server.machine(A)) != server.node_of(server.machine(B))
    assert server.operate("/api/v1/nodes/web")[1]["revoked"] is False
    server.operate("/api/v1/nodes/web/revoke", {}, "POST")
    assert server.operate("/api/v1/nodes/web/rekey", {}, "POST")[0] == 409
