"""The faults: how each is made and mended, what nodes may see of it, and what must tell an operator."""

from __future__ import annotations

import resource
import signal
from collections.abc import Awaitable, Callable, Mapping

import attrs
from twisted.internet.task import deferLater

from tests.faults.stage import Kind, Stage

ROUTES = (
    "enroll",
    "config",
    "log",
    "read, held",
    "read, with work",
    "write",
    "carver/start",
    "carver/continue",
    "healthz",
    "status",
)
GOOD: Mapping[str, frozenset[str]] = {
    "enroll": frozenset({"enrolled"}),
    "config": frozenset({"config"}),
    "log": frozenset({"stored"}),
    "read, held": frozenset({"held"}),
    "read, with work": frozenset({"work"}),
    "write": frozenset({"stored"}),
    "carver/start": frozenset({"started"}),
    "carver/continue": frozenset({"stored"}),
    "healthz": frozenset({"200"}),
    "status": frozenset({"200"}),
}
_NOT_STORED = frozenset({"refused"})
STORE_AWAY: Mapping[str, frozenset[str]] = {
    "enroll": _NOT_STORED,
    "log": _NOT_STORED,
    "read, with work": frozenset({"held", "refused"}),
    "write": _NOT_STORED,
    "carver/start": _NOT_STORED,
    "carver/continue": _NOT_STORED,
    "healthz": frozenset({"503"}),
    "status": frozenset({"503"}),
}
"""Config from memory, held reads held; everything that would have to be kept is refused."""
STORE_FULL = {**STORE_AWAY, "healthz": GOOD["healthz"], "status": GOOD["status"]}
_MAYBE = frozenset({"refused", "cut"})
MAYBE: Mapping[str, frozenset[str]] = {
    route: words | _MAYBE | ({"held"} if route == "read, with work" else set()) | {"0"} for route, words in GOOD.items()
}
"""Good for some, and for those whom it hits a failure that they repeat."""

Act = Callable[[Stage], Awaitable[object]]


async def nothing(stage: Stage) -> None:
    """There is nothing to do."""


@attrs.frozen
class Fault:
    """
    Something that goes wrong.

    :ivar allowed: by route what nodes and operators may see while it lasts, where that is not what they ask for.
    :ivar said: a pattern of the log line that says what is wrong.
    :ivar metric: how the metric begins that says so; :attr:`metric_says` judges the sum of such samples before the
        fault and with it.
    :ivar settles: seconds after it is made before anybody asks anything.
    :ivar forgives: whether what only the store knew is gone with it.
    """

    name: str
    make: Act
    mend: Act = nothing
    kind: Kind = "outside"
    allowed: Mapping[str, frozenset[str]] = attrs.field(factory=dict)
    said: str = ""
    metric: str = ""
    metric_says: Callable[[float, float], bool] = lambda before, now: now > before
    settles: float = 0.0
    forgives: bool = False

    def may_see(self, route: str) -> frozenset[str]:
        """What is allowed on a route."""
        return self.allowed.get(route, GOOD[route])


def _tell(*words: str) -> Act:
    async def act(stage: Stage) -> None:
        assert stage.relay
        for word in words:
            stage.relay.tell(word)

    return act


def _ask_store(*words: str) -> Act:
    async def act(stage: Stage) -> None:
        assert stage.store
        await stage.in_thread(lambda: stage.store and stage.store.ask(*words))

    return act


def _signal_store(number: signal.Signals) -> Act:
    async def act(stage: Stage) -> None:
        assert stage.store
        stage.store.program.signal(number)

    return act


def _kill(part: str) -> Act:
    async def act(stage: Stage) -> None:
        stage.send(part, signal.SIGKILL)

    return act


def _fill(disk: str, is_full: bool) -> Act:
    async def act(stage: Stage) -> None:
        await stage.in_thread(stage.disks[disk].fill, is_full)

    return act


async def _fill_store(stage: Stage) -> None:
    """Fill the disk of the store, and see that it knows: the last page of its file may still have room."""
    await stage.in_thread(stage.disks["store"].fill, True)

    def has_noticed() -> bool:
        try:
            stage.ask_store("SET", "ballast", "x" * 8192)
        except Exception as problem:
            return "MISCONF" in str(problem)
        return False

    if not await stage.until(lambda: stage.in_thread(has_noticed), 10.0):
        raise AssertionError("the store takes more although its disk is full")


def _clock(seconds: int) -> Act:
    async def act(stage: Stage) -> None:
        stage.set_clock(seconds)

    return act


async def _kill_store(stage: Stage) -> None:
    assert stage.store
    await stage.in_thread(stage.store.program.kill)


async def _start_store(stage: Stage) -> None:
    assert stage.store
    await stage.in_thread(stage.store.start)


