"""
The node API inside another Twisted application, which has ports, site and process of its own.

::

    nodes = mount_nodes(reactor, gather({"redis": "redis://127.0.0.1"}, {}), port=8443, path="/osquery")
    root.putChild(b"osquery", nodes.resource)
    nodes.service.setServiceParent(application)
    SSL4ServerEndpoint(reactor, 8443, nodes.tls).listen(Site(root))

All else is as with ``twistd osqtwist``: the admin socket, the delivery process, the files that are read again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.application.service import IService
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import IResource
from zope.interface import implementer

from osqtwist.assembly import body_limits
from osqtwist.front import DRAIN_SECONDS
from osqtwist.launch import Host, make_server
from osqtwist.nodeside import NodeSide
from osqtwist.settings import BadSetting, Settings
from osqtwist.tls import ReloadingServerTLS
from osqtwist.web import routes
from osqtwist.web.mounted import MountedNodes

_DRAIN_STEP = 0.05

_log = Logger()


@implementer(IOpenSSLServerConnectionCreator)
@attrs.frozen
class NodeTLS:
    """
    What Twisted's TLS endpoints take to verify nodes as the settings say; each connection has the files of its time.
    """

    files: ReloadingServerTLS

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A connection; Twisted moves its bytes."""
        return SSL.Connection(self.files.loaded.context, None)


@attrs.frozen
class NodesInside:
    """
    What :func:`mount_nodes` makes.

    :ivar resource: the node API, for any place in the application's tree.  Until the service has started, and once it
        stops, requests are refused with 503 and ``{"error": ...}``, on which nodes keep what they have.
    :ivar service: everything that runs, to be started and stopped with the application; stopping fires when each held
        read is answered and the store closed.
    :ivar tls: verifies nodes' certificates, if the application has no other way to.  Whatever it uses must show its
        ``OpenSSL.SSL.Connection`` as ``transport.getHandle()``, as Twisted's own does, and must have verified what the
        peer showed against the nodes' CA alone: the certificate is taken for who it says.
    """

    resource: IResource
    service: IService
    tls: IOpenSSLServerConnectionCreator


def _say(sentence: str) -> None:
    _log.critical("osqtwist does not serve nodes: {sentence}", sentence=sentence)


def mount_nodes(
    reactor: Any,
    settings: Settings,
    port: int = 443,
    path: str = "",
    on_failure: Callable[[str], object] = _say,
) -> NodesInside:
    """
    The node API of these settings, without ports, signals or a reactor of its own.

    The state folder is made and locked at once.  ``--port`` is not used; neither are deadlines, which are the site's
    business.

    :param port: that nodes connect to, and :param path: of the resource; ``osqtwist flags`` says them.
    :param on_failure: called with a sentence if the service cannot start; by default it is logged, and the resource
        goes on refusing.
    :raise BadSetting: and the others of :data:`osqtwist.launch.EXPECTED`: something cannot be used.
    """
    if settings.role == "delivery" or settings.worker_count != 1:
        wrong = "--role delivery" if settings.role == "delivery" else f"--workers {settings.workers}"
        raise BadSetting(f"{wrong} is for twistd: inside another application there is one process that serves nodes")
    if settings.trusted_proxy or settings.proxy_protocol:
        wrong = "[trusted_proxy]" if settings.trusted_proxy else "--proxy-protocol"
        raise BadSetting(f"{wrong} is for twistd: the connections of another application are not looked at for proxies")
    made: list[tuple[MountedNodes, ReloadingServerTLS]] = []

    def front(node_side: NodeSide) -> _Front:
        prefixes = settings.route_prefix
        plain = frozenset(each.encode() for each in routes.paths_by_route(prefixes)[routes.CARVE_CONTINUE])
        resource = MountedNodes(node_side.parts.api.app(prefixes).resource(), body_limits(settings), plain)
        made.append((resource, node_side.tls))
        return _Front(reactor, resource)

    service = make_server(reactor, settings, host=Host(port, path, front, on_failure))
    ((resource, tls),) = made
    return NodesInside(resource, service, NodeTLS(tls))


@attrs.frozen
class _Front:
    """See :class:`osqtwist.front.Front`."""

    reactor: Any
    resource: MountedNodes

    async def open(self) -> None:
        self.resource.is_open = True
        _log.info("osqtwist serves nodes inside another application")

    async def shut(self) -> None:
        self.resource.is_open = False

    async def drain(self) -> None:
        waited = 0.0
        while self.resource.under_way and waited < DRAIN_SECONDS:
            await deferLater(self.reactor, _DRAIN_STEP)
            waited += _DRAIN_STEP
