"""
The composition root: options to settings, settings to a server.

Nothing else knows how things are put together.  What goes wrong before the reactor runs is one sentence on the
terminal and exit status 1.
"""

from __future__ import annotations

import atexit
import encodings.idna
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.application.service import IService
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage
from twisted.web.resource import IResource
from twisted.web.server import Request

from osqtwist.admission import Admission
from osqtwist.announcement import SAMPLE_CONFIG, announce, node_files
from osqtwist.authentication import Authentication
from osqtwist.carves import CarveLimits, Carves
from osqtwist.configuration import ConfigFolder, NodeConfiguration
from osqtwist.delivering import Instructions, child_words, delivery_service
from osqtwist.directory import Directory
from osqtwist.distributed import Distributed
from osqtwist.enrollment import Enrollment, EnrollSecrets, parse_enroll_secrets
from osqtwist.flags import flagfile
from osqtwist.housekeeping import LogKeeping
from osqtwist.identity import CertificateIdentity, IdentityCache
from osqtwist.interfaces import IStores, StoreUnavailable
from osqtwist.inventory import Inventory
from osqtwist.layers import BadConfiguration
from osqtwist.livequery import LiveQueries
from osqtwist.logs import LogIntake
from osqtwist.logview import LogView
from osqtwist.metrics import Metrics
from osqtwist.nodekey import NodeKeys
from osqtwist.parking import ParkedReads
from osqtwist.pki import DevelopmentPKI, UnusablePKI, development_pki
from osqtwist.ports import UnusablePort, bind_all
from osqtwist.reloading import HangUp, SecretsFile
from osqtwist.server import Server, StartFailed
from osqtwist.settings import HELP, BadSetting, Settings, default_of, gather
from osqtwist.sinkinterfaces import BadSinkSetting
from osqtwist.sinksettings import read_sinks
from osqtwist.sinkview import SinkView
from osqtwist.statefolder import CARVES, STORE, Owner, StateFolder, UnusableState
from osqtwist.storage.embedded import EmbeddedStoreFailed, EmbeddedValkey, find_binary
from osqtwist.storage.redis import RedisStores
from osqtwist.storage.redis_durability import NotDurable
from osqtwist.storage.redis_url import BadRedisURL, RedisPlace, check_redis, parse_redis_url
from osqtwist.supervision import ChildProcess
from osqtwist.tls import (
    CredentialWatch,
    LoadedTLS,
    PeerIdentities,
    ReloadingServerTLS,
    TLSFiles,
    UnusableCredential,
)
from osqtwist.web import routes
from osqtwist.web.admin import AdminAPI
from osqtwist.web.exchange import Exchange
from osqtwist.web.nodes import NodeAPI
from osqtwist.web.site import BodyLimits, NodeSite, PlainRequest, QuietSite

_log = Logger()

# werkzeug asks for this codec at the first request; by then twistd may have given up the right to read it.
_PRELOADED = encodings.idna

DEVELOPMENT_CERTS = Path("certs")

_MIB = 2**20
_SMALL_BODY = _MIB
_CARVE_BODY = 24 * _MIB
# A node that was away posts its backlog at 1,024 lines a post, one every few seconds.
_BURST_SECONDS = 60
_MAX_LOGS_UNDER_WAY = 256 * _MIB
# osquery drops longer lines itself (logger_tls_max_linesize), unless it is told otherwise.
MAX_LINE_BYTES = 4 * _MIB
_EXPECTED = (
    BadSetting,
    UnusableState,
    UnusableCredential,
    UnusablePort,
    BadConfiguration,
    BadRedisURL,
    BadSinkSetting,
    NotDurable,
    StoreUnavailable,
    UnusablePKI,
    EmbeddedStoreFailed,
)


