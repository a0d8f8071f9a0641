"""
The object graph between the stores and the APIs: which service is given which.

The same in every process that serves nodes or operators; only :mod:`osqtwist.launch` knows what else a process has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import IService
from twisted.internet.threads import deferToThreadPool
from twisted.web.resource import IResource
from twisted.web.server import Request

from osqtwist.admission import Admission
from osqtwist.approval import Approval
from osqtwist.audittrail import AuditTrail
from osqtwist.authentication import Authentication
from osqtwist.canarywatch import CanaryWatch
from osqtwist.carves import CarveLimits, Carves
from osqtwist.certificatechecks import CertificateChecks
from osqtwist.clones import Clones
from osqtwist.clonewatch import CloneWatch
from osqtwist.configuration import NodeConfiguration
from osqtwist.denials import Denials
from osqtwist.directory import Directory
from osqtwist.distributed import Distributed
from osqtwist.easing import Easing
from osqtwist.enrollment import Enrollment
from osqtwist.enrollsecret import EnrollSecrets
from osqtwist.fleetevents import EventSettings, FleetEvents
from osqtwist.housekeeping import BufferWatch
from osqtwist.identity import CertificateIdentity
from osqtwist.interfaces import IStores, Report
from osqtwist.logs import LogIntake
from osqtwist.metrics import Metrics
from osqtwist.nodekey import NodeKeys
from osqtwist.ocsp import Responders
from osqtwist.ocspclient import OcspClient
from osqtwist.parking import ParkedReads
from osqtwist.passedcertificates import ProxiedIdentities
from osqtwist.ports import most_connections_of_an_address
from osqtwist.rollouts import Rollouts
from osqtwist.secretbook import StoredSecrets
from osqtwist.settings import Settings
from osqtwist.tagfindings import TagFindings
from osqtwist.tagging import Tagging
from osqtwist.tls import PeerIdentities
from osqtwist.tracing import Traces
from osqtwist.web import routes
from osqtwist.web.crowds import Crowds
from osqtwist.web.exchange import Exchange
from osqtwist.web.nodes import NodeAPI
from osqtwist.web.request import BodyLimits, Endpoint
from osqtwist.web.site import NodeSite

_MIB = 2**20
_SMALL_BODY = _MIB
_CARVE_BODY = 24 * _MIB
# A node that was away posts its backlog at 1,024 lines a post, one every few seconds.
_BURST_SECONDS = 60
_MAX_LOGS_UNDER_WAY = 256 * _MIB
# osquery drops longer lines itself (logger_tls_max_linesize), unless it is told otherwise.
MAX_LINE_BYTES = 4 * _MIB


@attrs.frozen
class Parts:
    """
    What :func:`assemble` puts together: the API of nodes, and what has to run.

    :ivar first_looks: at what must be known before nodes are served.
    :ivar denials: certificates that operators deny.
    :ivar report: to be called with what somebody may want to be told of: the kind, the id of a node, and the facts.
    :ivar rollouts: what becomes of versions of the configuration; nothing does unless somebody calls it.
    """

    api: NodeAPI
    parked: ParkedReads
    services: list[IService]
    first_looks: Sequence[Callable[[], Awaitable[None]]]
    report: Report
    rollouts: Rollouts
    denials: Denials


def assemble(
    reactor: Any,
    settings: Settings,
    stores: IStores,
    configuration: NodeConfiguration,
    identities: PeerIdentities | ProxiedIdentities,
    secrets: EnrollSecrets,
    node_keys: NodeKeys,
    carve_folder: Path,
    metrics: Metrics,
    binds_keys: bool = True,
    process: str = "",
    traces: Traces = Traces(),
) -> Parts:
    """
    The object graph between the stores and the node API.

    :param carve_folder: shared by all processes that serve nodes.
    :param process: the name of this process among all that serve nodes; empty if it serves none.
    :param traces: puts spans around requests.
    :param binds_keys: whether, where certificates are required, only keys that are bound to one count.
    """
    pool = reactor.getThreadPool()

    def in_thread(work: Callable[[], Any]) -> Any:
        return deferToThreadPool(reactor, pool, work)

    events, report = _events(reactor, settings, stores, process)
    parked = ParkedReads(
        reactor,
        metrics.parked_reads.set,
        settings.limits.held_reads_per_node,
        settings.limits.held_reads_per_address,
        metrics.reads_crowded.inc,
    )
    distributed = Distributed(reactor, stores.queries, stores.signals, parked, metrics, settings.query_burst)

    def tagging() -> Tagging:
        return configuration.tagging

    approval = Approval(reactor, stores, settings.approve_nodes, report)
    directory = Directory(
        reactor, stores.nodes, stores.signals, distributed.end_reads_of, tagging, report, approval.check
    )

    def is_revoked(node_id: str, issued_at: float = 0.0) -> bool:
        found = directory.is_revoked(node_id, issued_at)
        if found:
            report("revoked_attempt", node_id, {})
        return found

    clones = Clones(reactor, stores, report)
    watch = CloneWatch(reactor, stores, clones, directory.enrolled_at, settings.worker_count)
    carves = Carves(
        reactor,
        stores.carves,
        carve_folder,
        in_thread,
        metrics,
        CarveLimits(max_bytes=settings.max_carve_mib * _MIB, min_free_bytes=settings.carve_min_free_mib * _MIB),
    )

    def certificate_of(request: Request) -> CertificateIdentity | None:
        return identities.of(request)

    denials = Denials(reactor, stores.denials, stores.signals, metrics)
    responders = None
    if settings.ocsp != "off":
        responders = Responders(reactor, OcspClient(reactor), settings.ocsp, settings.ocsp_url, metrics)
    canaries = CanaryWatch(reactor, stores.rollouts)
    # A node's connections are spread over the workers, and so is what it may post.
    rate = settings.node_log_kib * 1024 / settings.worker_count
    admission = Admission(reactor, rate, max(_BURST_SECONDS * rate, _MIB), _MAX_LOGS_UNDER_WAY)
    api = NodeAPI(
        exchange=traces.exchange(
            Exchange(reactor, metrics, in_thread, settings.max_log_body_mib * _MIB, settings.request_log)
        ),
        certificate_of=certificate_of,
        chain_of=identities.chain_of,
        checks=CertificateChecks(denials, responders, report),
        authentication=Authentication(
            node_keys,
            is_revoked,
            binds_keys and settings.client_auth == "required",
            clones.node_of,
        ),
        enrollment=Enrollment(
            reactor,
            stores.nodes,
            stores.signals,
            node_keys,
            secrets,
            is_revoked,
            watch.placed,
            stores.secrets,
            approval.check,
            settings.enroll_by_certificate,
            report,
        ),
        clones=clones,
        watch=watch,
        directory=directory,
        configuration=configuration,
        canaries=canaries,
        distributed=distributed,
        logs=LogIntake(
            reactor,
            stores.logs,
            admission,
            metrics,
            MAX_LINE_BYTES,
            TagFindings(stores.nodes, stores.signals, configuration.tagging_of),
            canaries,
        ),
        carves=carves,
        metrics=metrics,
        hold=settings.hold,
        enroll_secret_name=settings.enroll_secret_name,
    )
    services: list[IService] = [
        StoredSecrets(reactor, stores, secrets),
        directory,
        denials,
        clones,
        distributed,
        BufferWatch(reactor, stores, admission),
        canaries,
    ]
    if responders:
        services.append(responders)
    if settings.ease:
        services.append(Easing(reactor, stores, configuration, metrics, settings.easing, process))
    rollouts = Rollouts(reactor, stores, lambda: configuration.plan, report, metrics, AuditTrail(reactor, stores))
    first_looks = [directory.look_at_revocations, denials.look]
    return Parts(api, parked, [*services, *events], first_looks, report, rollouts, denials)


def _events(reactor: Any, settings: Settings, stores: IStores, process: str) -> tuple[list[IService], Report]:
    """What writes down what happens in the fleet, if anybody wants to know."""
    if settings.events is None and not settings.alert:
        return [], lambda kind, node_id, facts: None
    # Of several processes only the one that serves operators looks around.
    looks = settings.worker_count == 1 or not process
    events = FleetEvents(reactor, stores, settings.events or EventSettings(), looks)
    return [events], events.report


def node_site(
    reactor: Any,
    settings: Settings,
    resource: IResource,
    metrics: Metrics,
    endpoints: Mapping[str, Endpoint] | None = None,
) -> NodeSite:
    """The site that serves nodes, with the limits that the settings give; see :class:`NodeSite` for the rest."""
    return NodeSite(
        resource,
        reactor,
        metrics,
        body_limits(settings),
        settings.deadlines,
        settings.keep_connections,
        frozenset(path.encode() for path in routes.paths_by_route(settings.route_prefix)[routes.CARVE_CONTINUE]),
        {path.encode(): endpoint for path, endpoint in (endpoints or {}).items()},
        Crowds(reactor, most_connections_of_an_address(settings.limits.connections_per_address)),
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