async def _empty_store(stage: Stage) -> None:
    assert stage.store
    await stage.in_thread(stage.store.program.kill)
    stage.store.empty()
    await stage.in_thread(stage.store.start)


async def _fail_over(stage: Stage) -> None:
    assert stage.store
    await stage.in_thread(stage.store.program.kill)


async def _old_master_is_back(stage: Stage) -> None:
    # The sentinel makes it a replica of the new one.
    assert stage.store
    await stage.in_thread(stage.store.start)


async def _no_descriptors(stage: Stage) -> None:
    for pid in stage.pids_of_workers():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, _hard_limit(pid)))


async def _descriptors(stage: Stage) -> None:
    for pid in stage.pids_of_workers():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (_hard_limit(pid), _hard_limit(pid)))


def _hard_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]


async def _spoil(stage: Stage) -> None:
    stage.spoil_certificates()


async def _spoil_and_kill_worker(stage: Stage) -> None:
    stage.spoil_certificates()
    await deferLater(stage.reactor, 1.5)
    killed = stage.pid_of("worker")
    stage.send("worker", signal.SIGKILL)
    await stage.until(lambda: killed not in stage.pids_of_workers() and len(stage.pids_of_workers()) == 2, 15)


async def _mend_certificates(stage: Stage) -> None:
    stage.mend_certificates()


async def _kill_server(stage: Stage) -> None:
    stage.server.kill()


async def _start_server(stage: Stage) -> None:
    await stage.keep_up()


async def _wait_for_restart(stage: Stage) -> None:
    await stage.until(lambda: stage.pid_of("worker") and len(stage.pids_of_workers()) == 2, 30)


GONE = {route: words | {"no answer"} for route, words in MAYBE.items()}
"""Nobody is there."""

