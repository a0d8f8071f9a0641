"""
The composition root: settings to a server, in one process or several.

Nothing else knows how things are put together.
"""

from __future__ import annotations

import atexit
import encodings.idna
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import attrs
import msgspec
from twisted.application.service import IService, MultiService, Service
from twisted.logger import Logger

from osqtwist.alertrule import BadAlertRule, read_rules
from osqtwist.announcement import announce, has_terminal, node_files
from osqtwist.auditstream import AuditStream
from osqtwist.delivering import Instructions, child_words, delivery_service
from osqtwist.figures import SummedFigures
from osqtwist.flags import Flagfiles, name_in_certificate
from osqtwist.front import Front
from osqtwist.garbage import RareCollections
from osqtwist.housekeeping import LogKeeping
from osqtwist.identityinterfaces import BadIdentityRule
from osqtwist.interfaces import StoreUnavailable
from osqtwist.layers import BadConfiguration
from osqtwist.metrics import Metrics
from osqtwist.nodeside import NodeSide
from osqtwist.operating import FirstLink, OperatorsPort, admin_api, given_socket, listen_on_socket, sampling
from osqtwist.pki import DevelopmentPKI, UnusablePKI, development_pki
from osqtwist.ports import UnusablePort, bind_all
from osqtwist.refusalkeeping import RefusalKeeping
from osqtwist.reloading import HangUp, SettingsInForce
from osqtwist.rolloutkeeping import RolloutKeeping
from osqtwist.server import Server, StartFailed
from osqtwist.settings import BadSetting, Settings
from osqtwist.signingkeys import SigningKeyBook
from osqtwist.sinkinterfaces import BadSinkSetting
from osqtwist.sinksettings import read_sinks
from osqtwist.sinkview import SinkView
from osqtwist.statefolder import CARVES, REFUSALS, STORE, Owner, StateFolder, UnusableState
from osqtwist.steadytime import ClockWatch
from osqtwist.storage.embedded import EmbeddedStoreFailed, EmbeddedValkey, find_binary
from osqtwist.storage.redis_durability import NotDurable
from osqtwist.storage.redis_url import BadRedisURL, RedisPlace, check_redis, parse_redis_url
from osqtwist.storing import look_at_log_servers
from osqtwist.supervision import ChildProcess
from osqtwist.systemd import Notifier, Started, Watchdog, tell_of_end
from osqtwist.tls import (
    CredentialWatch,
)
from osqtwist.tlsfiles import UnusableCredential
from osqtwist.tracing import traces_of
from osqtwist.workers import GoodFiles, WorkerInstructions, Workers, worker_words

_log = Logger()

# werkzeug asks for this codec at the first request; by then twistd may have given up the right to read it.
_PRELOADED = encodings.idna

DEVELOPMENT_CERTS = Path("certs")

EXPECTED = (
    BadSetting,
    UnusableState,
    UnusableCredential,
    UnusablePort,
    BadConfiguration,
    BadRedisURL,
    BadSinkSetting,
    BadAlertRule,
    BadIdentityRule,
    NotDurable,
    StoreUnavailable,
    UnusablePKI,
    EmbeddedStoreFailed,
)
"""What an operator can mend; each is one sentence."""


@attrs.frozen
class Host:
    """
    Another application that nodes come in by, in the place of ports of our own.

    :ivar port: that nodes connect to, and :attr:`path` where they find the node API; for flagfiles only.
    :ivar front: serves nodes, once it is opened.
    :ivar on_failure: called with a sentence if the start fails.
    """

    port: int
    path: str
    front: Callable[[NodeSide], Front]
    on_failure: Callable[[str], object]


