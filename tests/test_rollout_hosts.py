"""Roll-outs at work: processes and hosts with one store, a fleet that fetches its config, and a clock of tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from osqtwist import rollouts as rollouts_module
from osqtwist.audittrail import AuditTrail
from osqtwist.canarywatch import CanaryWatch
from osqtwist.configfolder import ConfigFolder
from osqtwist.interfaces import NoSuchThing, StoreUnavailable
from osqtwist.metrics import Metrics
from osqtwist.node import Node, Sighting
from osqtwist.rollout import BadRollout
from osqtwist.rolloutfollowing import RolloutFollower
from osqtwist.rolloutkeeping import RolloutKeeping
from osqtwist.rollouts import Rollouts
from osqtwist.storage.memory import MemoryStores
from osqtwist.storage.memory_rollouts import MemoryRolloutStore
from osqtwist.targeting import NodeFacts
from tests.harness import ClockReactor, InMemoryServer, Outage, result_of

# Hours pass in them, step by step.
pytestmark = pytest.mark.slow

PLAN = 'steps = [10, 50, 100]\nwait = "10m"\n'
NODES = [Node(node_id=f"{number:020x}", name=f"node-{number}", proof="secret") for number in range(120)]
REFRESH, STEP = 60, 5


def layer(number: int) -> str:
    return json.dumps({"options": {"custom_version": number}})


class Process:
    """One process of a host: what it serves, and what it has seen."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.metrics, self.watch = Metrics(), CanaryWatch(fleet.clock, fleet.stores.rollouts)
        self.folder = ConfigFolder(fleet.clock, folder)
        self.configuration = self.folder.configuration
        self.follower = RolloutFollower(fleet.clock, fleet.stores, self.folder, self.watch, self.metrics)
        result_of(Deferred.fromCoroutine(self.follower.begin()))
        self.services: list[Any] = [self.folder, self.follower, self.watch]
        for service in self.services:
            service.startService()

    def config(self, facts: NodeFacts) -> int:
        answer = self.configuration.config_for(facts, None)
        if answer.run:
            self.watch.served(facts.node_id)
        return int(json.loads(answer.body)["options"]["custom_version"])

    def stop(self) -> None:
        for service in reversed(self.services):
            service.stopService()


class Host:
    """A server: its folder, a process that looks after roll-outs, and those that serve nodes."""

    def __init__(self, fleet: Fleet, folder: Path, name: str, processes: int) -> None:
        self.fleet, self.folder, self.name = fleet, folder, name
        self.main = Process(fleet, folder)
        self.rollouts = Rollouts(
            fleet.clock,
            fleet.stores,
            lambda: self.main.configuration.plan,
            lambda kind, node_id, facts: fleet.events.append((kind, facts["version"])),
            self.main.metrics,
            AuditTrail(fleet.clock, fleet.stores),
        )
        self.keeping = RolloutKeeping(fleet.clock, fleet.stores, self.main.folder, self.rollouts, name)
        self.keeping.startService()
        self.workers = [Process(fleet, folder) for _ in range(processes)]

    def write(self, number: int, file: str = "00.conf") -> None:
        (self.folder / file).write_text(layer(number))

    def plan(self, text: str | None = PLAN) -> None:
        path = self.folder / "rollout.toml"
        path.unlink() if text is None else path.write_text(text)

    def stop(self) -> None:
        self.keeping.stopService()
        for process in (*self.workers, self.main):
            process.stop()