class Options(usage.Options):
    """The options of ``twistd osqtwist``; each is also a setting of the file and the environment."""

    synopsis = "[options]"
    longdesc = (
        "An osquery TLS server.  Without --cert, --key and --client-ca it makes a development PKI in certs/; "
        "without --redis it starts a private Valkey in the state folder."
    )

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.settings_file = ""
        super().__init__()

    def parseArgs(self, *arguments: str) -> None:
        """There are no arguments, only options."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is not an option")

    def parseOptions(self, options: Any = None) -> None:
        """Parse, or end with one sentence: twistd would print its whole help first."""
        try:
            super().parseOptions(options)
        except usage.UsageError as problem:
            _give_up(str(problem))

    def opt_settings(self, path: str) -> None:
        """FILE  a settings file (TOML)."""
        self.settings_file = path


def _add_option(name: str) -> None:
    placeholder, meaning = HELP[name]

    def take(self: Options, value: str) -> None:
        if name == "port":
            self.given.setdefault("port", []).append(value)
        else:
            self.given[name] = value

    default = default_of(name)
    take.__doc__ = f"{placeholder}  {meaning}" + (f" [default: {default}]" if default else "")
    setattr(Options, f"opt_{name}", take)


for _name in HELP:
    _add_option(_name)


def makeService(options: Options) -> IService:
    """The service that twistd runs."""
    from twisted.internet import reactor  # noqa: PLC0415 - the one place where the reactor comes from

    try:
        settings = gather(options.given, os.environ, options.settings_file)
        return make_server(reactor, settings, owner_of(options))
    except _EXPECTED as problem:
        _give_up(str(problem))
    raise AssertionError


def owner_of(options: Options) -> Owner:
    """The user that twistd will shed its rights to, if it does."""
    twistd: Mapping[str, Any] = getattr(options, "parent", None) or {}
    return Owner(twistd.get("uid"), twistd.get("gid")) if os.getuid() == 0 else Owner()


def make_server(reactor: Any, settings: Settings, owner: Owner = Owner()) -> IService:
    """
    Put a server together: what it needs on disk is made or checked, its ports are bound.

    With the role ``delivery`` it is a delivery process and nothing else.

    :raise BadSetting: and the other exceptions that name what an operator has to mend.
    """
    state = StateFolder(Path(settings.state).absolute(), owner)
    state.prepare()
    if settings.role == "delivery":
        _look_at_redis(settings)
        return delivery_service(reactor, settings, settings.redis)
    lock = state.lock()
    settings, secret_path, development = _with_credentials(settings, state)
    metrics = Metrics()
    tls = ReloadingServerTLS(_tls_files(settings), lambda ok, loaded: _count_reload(metrics, ok, loaded))
    secrets = EnrollSecrets(_read_secrets(secret_path) if secret_path else ())
    if settings.client_auth == "none" and not secrets.secrets:
        raise BadSetting("--client-auth is none and there is no --enroll-secret-path: no node could enroll")
    folder = ConfigFolder(
        reactor,
        Path(settings.config).absolute() if settings.config else SAMPLE_CONFIG,
        lambda ok: metrics.config_reloads.labels(result=_word(ok)).inc(),
    )
    embedded = None
    if settings.redis:
        place = _look_at_redis(settings)
    else:
        find_binary()
        embedded = EmbeddedValkey(reactor, state.path / STORE)
        place = embedded.place
        if "replica" in settings.durability:
            raise BadSetting(f"--durability {settings.durability} needs --redis: the private Valkey has no replica")
    stores = RedisStores(reactor, place, settings.redis_prefix, settings.budgets, settings.durability)
    ports = bind_all(settings.port)
    identities = PeerIdentities(IdentityCache(settings.identity, settings.certificate_tags))
    node_keys = NodeKeys(state.signing_keys())
    parts = assemble(
        reactor,
        settings,
        stores,
        folder.configuration,
        identities,
        secrets,
        node_keys,
        state.path / CARVES,
        metrics,
    )
    site = node_site(reactor, settings, parts.api.app(settings.route_prefix).resource(), metrics)

    def flags() -> str:
        return flagfile(f"localhost:{ports[0].number}", node_files(development, secret_path), settings.route_prefix)

    admin = parts.admin(flags)
    watches: list[IService] = [folder, CredentialWatch(reactor, tls)]
    reloads: list[Callable[[], object]] = [lambda: tls.reload("SIGHUP"), folder.reload]
    if secret_path:
        secrets_file = SecretsFile(reactor, secret_path, secrets)
        watches.append(secrets_file)
        reloads.append(secrets_file.reload)
    return Server(
        reactor=reactor,
        ports=ports,
        site=site,
        tls=tls,
        stores=stores,
        embedded=embedded,
        services=[
            *watches,
            HangUp(reactor, reloads),
            *parts.services,
            *_delivery_child(reactor, settings, settings.redis or f"unix:{place.path}"),
        ],
        listen_admin=lambda: _listen_admin(reactor, settings.admin_socket.absolute(), admin),
        on_ready=lambda: announce(settings, ports, development, secret_path, flags()),
        on_failure=lambda sentence: _fail(reactor, sentence),
        expected_failures=(StartFailed, StoreUnavailable, EmbeddedStoreFailed),
        lock=lock,
    )


@attrs.frozen
class Parts:
    """What :func:`assemble` puts together: the API of nodes, what operators see, and what has to run."""

    api: NodeAPI
    inventory: Inventory
    live: LiveQueries
    log_view: LogView
    sinks: SinkView
    services: list[IService]

    def admin(self, flags: Callable[[], str]) -> AdminAPI:
        """The operators' API over these parts."""
        return AdminAPI(self.inventory, self.live, self.log_view, self.sinks, self.api.carves, self.api.metrics, flags)


