"""The operators' side of a server: what there is for them to call, and where they come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from osqtwist.assembly import Parts
from osqtwist.audittrail import AuditTrail
from osqtwist.figures import SummedFigures
from osqtwist.interfaces import IStores
from osqtwist.inventory import Inventory
from osqtwist.livequery import LiveQueries
from osqtwist.logview import LogView
from osqtwist.server import StartFailed
from osqtwist.sinkview import SinkView
from osqtwist.web.admin import AdminAPI, Gate
from osqtwist.web.audit import AuditOperations
from osqtwist.web.carves import CarveOperations
from osqtwist.web.inventory import NodeOperations
from osqtwist.web.livequeries import QueryOperations
from osqtwist.web.logs import LogOperations
from osqtwist.web.request import PlainRequest
from osqtwist.web.service import ServiceOperations
from osqtwist.web.sinks import SinkOperations
from osqtwist.web.site import QuietSite
from osqtwist.web.workers import WorkerCrew, WorkerOperations


def admin_api(
    reactor: Any,
    stores: IStores,
    parts: Parts,
    sinks: SinkView,
    figures: SummedFigures,
    gate: Gate,
    flags: Callable[[], str],
    crew: WorkerCrew | None = None,
) -> AdminAPI:
    """
    The operators' API on top of what serves nodes.

    :param figures: those of every process.
    :param flags: writes a flagfile for nodes.
    :param crew: the worker processes, if there are any.
    """
    api, trail = parts.api, AuditTrail(reactor, stores)
    inventory = Inventory(reactor, stores, api.directory, api.configuration, figures, api.metrics)
    groups = (
        ServiceOperations(inventory, sinks, figures, flags),
        NodeOperations(inventory),
        QueryOperations(LiveQueries(reactor, stores, api.distributed, inventory)),
        LogOperations(LogView(reactor, stores)),
        SinkOperations(sinks),
        WorkerOperations(crew),
        CarveOperations(api.carves),
        AuditOperations(trail),
    )
    return AdminAPI(groups, gate, trail)


async def listen_on_socket(reactor: Any, path: Path, admin: AdminAPI) -> IListeningPort:
    """
    Serve operators on a unix socket that only its owner may open.

    :raise StartFailed: it cannot be made.
    """
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