class Fleet:
    """Nodes that fetch their config each minute, from any worker of any host."""

    def __init__(self, folder: Path) -> None:
        self.clock: Any = ClockReactor()
        self.stores: Any = MemoryStores(self.clock)
        self.outage = self.stores.rollouts = Outage(self.stores.rollouts)
        self.hosts: list[Host] = []
        self.events: list[tuple[str, int]] = []
        self.versions: dict[str, int] = {}
        self.says: Callable[[NodeFacts, int], str] = lambda facts, version: ""
        self.gone: set[str] = set()
        self.path = folder
        for node in NODES:
            self.await_(self.stores.nodes.record(node))

    def host(self, name: str = "a", version: int = 1, processes: int = 2, plan: str | None = PLAN) -> Host:
        folder = self.path / name
        if not folder.exists():
            folder.mkdir()
            (folder / "00.conf").write_text(layer(version))
            if plan is not None:
                (folder / "rollout.toml").write_text(plan)
        self.hosts.append(Host(self, folder, name, processes))
        return self.hosts[-1]

    def await_(self, work: Any) -> Any:
        return result_of(Deferred.fromCoroutine(work))

    def run(self, seconds: int) -> None:
        for _ in range(seconds // STEP or 1):
            self.clock.advance(STEP)
            now = int(self.clock.seconds())
            workers = [worker for host in self.hosts for worker in host.workers]
            for number, node in enumerate(NODES):
                if (
                    workers
                    and number % (REFRESH // STEP) == now // STEP % (REFRESH // STEP)
                    and node.node_id not in self.gone
                ):
                    self._visit(
                        node, workers[(number + now // REFRESH) % len(workers)], workers[now // STEP % len(workers)]
                    )

    def _visit(self, node: Node, worker: Process, other: Process) -> None:
        now = self.clock.seconds()
        facts = worker.configuration.tagging.applied(node.facts())
        self.versions[node.name] = version = worker.config(facts)
        self.await_(self.stores.nodes.saw({node.node_id: Sighting(seen_at=now, first_seen_at=now)}))
        if message := self.says(facts, version):
            line = {"severity": 2, "message": message, "unixTime": int(now)}
            # Its lines go over another connection, to whichever worker.
            if other.watch.run:
                other.watch.look(facts, [msgspec.Raw(msgspec.json.encode(line))])

    def share(self, version: int) -> float:
        """The share of nodes that have a version, in percent."""
        return 100 * list(self.versions.values()).count(version) / len(self.versions)

    def stop(self) -> None:
        for host in self.hosts:
            host.stop()
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.stop()


def test_a_change_goes_out_step_by_step(fleet: Fleet) -> None:
    """Whoever has the new version keeps it, whichever worker is asked; in the end all have it."""
    host = fleet.host()
    fleet.run(70)
    assert fleet.share(1) == 100
    host.write(2)
    fleet.run(70)
    assert 2 <= fleet.share(2) <= 22
    before = {name for name, version in fleet.versions.items() if version == 2}
    fleet.run(300)
    assert {name for name, version in fleet.versions.items() if version == 2} == before
    fleet.run(330)
    assert 35 <= fleet.share(2) <= 65
    assert {name for name, version in fleet.versions.items() if version == 2} > before
    fleet.run(600)
    assert fleet.share(2) == 100
    assert fleet.events == [("rollout_begun", 2)]
    fleet.run(600)
    assert fleet.events == [("rollout_begun", 2), ("rollout_finished", 2)]
    assert fleet.share(2) == 100
    status = fleet.await_(host.rollouts.status())
    assert (status["phase"], status["in_force"]["version"], status["trial"]) == ("in force", 2, None)


def test_without_a_plan_a_change_is_for_all(fleet: Fleet) -> None:
    """As soon as it is seen, whether or not the store answers; and it is noted."""
    host = fleet.host(plan=None)
    fleet.run(70)
    host.write(2)
    fleet.run(70)
    assert fleet.share(2) == 100
    fleet.outage.is_down = True
    host.write(3)
    fleet.run(70)
    assert fleet.share(3) == 100
    fleet.outage.is_down = False
    fleet.run(10)
    rows = fleet.await_(host.rollouts.history(10))["versions"]
    assert [(row["number"], row["state"]) for row in rows] == [(3, "in force"), (2, "replaced"), (1, "replaced")]
    assert fleet.events == []
    with pytest.raises(BadRollout, match=r"no rollout\.toml"):
        fleet.await_(host.rollouts.roll_back("1", "me"))


def test_canaries_that_suffer_stop_it(fleet: Fleet) -> None:
    """They get the version before it back; the trail, the events and the log say so; and it is not tried again."""
    host = fleet.host()
    fleet.run(70)
    fleet.says = lambda facts, version: f"Error executing scheduled query q: no such table {version}" * (version == 2)
    host.write(2)
    fleet.run(200)
    assert fleet.share(1) == 100
    assert fleet.events == [("rollout_begun", 2), ("rollout_stopped", 2)]
    status = fleet.await_(host.rollouts.status())
    assert status["phase"] == "stopped"
    assert "have a new error: Error executing scheduled query q: no such table 2 (node-" in status["last"].why
    entries = fleet.await_(fleet.stores.audit.read(1, 10))
    assert [(each.actor, each.action) for each in entries] == [
        ("osqtwist", "rollout begun"),
        ("osqtwist", "rollout stopped"),
    ]
    fleet.run(2000)
    assert (fleet.share(1), len(fleet.events)) == (100, 2)
    host.write(3)
    fleet.run(1900)
    assert fleet.share(3) == 100


def test_one_denylisted_query_is_enough(fleet: Fleet) -> None:
    """On a single canary; but what it says of the time before it got the version does not count."""
    host = fleet.host()
    fleet.run(70)
    host.write(2)
    fleet.run(70)
    (canary, *_) = sorted(name for name, version in fleet.versions.items() if version == 2)
    (facts,) = [node.facts() for node in NODES if node.name == canary]

    def says(at: float) -> None:
        line = {"severity": 1, "message": "Scheduled query may have failed: q", "unixTime": at}
        host.workers[0].watch.look(facts, [msgspec.Raw(msgspec.json.encode(line))])
        fleet.run(30)

    says(fleet.clock.seconds() - 500)
    assert fleet.await_(host.rollouts.status())["phase"] == "rolling"
    says(fleet.clock.seconds())
    status = fleet.await_(host.rollouts.status())
    assert (status["phase"], canary in status["last"].why) == ("stopped", True)


def test_an_error_that_all_nodes_have_condemns_no_canary(fleet: Fleet) -> None:
    """Nor does one that canaries had before."""
    host = fleet.host()
    fleet.says = lambda facts, version: "Error executing scheduled query q: x"
    fleet.run(70)
    host.write(2)
    fleet.run(2100)
    assert fleet.share(2) == 100
    assert ("rollout_finished", 2) in fleet.events


def test_canaries_that_fall_silent_stop_it(fleet: Fleet) -> None:
    """Where the plan says so: whoever was not heard of since it got the version."""
    host = fleet.host(plan=PLAN + '[stop]\nmissing = 3\nmissing_after = "5m"')
    fleet.run(70)

    def dies(facts: NodeFacts, version: int) -> str:
        if version == 2:
            fleet.gone.add(facts.node_id)
        return ""

    fleet.says = dies
    host.write(2)
    fleet.run(500)
    status = fleet.await_(host.rollouts.status())
    assert "not heard of since" in status["last"].why
    fleet.gone.clear()
    fleet.says = lambda facts, version: ""
    fleet.run(70)
    assert fleet.share(1) == 100


def test_a_restart_goes_on_where_it_was(fleet: Fleet) -> None:
    """Of a worker, and of the whole host: the same nodes have the new version, the step goes on."""
    host = fleet.host()
    fleet.run(70)
    host.write(2)
    fleet.run(400)
    before = dict(fleet.versions)
    host.workers.append(Process(fleet, host.folder))
    fleet.run(70)
    assert fleet.versions == before
    host.stop()
    fleet.hosts.clear()
    host = fleet.host()
    fleet.run(70)
    assert fleet.versions == before
    fleet.run(1400)
    assert fleet.share(2) == 100
    assert [kind for kind, _ in fleet.events] == ["rollout_begun", "rollout_finished"]


def test_two_hosts_agree(fleet: Fleet) -> None:
    """Whichever sees the files change first: the other's older files change nothing, nor does what comes later."""
    one, other = fleet.host("a"), fleet.host("b")
    fleet.run(70)
    one.write(2)
    fleet.run(200)
    assert 2 <= fleet.share(2) <= 22
    before = dict(fleet.versions)
    other.write(2)
    fleet.run(200)
    assert fleet.versions == before
    other.stop()
    fleet.hosts.remove(other)
    fleet.host("b")
    fleet.run(100)
    assert fleet.versions == before
    fleet.run(1500)
    assert fleet.share(2) == 100
    assert fleet.events == [("rollout_begun", 2), ("rollout_finished", 2)]


def test_while_the_store_is_away_nothing_changes(fleet: Fleet) -> None:
    """Every node gets what it got; a new process does not guess; a change that comes meanwhile is taken up later."""
    host = fleet.host()
    fleet.run(70)
    host.write(2)
    fleet.run(100)
    before = dict(fleet.versions)
    fleet.outage.is_down = True
    host.write(3)
    fleet.run(2000)
    assert fleet.versions == before
    with pytest.raises(StoreUnavailable):
        Process(fleet, host.folder)
    fleet.outage.is_down = False
    fleet.run(70)
    assert 2 <= fleet.share(3) <= 22
    assert fleet.share(2) == 0
    fleet.run(2000)
    assert fleet.share(3) == 100


def test_a_store_that_forgot_is_told_again(fleet: Fleet) -> None:
    """As after a power cut: what nodes get goes on from what it knows, and the files are taken up once more."""
    host = fleet.host()
    fleet.run(70)
    host.write(2)
    fleet.run(70)
    assert 2 <= fleet.share(2) <= 22
    fleet.outage.store = MemoryRolloutStore()
    fleet.run(70)
    assert fleet.share(2) == 100, "the only version that is known then"
    host.write(3)
    fleet.run(70)
    assert 2 <= fleet.share(3) <= 22


def test_what_is_too_large_is_not_rolled_out(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nodes keep what they have."""
    # Four MiB of what cannot be compressed take long to make.
    monkeypatch.setattr(rollouts_module, "MOST_VERSION_BYTES", 200)
    host = fleet.host()
    fleet.run(70)
    (host.folder / "00.conf").write_text("# " + "".join(map(chr, range(200, 500))) + "\n" + layer(2))
    fleet.run(70)
    assert fleet.share(1) == 100
    host.write(3)
    fleet.run(70)
    assert 2 <= fleet.share(3) <= 22


def test_files_that_are_put_back_end_it(fleet: Fleet) -> None:
    """The version in force is what they say."""
    host = fleet.host()
    fleet.run(70)
    host.write(2)
    fleet.run(100)
    host.write(1)
    fleet.run(70)
    assert fleet.share(1) == 100
    assert fleet.await_(host.rollouts.status())["phase"] == "in force"


def test_what_no_node_can_tell_is_not_rolled_out(fleet: Fleet) -> None:
    """A comment, or blanks: the version is another, and in force at once."""
    host = fleet.host()
    fleet.run(10)
    (host.folder / "00.conf").write_text("# better now\n" + layer(1))
    fleet.run(10)
    status = fleet.await_(host.rollouts.status())
    assert (status["phase"], status["in_force"]["version"]) == ("in force", 2)
    assert fleet.events == []


def test_a_plan_that_goes_gives_the_files_to_all(fleet: Fleet) -> None:
    """At once; and one that comes begins with what is in force."""
    host = fleet.host()
    fleet.run(70)
    host.write(2)
    fleet.run(70)
    host.plan(None)
    fleet.run(70)
    assert fleet.share(2) == 100
    assert fleet.await_(host.rollouts.status())["phase"] == "in force"
    host.plan()
    host.write(3)
    fleet.run(70)
    assert (2 <= fleet.share(3) <= 22, fleet.share(2) + fleet.share(3)) == (True, 100)


def test_a_bad_plan_changes_nothing(fleet: Fleet) -> None:
    """Like any bad file of the folder."""
    host = fleet.host()
    fleet.run(70)
    host.plan("steps = [")
    host.write(2)
    fleet.run(70)
    assert fleet.share(1) == 100


def test_what_operators_do(fleet: Fleet) -> None:
    """Pause, resume, stop, finish, roll back: on every process at once."""
    host = fleet.host()
    operate = host.rollouts
    fleet.run(70)
    host.write(2)
    fleet.run(100)
    fleet.await_(operate.pause("ann"))
    fleet.run(1000)
    assert fleet.share(2) <= 22
    fleet.await_(operate.resume("ann"))
    fleet.run(580)
    assert 35 <= fleet.share(2) <= 65
    fleet.await_(operate.stop("ann", "looks odd"))
    fleet.run(70)
    assert fleet.share(1) == 100
    with pytest.raises(BadRollout, match="version 2 is stopped"):
        fleet.await_(operate.stop("ann"))
    fleet.await_(operate.resume("ann"))
    fleet.run(70)
    assert 2 <= fleet.share(2) <= 22
    fleet.await_(operate.finish("ann"))
    fleet.run(70)
    assert fleet.share(2) == 100
    fleet.await_(operate.roll_back("1", "bob"))
    fleet.run(70)
    assert fleet.share(1) == 100
    host.stop()
    fleet.hosts.clear()
    host = fleet.host()
    fleet.run(1000)
    assert fleet.share(1) == 100, "it stays pinned, also after a restart"
    fleet.await_(host.rollouts.resume("bob"))
    fleet.run(70)
    assert 2 <= fleet.share(2) <= 22
    fleet.await_(host.rollouts.roll_back("1", "bob"))
    host.write(3)
    fleet.run(70)
    assert (2 <= fleet.share(3) <= 22, fleet.share(1) + fleet.share(3)) == (True, 100)
    history = fleet.await_(host.rollouts.history(3))
    assert [(entry.what, entry.by) for entry in history["changes"]] == [
        ("begun", "osqtwist"),
        ("rolled back", "bob"),
        ("begun", "bob"),
    ]
    assert [row["state"] for row in history["versions"]] == ["rolling", "not finished", "in force"]
    with pytest.raises(NoSuchThing, match="no version"):
        fleet.await_(host.rollouts.roll_back("17", "bob"))
    row = fleet.await_(host.rollouts.version(history["versions"][-1]["digest"][:6]))
    assert (row["number"], row["texts"], row["layers"]) == (1, {"00.conf": layer(1)}, ["00.conf"])
    (change,) = fleet.await_(host.rollouts.differences("1", "3"))
    assert (change["what"], change["before"], change["after"]) == ("option", 1, 3)


def test_tags_are_those_of_the_version(fleet: Fleet) -> None:
    """A canary's layers see the tags of its own rules; all else goes by those in force."""
    host = fleet.host()
    fleet.run(70)
    (host.folder / "tags.toml").write_text('[[tag_rules]]\ntag = "new"\nwhere = "name:*"')
    (host.folder / "10.conf").write_text(
        '{"osqtwist": {"target": {"tags": ["new"]}}, "options": {"custom_version": 9}}'
    )
    fleet.run(70)
    assert 2 <= fleet.share(9) <= 22
    configuration = host.workers[0].configuration
    assert configuration.tagging.rules == ()
    tagged = [node.name for node in NODES if configuration.tagging_of(node.facts()).rules]
    assert sorted(tagged) == sorted(name for name, version in fleet.versions.items() if version == 9)


def test_a_node_is_told_why(fleet: Fleet) -> None:
    """Which version it has, whether it is a canary, and its place in the share."""
    host = fleet.host()
    fleet.run(70)
    configuration = host.workers[0].configuration
    assert configuration.why(NODES[0])["version"]["because"] == "it is in force"
    host.write(2)
    fleet.run(70)
    for node in NODES:
        version = configuration.why(node)["version"]
        assert version["version"] == fleet.versions[node.name]
        assert version["canary"] == (version["version"] == 2)
        assert version["because"].startswith("version 2 is rolling: percent: its place ")
    fleet.await_(host.rollouts.roll_back("1", "me"))
    fleet.run(1)
    assert configuration.why(NODES[0])["version"] | {"digest": ""} == {
        "version": 1,
        "digest": "",
        "canary": False,
        "because": "it is pinned",
    }


def test_what_a_change_means_for_few_is_watched_on_those(fleet: Fleet) -> None:
    """Only nodes whose configuration differs count as canaries that got it."""
    host = fleet.host()
    fleet.run(70)
    (host.folder / "10.conf").write_text('{"osqtwist": {"target": {"nodes": ["node-1?"]}}, "options": {"a": 1}}')
    host.plan('steps = [100]\nwait = "10m"')
    fleet.run(70)
    assert fleet.await_(host.rollouts.status())["health"]["canaries"] == 10


def test_status_lines_of_nodes_are_looked_at(tmp_path: Path) -> None:
    """On the wire; and only while something is rolled out."""
    server = InMemoryServer(tmp_path)
    key = server.enroll("host-1")
    line = {"severity": 2, "message": "Error executing scheduled query q: x", "unixTime": int(server.reactor.seconds())}

    def post(log_type: str, number: int) -> int:
        body = {"node_key": key, "log_type": log_type, "data": [{**line, "n": number}]}
        assert server.ask("/log", body) == (200, {})
        server.turn(2)
        return len(server.await_(server.stores.rollouts.problems(1)))

    assert post("status", 1) == 0
    server.api.canaries.follow(1)
    assert post("result", 2) == 0
    assert post("status", 3) == 1
    server.stop()


def test_operators_come_by_the_api(tmp_path: Path) -> None:
    """Without a plan there is nothing to do, and what there is can be looked at."""
    server = InMemoryServer(tmp_path)
    assert server.operate("/api/v1/rollouts") == (200, {"rolling": False, "phase": "none", "in_force": None})
    assert server.operate("/api/v1/rollouts/history") == (200, {"versions": [], "changes": []})
    assert server.operate("/api/v1/rollouts/versions/1")[0] == 404
    for word in ("pause", "resume", "stop", "finish"):
        code, answer = server.operate(f"/api/v1/rollouts/{word}", {}, "POST")
        assert (code, "no rollout.toml" in answer["detail"]) == (409, True)
    server.stop()
