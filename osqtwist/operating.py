"""The operators' side of a server: what there is for them to call, and where they come in."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from osqtwist.access import Access, OperatorRules
from osqtwist.alertrule import AlertRule
from osqtwist.approval import Approvals
from osqtwist.assembly import Parts
from osqtwist.audittrail import AuditTrail
from osqtwist.census import Census
from osqtwist.figures import SummedFigures
from osqtwist.flags import Flagfiles, name_in_certificate
from osqtwist.fleetexport import FleetExport
from osqtwist.history import History, Sampling
from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.inventory import Inventory
from osqtwist.layerview import LayerView
from osqtwist.livequery import LiveQueries
from osqtwist.liveresults import LiveResults
from osqtwist.liverules import LiveRules
from osqtwist.logview import LogView
from osqtwist.metrics import Metrics
from osqtwist.nodechanges import NodeChanges
from osqtwist.operator import NotAllowed
from osqtwist.pathport import listen_on_path
from osqtwist.ports import BoundPort, UnusablePort, bind_all, bind_for_operators
from osqtwist.revocationlists import RevocationListRow
from osqtwist.savedqueries import SavedQueries
from osqtwist.secretbook import SecretBook
from osqtwist.server import StartFailed
from osqtwist.sessions import Sessions
from osqtwist.settings import Settings
from osqtwist.signingkeys import SigningKeyBook
from osqtwist.silence import Silence
from osqtwist.sinkview import SinkView
from osqtwist.tls import ReloadingServerTLS
from osqtwist.tlsfiles import TLSFiles, authorities
from osqtwist.tlsport import listen
from osqtwist.web.admin import AdminAPI
from osqtwist.web.alerts import AlertOperations
from osqtwist.web.audit import AuditOperations
from osqtwist.web.carves import CarveOperations
from osqtwist.web.crowds import Crowds
from osqtwist.web.denials import DenialOperations
from osqtwist.web.eviction import end_revoked
from osqtwist.web.export import ExportOperations
from osqtwist.web.gate import OperatorGate
from osqtwist.web.history import HistoryOperations
from osqtwist.web.inventory import NodeOperations
from osqtwist.web.layers import LayerOperations
from osqtwist.web.livequeries import QueryOperations
from osqtwist.web.liveresults import ResultOperations
from osqtwist.web.logs import LogOperations
from osqtwist.web.operations import Operation
from osqtwist.web.operatorsite import OperatorSite
from osqtwist.web.operatorsroot import OperatorsRoot
from osqtwist.web.pages.application import Pages
from osqtwist.web.pages.signin import SignIn
from osqtwist.web.pending import PendingOperations
from osqtwist.web.repeats import Repeats
from osqtwist.web.rollouts import RolloutOperations
from osqtwist.web.savedqueries import SavedQueryOperations
from osqtwist.web.secrets import SecretOperations
from osqtwist.web.service import ServiceOperations
from osqtwist.web.signing import SigningOperations
from osqtwist.web.signingkeys import SigningKeyOperations
from osqtwist.web.sinks import SinkOperations
from osqtwist.web.site import Deadlines
from osqtwist.web.sqlwords import SQLWordOperations
from osqtwist.web.targets import TargetOperations
from osqtwist.web.tokens import TokenOperations
from osqtwist.web.workers import WorkerCrew, WorkerOperations

_MOST_BODY = 2**20
DEVELOPMENT_PORT = 9080
_FIRST_LINK_SECONDS = 600
_MOST_CONNECTIONS = 1024
"""Of operators at one address."""

_log = Logger()


def admin_api(
    reactor: Any,
    stores: IStores,
    parts: Parts,
    sinks: SinkView,
    figures: SummedFigures,
    rules: OperatorRules,
    flags: Flagfiles,
    crew: WorkerCrew | None = None,
    live_rules: LiveRules = LiveRules(),
    alert_rules: Sequence[AlertRule] = (),
    lists: Callable[[], list[RevocationListRow]] = list,
    pages_url: Callable[[], str] = str,
    signing_keys: SigningKeyBook | None = None,
) -> AdminAPI:
    """
    The operators' API on top of what serves nodes.

    :param figures: those of every process.
    :param rules: who may do what.
    :param flags: writes flagfiles for nodes.
    :param crew: the worker processes, if there are any.
    :param live_rules: for distributed queries.
    :param lists: the revocation lists of nodes' certificates.
    :param pages_url: where the pages are, if a port serves them.
    :param signing_keys: of node keys; a server without a file of them cannot change them.
    """
    api, trail = parts.api, AuditTrail(reactor, stores)
    inventory = _inventory(reactor, stores, parts, figures)
    results, census = LiveResults(reactor, stores), Census(inventory)
    operations: list[Operation] = []
    access = Access(reactor, stores, lambda: {each.group for each in operations})
    sessions = Sessions(reactor, stores, access, rules)
    groups = (
        ServiceOperations(
            inventory, sinks, figures, flags, lambda: {**api.checks.status(), "revocation_lists": lists()}
        ),
        NodeOperations(inventory, NodeChanges(reactor, stores.nodes, inventory)),
        PendingOperations(Approvals(reactor, stores)),
        SecretOperations(SecretBook(reactor, stores)),
        DenialOperations(api.checks.denials),
        QueryOperations(
            LiveQueries(reactor, stores, api.distributed, inventory, live_rules), Silence(stores, results, census)
        ),
        ResultOperations(results),
        SavedQueryOperations(SavedQueries(reactor, stores.saved_queries)),
        SQLWordOperations(),
        TargetOperations(census),
        LogOperations(LogView(reactor, stores)),
        SinkOperations(sinks),
        RolloutOperations(parts.rollouts),
        LayerOperations(LayerView(api.configuration, census)),
        ExportOperations(FleetExport(reactor, stores, parts.rollouts)),
        WorkerOperations(crew),
        CarveOperations(api.carves),
        AlertOperations(reactor, stores, {rule.name: rule for rule in alert_rules}),
        SigningKeyOperations(signing_keys),
        AuditOperations(trail),
        TokenOperations(access),
        HistoryOperations(History(reactor, stores)),
        SigningOperations(sessions, pages_url),
    )
    made = AdminAPI(groups, OperatorGate(rules, access, sessions), trail, Repeats(stores))
    operations += made.operations()
    return made


def _inventory(reactor: Any, stores: IStores, parts: Parts, figures: SummedFigures) -> Inventory:
    api = parts.api
    return Inventory(reactor, stores, api.directory, api.configuration, api.clones, figures, api.metrics)


def sampling(reactor: Any, stores: IStores, parts: Parts, sinks: SinkView, figures: SummedFigures) -> Sampling:
    """What keeps the history of the figures of every process of this host."""
    process = f"{socket.gethostname()}/{uuid.uuid4().hex[:8]}"
    return Sampling(reactor, stores, _inventory(reactor, stores, parts, figures), sinks, process)


def operators_root(admin: AdminAPI, is_local: bool) -> OperatorsRoot:
    """The API and the pages; see :class:`OperatorsRoot`."""
    pages = Pages(admin)
    app = pages.app()
    SignIn(pages).add_to(app)
    return OperatorsRoot(admin.app().resource(), app.resource(), is_local)


def given_socket(settings: Settings) -> socket.socket | None:
    """
    The operators' socket, if systemd has bound it.

    :raise UnusablePort: it should have, and has not; or it is not one of the file system.
    """
    if not settings.admin.startswith("systemd:"):
        return None
    given = bind_all([settings.admin], option="--admin")[0][0].socket
    if given.family != socket.AF_UNIX:
        raise UnusablePort(f"--admin {settings.admin}: operators need a unix socket here; --admin-port is for TLS")
    return given


async def listen_on_socket(
    reactor: Any, path: Path, mode: int, admin: AdminAPI, given: socket.socket | None = None
) -> IListeningPort:
    """
    Serve operators on a unix socket.

    :param given: it, if it is bound already.
    :raise StartFailed: it cannot be made.
    """
    root = operators_root(admin, True)
    site = OperatorSite(root, reactor, Metrics(), lambda _: _MOST_BODY, Deadlines(), keeps_connections=True)
    if given is not None:
        return listen_on_path(reactor, given, site)
    try:
        endpoint = UNIXServerEndpoint(reactor, str(path), mode=mode, wantPID=True)
        port: IListeningPort = await endpoint.listen(site)
        return port
    except (CannotListenError, OSError, ValueError) as problem:
        raise StartFailed(f"--admin unix:{path}: {_reason(problem)}") from None


@attrs.frozen
class OperatorsPort:
    """
    Where operators come in by TCP.

    :ivar tls: nothing on a plain port, which only this machine reaches.
    """

    bound: BoundPort
    tls: ReloadingServerTLS | None

    @classmethod
    def of(cls, settings: Settings) -> OperatorsPort | None:
        """
        Bind the port and read its files, if the settings name a port or make a development set-up.

        :raise UnusablePort: it cannot be bound.
        :raise UnusableCredential: a file cannot be used.
        """
        if settings.admin_port.startswith("tcp:"):
            return cls(bind_for_operators(settings.admin_port), None)
        if not settings.admin_port:
            return None
        own = bool(settings.admin_cert)
        files = TLSFiles(
            cert=Path(settings.admin_cert or settings.cert).absolute(),
            key=Path(settings.admin_key or settings.key).absolute(),
            client_ca=Path(settings.admin_ca).absolute() if settings.admin_ca else None,
            client_crl=Path(settings.admin_crl).absolute() if settings.admin_crl else None,
            client_auth="optional" if settings.admin_ca else "none",
            stale_crl=settings.stale_crl,
            options={
                "cert": "--admin-cert" if own else "--cert",
                "key": "--admin-key" if own else "--key",
                "client_ca": "--admin-ca",
                "client_crl": "--admin-crl",
            },
        )
        tls = ReloadingServerTLS(files)
        if settings.client_ca and settings.admin_ca:
            nodes = TLSFiles(cert=files.cert, key=files.key, client_ca=Path(settings.client_ca).absolute())
            for shared in set(authorities(files)) & set(authorities(nodes)):
                _log.warn(
                    "--admin-ca and --client-ca have {name} in common: a node that has a role may operate",
                    name=shared.subject.rfc4514_string(),
                )
        return cls(bind_for_operators(settings.admin_port), tls)

    @classmethod
    def for_development(cls) -> OperatorsPort:
        """
        The usual port on this machine, or any that is free.

        :raise UnusablePort: none is.
        """
        try:
            return cls(bind_for_operators(f"tcp:{DEVELOPMENT_PORT}:interface=127.0.0.1"), None)
        except UnusablePort:
            return cls(bind_for_operators("tcp:0:interface=127.0.0.1"), None)

    @property
    def url(self) -> str:
        """Where a browser finds the pages: under a name that the certificate is for."""
        if self.tls is None or self.tls.files.cert is None:
            return f"http://localhost:{self.bound.number}"
        return f"https://{name_in_certificate(self.tls.files.cert) or 'localhost'}:{self.bound.number}"

    async def listen(self, reactor: Any, admin: AdminAPI, deadlines: Deadlines) -> IListeningPort:
        """Serve operators, under the same deadlines as nodes; their connections are not among the figures of nodes."""
        root = operators_root(admin, self.tls is None)
        site = OperatorSite(
            root,
            reactor,
            Metrics(),
            lambda _: _MOST_BODY,
            deadlines,
            keeps_connections=True,
            crowds=Crowds(reactor, _MOST_CONNECTIONS),
        )
        if self.tls is None:
            bound = self.bound.socket
            port: IListeningPort = reactor.adoptStreamPort(bound.fileno(), bound.family, site)
            return port
        end_revoked(site, self.tls)
        return listen(reactor, self.bound.socket, site, self.tls.connection)


@attrs.define
class FirstLink:
    """
    A link that signs a browser in, once, as whoever started the server; for the terminal that it was started in.

    :ivar text: the link; empty if there is no port, or that user has no role.
    """

    operators: OperatorsPort | None
    admin: AdminAPI
    rules: OperatorRules
    text: str = attrs.field(default="", init=False, repr=False)

    async def make(self) -> None:
        """Make it; the store must be ready."""
        if self.operators:
            with contextlib.suppress(NotAllowed, StoreFull, StoreUnavailable):
                actor = self.rules.actor_on_socket(pwd.getpwuid(os.getuid()).pw_name)
                code = await self.admin.gate.sessions.link(actor, _FIRST_LINK_SECONDS)
                self.text = f"{self.operators.url}/sign-in/{code}"


def _reason(problem: Exception) -> str:
    inner = getattr(problem, "socketError", problem)
    return getattr(inner, "strerror", None) or str(inner)