def make_server(
    reactor: Any,
    settings: Settings,
    owner: Owner = Owner(),
    host: Host | None = None,
    notifier: Notifier = Notifier(),
    again: Callable[[], Settings] | None = None,
) -> IService:
    """
    Put a server together: what it needs on disk is made or checked, its ports are bound.

    With the role ``delivery`` it is a delivery process and nothing else.  With several workers it serves operators, and
    looks after the processes that serve nodes.

    :param host: an application that this is only a part of: it has the ports, and the say over the process.
    :param notifier: tells systemd how it goes.
    :param again: gathers the settings once more, to see what has changed.
    :raise BadSetting: and the others of :data:`EXPECTED`.
    """
    state = StateFolder(Path(settings.state).absolute(), owner)
    state.prepare()
    if settings.role == "delivery":
        _look_at_redis(settings)
        look_at_log_servers(settings)
        return _alone(reactor, delivery_service(reactor, settings, settings.redis), notifier)
    look_at_log_servers(settings)
    lock = state.lock()
    in_force = SettingsInForce(settings, again or (lambda: settings))
    settings, secret_path, development = _with_credentials(settings, state)
    metrics = Metrics()
    _note_start(state, lock, metrics)
    place, redis_url, embedded = _store(reactor, settings, state)
    traces = traces_of(reactor, settings, "server")
    node_side = NodeSide.of(
        reactor, settings, state, place, secret_path, metrics, traces, serves_nodes=settings.worker_count == 1
    )
    operators = OperatorsPort.of(settings) or (OperatorsPort.for_development() if development and not host else None)
    if operators and (operators_tls := operators.tls):
        node_side.watches.append(CredentialWatch(reactor, operators_tls))
        node_side.reloads.append(lambda: operators_tls.reload("SIGHUP"))
    node_side.reloads.append(in_force.compare)
    admin_given = given_socket(settings)
    shares = bind_all(settings.port, settings.worker_count) if host is None else [[]]
    ports = shares[0]
    summed = SummedFigures(metrics.registry)
    front: Front
    if host:
        front = host.front(node_side)
    elif settings.worker_count == 1:
        front = node_side.front(reactor, settings, ports)
    else:
        secrets = str(secret_path) if secret_path else None
        instructions = WorkerInstructions(settings, redis_url, secrets, [], GoodFiles())
        front = Workers(reactor, worker_words(), instructions, shares, summed, metrics, node_side.good_files)
        node_side.reloads.append(front.reload)
    sinks = SinkView(reactor, node_side.stores, metrics)
    files = node_files(development, secret_path, settings.client_auth != "none")
    number, prefix = (host.port, host.path) if host else (ports[0].number, "".join(settings.route_prefix[:1]))
    name = name_in_certificate(Path(settings.cert)) if settings.cert else ""
    flags = Flagfiles(number, files, name, prefix)
    crew = front if isinstance(front, Workers) else None
    refusals = RefusalKeeping(
        reactor,
        node_side.stores,
        state.path / REFUSALS,
        node_side.parts.api.directory.revocations,
        node_side.parts.denials.all,
        metrics,
    )
    admin = admin_api(
        reactor,
        node_side.stores,
        node_side.parts,
        sinks,
        summed,
        settings.operators,
        flags,
        crew,
        settings.live,
        read_rules(settings.alert),
        lambda: node_side.tls.loaded.lists.rows(time.time()),
        lambda: operators.url if operators else "",
        SigningKeyBook(node_side.signing_keys, summed),
    )
    admin = traces.admin(admin)

    first_link = FirstLink(operators if development and has_terminal() else None, admin, settings.operators)

    def is_ready() -> None:
        given = str(admin_given.getsockname()) if admin_given else ""
        announce(
            settings,
            ports,
            development,
            secret_path,
            flags.here(),
            operators.bound if operators else None,
            operators.url if operators else "",
            given,
            first_link.text,
        )
        notifier.ready("serves nodes")

    tell_of_end(reactor, notifier)
    return Server(
        reactor=reactor,
        front=front,
        stores=node_side.stores,
        embedded=embedded,
        prepare=[refusals.begin, node_side.follower.begin, first_link.make],
        services=[
            *traces.services,
            refusals,
            *node_side.watches,
            *([] if host else [RareCollections(reactor), HangUp(reactor, node_side.reloads, notifier)]),
            ClockWatch(reactor, metrics),
            RolloutKeeping(
                reactor, node_side.stores, node_side.configuration, node_side.parts.rollouts, socket.gethostname()
            ),
            *([AuditStream(reactor, node_side.stores)] if settings.sink else []),
            LogKeeping(reactor, node_side.stores, sinks, settings.log_retention_hours * 3600, node_side.parts.report),
            sampling(reactor, node_side.stores, node_side.parts, sinks, summed),
            *node_side.parts.services,
            Watchdog(reactor, notifier, node_side.stores.ping),
            *_delivery_child(reactor, settings, redis_url, metrics),
        ],
        first_looks=node_side.parts.first_looks,
        listen_admin=[
            lambda: listen_on_socket(
                reactor, settings.admin_socket.absolute(), settings.admin_socket_mode, admin, admin_given
            ),
            *([lambda: operators.listen(reactor, admin, settings.deadlines)] if operators else []),
        ],
        on_ready=is_ready,
        on_failure=host.on_failure if host else lambda sentence: _fail(reactor, sentence),
        expected_failures=(StartFailed, StoreUnavailable, EmbeddedStoreFailed),
        lock=lock,
    )


