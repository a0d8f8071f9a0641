"""
A Twisted application with a page of its own, and osquery nodes in a part of its tree.

python -m osqtwist_mounted PORT SETTINGS
"""

import sys

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.python.log import startLogging
from twisted.web.resource import Resource
from twisted.web.server import Site

from osqtwist.launch import EXPECTED
from osqtwist.mounting import mount_nodes
from osqtwist.settings import gather


class Page(Resource):
    isLeaf = True

    def render_GET(self, request):
        request.setHeader(b"Content-Type", b"text/plain")
        return b"the application's own page\n"


def application(port, settings):
    nodes = mount_nodes(reactor, settings, port=port, path="/osquery")
    root = Resource()
    root.putChild(b"", Page())
    root.putChild(b"osquery", nodes.resource)
    services = MultiService()
    nodes.service.setServiceParent(services)
    # nodes.tls verifies nodes' certificates as the settings say.
    endpoint = SSL4ServerEndpoint(reactor, port, nodes.tls)
    StreamServerEndpointService(endpoint, Site(root)).setServiceParent(services)
    return services


def main():
    _, port, path = sys.argv
    startLogging(sys.stdout)
    try:
        services = application(int(port), gather({}, {}, path))
    except EXPECTED as problem:
        sys.exit(str(problem))
    services.startService()
    reactor.addSystemEventTrigger("before", "shutdown", services.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