def assemble(
    reactor: Any,
    settings: Settings,
    stores: IStores,
    configuration: NodeConfiguration,
    identities: PeerIdentities,
    secrets: EnrollSecrets,
    node_keys: NodeKeys,
    carve_folder: Path,
    metrics: Metrics,
    binds_keys: bool = True,
) -> Parts:
    """
    The object graph between the stores and the node API.

    :param binds_keys: whether, where certificates are required, only keys that are bound to one count.
    """
    pool = reactor.getThreadPool()

    def in_thread(work: Callable[[], Any]) -> Any:
        return deferToThreadPool(reactor, pool, work)

    parked = ParkedReads(reactor, metrics.parked_reads.set)
    distributed = Distributed(reactor, stores.queries, stores.signals, parked, metrics)
    directory = Directory(reactor, stores.nodes, stores.signals, distributed.end_reads_of)
    carves = Carves(
        reactor,
        stores.carves,
        carve_folder,
        in_thread,
        metrics,
        CarveLimits(max_bytes=settings.max_carve_mib * _MIB),
    )

    def certificate_of(request: Request) -> CertificateIdentity | None:
        return identities.of(request.transport)

    rate = settings.node_log_kib * 1024
    admission = Admission(reactor, rate, max(_BURST_SECONDS * rate, _MIB), _MAX_LOGS_UNDER_WAY)
    api = NodeAPI(
        exchange=Exchange(reactor, metrics, in_thread, settings.max_log_body_mib * _MIB, settings.request_log),
        certificate_of=certificate_of,
        authentication=Authentication(
            node_keys, directory.is_revoked, binds_keys and settings.client_auth == "required"
        ),
        enrollment=Enrollment(
            reactor,
            stores.nodes,
            stores.signals,
            node_keys,
            secrets,
            directory.is_revoked,
            settings.enroll_by_certificate,
        ),
        directory=directory,
        configuration=configuration,
        distributed=distributed,
        logs=LogIntake(reactor, stores.logs, admission, metrics, MAX_LINE_BYTES),
        carves=carves,
        metrics=metrics,
        hold=settings.hold,
        enroll_secret_name=settings.enroll_secret_name,
    )
    inventory = Inventory(reactor, stores, directory, configuration, parked, metrics)
    live = LiveQueries(reactor, stores, distributed, inventory)
    sinks = SinkView(reactor, stores, metrics)
    keeping = LogKeeping(reactor, stores, sinks, admission, settings.log_retention_hours * 3600)
    return Parts(api, inventory, live, LogView(reactor, stores), sinks, [directory, distributed, keeping])