def _alone(reactor: Any, service: Service, notifier: Notifier) -> IService:
    """A service that is all of its process."""

    async def nothing() -> None:
        """It has no call of the store to try, so it is alive as long as the reactor is."""

    both = MultiService()
    service.setServiceParent(both)
    Watchdog(reactor, notifier, nothing).setServiceParent(both)
    Started(reactor, notifier, "delivers logs").setServiceParent(both)
    return both


def _store(reactor: Any, settings: Settings, state: StateFolder) -> tuple[RedisPlace, str, EmbeddedValkey | None]:
    """Where the store is; and the private one, if there is none but that."""
    if settings.redis:
        return _look_at_redis(settings), settings.redis, None
    find_binary()
    embedded = EmbeddedValkey(reactor, state.path / STORE)
    if "replica" in settings.durability and not settings.log_redis:
        raise BadSetting(f"--durability {settings.durability} needs --redis: the private Valkey has no replica")
    return embedded.place, f"unix:{embedded.place.path}", embedded


def _look_at_redis(settings: Settings) -> RedisPlace:
    place = parse_redis_url(settings.redis)
    # Of log servers each is looked at for itself.
    takes_lines = settings.role != "delivery" and not settings.log_redis
    for warning in check_redis(place, settings.durability if takes_lines else "append"):
        _log.warn("{warning}", warning=warning)
    return place


def _delivery_child(reactor: Any, settings: Settings, redis_url: str, metrics: Metrics) -> list[IService]:
    """The child that delivers logs, if there is anything to deliver to."""
    read_rules(settings.alert)
    if not (settings.sink or settings.alert) or settings.role == "nodes":
        return []
    for plan in read_sinks(settings.sink):
        plan.make(reactor)
    instructions = msgspec.json.encode(Instructions(settings, redis_url))

    def happened(word: str) -> None:
        if word == "died":
            metrics.delivery_deaths.inc()

    return [ChildProcess(reactor, "delivery", child_words(), lambda: instructions, on_event=happened)]


def _with_credentials(settings: Settings, state: StateFolder) -> tuple[Settings, Path | None, DevelopmentPKI | None]:
    """Settings that name certificate files, made first if need be, and where the enroll secrets are."""
    development = None
    if settings.makes_development_set_up:
        development = development_pki(DEVELOPMENT_CERTS.absolute())
        if state.owner != Owner():
            state.owner.take(development.files)
        settings = msgspec.structs.replace(
            settings,
            cert=str(development.certificate("server")),
            key=str(development.key("server")),
            client_ca=str(development.certificate("ca")),
        )
    if settings.enroll_secret_path:
        return settings, Path(settings.enroll_secret_path).absolute(), development
    return settings, state.enroll_secret(make=development is not None), development


def _note_start(state: StateFolder, lock: IO[str], metrics: Metrics) -> None:
    metrics.started.set(time.time())
    if not state.ended_in_order(lock):
        _log.warn("the server before this one did not end in order: it was killed, or the machine went down")
    for folder, path in (("state", state.path), ("carves", state.path / CARVES)):
        metrics.disk_free.labels(folder=folder).set_function(partial(_free_bytes, path))


def _free_bytes(path: Path) -> float:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0.0


def _fail(reactor: Any, sentence: str) -> None:
    """End a process whose reactor runs already, with a sentence and exit status 1."""
    _log.critical("osqtwist: {sentence}", sentence=sentence)
    print(f"osqtwist: {sentence}", file=sys.__stderr__, flush=True)
    # twistd ends with 0 when its reactor stops; the last word at exit is ours.
    atexit.register(os._exit, 1)
    reactor.stop()