CATALOG = (
    Fault(
        "store killed",
        _kill_store,
        _start_store,
        allowed=STORE_AWAY,
        said="the store does not answer",
        metric="osqtwist_store_connections_down",
    ),
    Fault(
        "store stopped (SIGSTOP)",
        _signal_store(signal.SIGSTOP),
        _signal_store(signal.SIGCONT),
        allowed=STORE_AWAY,
        said="the store does not answer: no answer in time",
        metric="osqtwist_store_timeouts_total",
    ),
    Fault(
        "store slow: 0.4 s each way",
        _tell("delay 0.4"),
        _tell("delay 0"),
        said=r"route=log outcome=answered .* seconds=(0\.[89]|[1-9])",
        metric='osqtwist_request_seconds_sum{route="log"}',
        metric_says=lambda before, now: now > before + 0.8,
    ),
    Fault(
        "store slower than the deadline: 4 s each way",
        _tell("delay 4"),
        _tell("delay 0"),
        allowed=STORE_AWAY,
        said="the store does not answer: no answer in time",
        metric="osqtwist_store_timeouts_total",
    ),
    Fault(
        "store answers PING, no writes",
        _ask_store("CLIENT", "PAUSE", "60000", "WRITE"),
        _ask_store("CLIENT", "UNPAUSE"),
        allowed={**STORE_AWAY, "healthz": frozenset({"200", "503"})},
        said="the store does not answer: no answer in time",
        metric="osqtwist_store_timeouts_total",
    ),
    Fault(
        "store full (maxmemory)",
        _ask_store("CONFIG", "SET", "maxmemory", "1"),
        _ask_store("CONFIG", "SET", "maxmemory", "0"),
        allowed=STORE_FULL,
        said="takes nothing new: OOM",
        metric='osqtwist_store_failures_total{kind="StoreFull"}',
    ),
    Fault(
        "store's disk full (MISCONF)",
        _fill_store,
        _fill("store", False),
        allowed=STORE_FULL,
        said="takes nothing new: MISCONF",
        metric='osqtwist_store_failures_total{kind="StoreFull"}',
    ),
    Fault(
        "store read-only (replica)",
        _ask_store("REPLICAOF", "127.0.0.1", "1"),
        _ask_store("REPLICAOF", "NO", "ONE"),
        allowed=STORE_FULL,
        said="takes nothing new: READONLY",
        metric='osqtwist_store_failures_total{kind="StoreFull"}',
    ),
    Fault(
        "store without the replicas it needs",
        _ask_store("CONFIG", "SET", "min-replicas-to-write", "1"),
        _ask_store("CONFIG", "SET", "min-replicas-to-write", "0"),
        allowed=STORE_FULL,
        said="takes nothing new: NOREPLICAS",
        metric='osqtwist_store_failures_total{kind="StoreFull"}',
    ),
    Fault(
        "network cut, to the store",
        _tell("to off"),
        _tell("to on"),
        allowed=STORE_AWAY,
        said="the store does not answer: no answer in time",
        metric="osqtwist_store_timeouts_total",
    ),
    Fault(
        "network cut, from the store",
        _tell("from off"),
        _tell("from on"),
        allowed=STORE_AWAY,
        said="the store does not answer: no answer in time",
        metric="osqtwist_store_timeouts_total",
    ),
    Fault(
        "network cut, both ways",
        _tell("to off", "from off"),
        _tell("to on", "from on"),
        allowed=STORE_AWAY,
        said="the store does not answer: no answer in time",
        metric="osqtwist_store_timeouts_total",
    ),
    Fault(
        "disk of carves full",
        _fill("carves", True),
        _fill("carves", False),
        allowed={"carver/start": _NOT_STORED, "carver/continue": _NOT_STORED},
        said="reason=disk detail=",
        metric='osqtwist_store_failures_total{kind="DiskFull"}',
    ),
    Fault(
        "disk of the file sink full",
        _fill("lines", True),
        _fill("lines", False),
        said="No space left",
        metric='osqtwist_sink_failures{sink="file"}',
        settles=1.0,
    ),
    Fault(
        "worker killed",
        _kill("worker"),
        _wait_for_restart,
        allowed=MAYBE,
        said="worker . ended",
        metric="osqtwist_worker_deaths_total",
    ),
    Fault(
        "delivery process killed",
        _kill("delivery"),
        said="delivery ended",
        metric="osqtwist_delivery_deaths_total",
    ),
    Fault(
        "file descriptors exhausted",
        _no_descriptors,
        _descriptors,
        allowed={route: MAYBE[route] | {"no answer"} for route in ROUTES if route not in ("healthz", "status")},
        said="connections wait: Too many open files",
        metric="osqtwist_connections_not_accepted_total",
    ),
    Fault(
        "rubbish in certificate files",
        _spoil,
        _mend_certificates,
        said="certificates stay as they were",
        metric='osqtwist_certificate_reloads_total{result="bad"}',
        settles=1.5,
    ),
    Fault(
        "rubbish in certificate files, and a worker killed",
        _spoil_and_kill_worker,
        _mend_certificates,
        allowed={"read, held": MAYBE["read, held"]},
        said="certificates stay as they were|last good",
        metric='osqtwist_certificate_reloads_total{result="bad"}',
    ),
    Fault(
        "store restarted empty",
        _empty_store,
        allowed={
            "log": MAYBE["log"],
            "enroll": MAYBE["enroll"],
            "read, with work": MAYBE["read, with work"],
            "write": MAYBE["write"],
            "carver/start": MAYBE["carver/start"],
            "carver/continue": _NOT_STORED,
            "healthz": frozenset({"200", "503"}),
        },
        said="came back without",
        metric="osqtwist_store_losses_total",
        settles=3.0,
        forgives=True,
    ),
    Fault(
        "supervisor (twistd) killed",
        _kill_server,
        _start_server,
        allowed=GONE,
        said="did not end in order",
        metric="osqtwist_started_seconds",
        metric_says=lambda before, now: now != before,
    ),
    Fault(
        "disk of the state folder full",
        _fill_store,
        _fill("store", False),
        kind="private",
        allowed=STORE_FULL,
        said="takes nothing new: MISCONF",
        metric='osqtwist_store_failures_total{kind="StoreFull"}',
    ),
    Fault(
        "private store killed",
        _kill("private store"),
        kind="private",
        allowed=STORE_AWAY | {route: MAYBE[route] | STORE_AWAY.get(route, frozenset()) for route in STORE_AWAY},
        said="Valkey died",
        metric="osqtwist_store_connections_down",
        metric_says=lambda before, now: True,
    ),
    Fault(
        "twistd with everything in it killed",
        _kill_server,
        _start_server,
        kind="private",
        allowed=GONE,
        said="a Valkey was left running",
        metric="osqtwist_started_seconds",
        metric_says=lambda before, now: now != before,
    ),
    Fault(
        "failing over by Sentinel (master killed)",
        _fail_over,
        _old_master_is_back,
        kind="sentinel",
        allowed={route: MAYBE[route] | STORE_AWAY.get(route, frozenset()) for route in STORE_AWAY},
        said="the store does not answer",
        metric="osqtwist_store_connections_down",
        metric_says=lambda before, now: True,
    ),
    Fault(
        "clock set forward by an hour",
        _clock(3600),
        _clock(0),
        kind="clock",
        # A query that is open for ten minutes has ended.
        allowed={"read, with work": frozenset({"held"})},
        said="the clock was set forward by 3600 s",
        metric='osqtwist_clock_jumps_total{direction="forward"}',
        settles=1.5,
    ),
    Fault(
        "clock set back by an hour",
        _clock(-3600),
        _clock(0),
        kind="clock",
        said="the clock was set back by 3600 s",
        metric='osqtwist_clock_jumps_total{direction="back"}',
        settles=1.5,
    ),
)