def node_site(reactor: Any, settings: Settings, resource: IResource, metrics: Metrics) -> NodeSite:
    """The site that serves nodes, with the limits that the settings give."""
    return NodeSite(
        resource,
        reactor,
        metrics,
        body_limits(settings),
        settings.deadlines,
        settings.keep_connections,
        frozenset(path.encode() for path in routes.paths_by_route(settings.route_prefix)[routes.CARVE_CONTINUE]),
    )


def body_limits(settings: Settings) -> BodyLimits:
    """How long the body of each route may be."""
    large = settings.max_log_body_mib * _MIB
    by_route = {
        routes.LOG: large,
        routes.WRITE: large,
        routes.CARVE_CONTINUE: _CARVE_BODY,
    }
    table = routes.paths_by_route(settings.route_prefix)
    return BodyLimits(
        {path.encode(): limit for route, limit in by_route.items() for path in table[route]}, otherwise=_SMALL_BODY
    )


def _look_at_redis(settings: Settings) -> RedisPlace:
    place = parse_redis_url(settings.redis)
    for warning in check_redis(place, settings.durability if settings.role != "delivery" else "append"):
        _log.warn("{warning}", warning=warning)
    return place


def _delivery_child(reactor: Any, settings: Settings, redis_url: str) -> list[IService]:
    """The child that delivers logs, if there is anything to deliver to."""
    if not settings.sink or settings.role == "nodes":
        return []
    for plan in read_sinks(settings.sink):
        plan.make(reactor)
    instructions = msgspec.json.encode(Instructions(settings, redis_url))
    return [ChildProcess(reactor, "delivery", child_words(), instructions)]


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


def _tls_files(settings: Settings) -> TLSFiles:
    def path(text: str) -> Path | None:
        return Path(text).absolute() if text else None

    return TLSFiles(
        cert=Path(settings.cert).absolute(),
        key=Path(settings.key).absolute(),
        client_ca=path(settings.client_ca),
        client_crl=path(settings.client_crl),
        client_auth=settings.client_auth,
        stale_crl=settings.stale_crl,
    )


def _count_reload(metrics: Metrics, is_good: bool, loaded: LoadedTLS) -> None:
    metrics.certificate_reloads.labels(result=_word(is_good)).inc()
    metrics.certificate_expiry.set(loaded.not_after)


def _word(is_good: bool) -> str:
    return "good" if is_good else "bad"


def _read_secrets(path: Path) -> Any:
    try:
        return parse_enroll_secrets(path.read_text("utf-8"))
    except OSError as problem:
        raise BadSetting(f"--enroll-secret-path {path}: {problem.strerror}") from None
    except ValueError as problem:
        raise BadSetting(f"--enroll-secret-path {path}: {problem}") from None


async def _listen_admin(reactor: Any, path: Path, admin: AdminAPI) -> IListeningPort:
    site = QuietSite(
        admin.app().resource(), requestFactory=PlainRequest, parsePOSTFormSubmission=False, reactor=reactor
    )
    try:
        endpoint = UNIXServerEndpoint(reactor, str(path), mode=0o600, wantPID=True)
        port: IListeningPort = await endpoint.listen(site)
        return port
    except (CannotListenError, OSError, ValueError) as problem:
        raise StartFailed(f"--admin unix:{path}: {_reason(problem)}") from None


def _reason(problem: Exception) -> str:
    inner = getattr(problem, "socketError", problem)
    return getattr(inner, "strerror", None) or str(inner)


def _fail(reactor: Any, sentence: str) -> None:
    """End a process whose reactor runs already, with a sentence and exit status 1."""
    _log.critical("osqtwist: {sentence}", sentence=sentence)
    print(f"osqtwist: {sentence}", file=sys.__stderr__, flush=True)
    # twistd ends with 0 when its reactor stops; the last word at exit is ours.
    atexit.register(os._exit, 1)
    reactor.stop()


def _give_up(sentence: str) -> None:
    raise SystemExit(f"osqtwist: {sentence}")
