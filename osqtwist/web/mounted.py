"""
The node API as a resource in the tree of another application.

What the node site does for its own connections is the host's business here: deadlines, limits of headers, putting out
whoever is revoked.  What must not depend on the host is done: nothing is answered that osquery takes for success unless
it is one, and no body over its limit is handed on.
"""

from __future__ import annotations

from typing import Any

from twisted.web.http import REQUEST_ENTITY_TOO_LARGE, SERVICE_UNAVAILABLE
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from osqtwist.web.request import BodyLimits
from osqtwist.wire import refusal


class MountedNodes(Resource):
    """
    Hands requests on while the server runs, and refuses them before and after.

    :param nodes: answers requests of nodes, by the part of the path below this resource.
    :param plain_paths: paths on which a refusal must not be JSON.
    :ivar is_open: whether it hands requests on.
    :ivar under_way: how many it has handed on that are not answered yet.
    """

    isLeaf = True

    def __init__(self, nodes: IResource, limits: BodyLimits, plain_paths: frozenset[bytes]) -> None:
        super().__init__()
        self.is_open = False
        self.under_way = 0
        self._nodes = nodes
        self._limits = limits
        self._plain_paths = plain_paths

    def render(self, request: Request) -> Any:
        """Answer, or begin to."""
        path = b"/" + b"/".join(request.postpath or ())
        if not self.is_open:
            return self._refuse(request, path, SERVICE_UNAVAILABLE, "the server does not run now; come again")
        limit = self._limits(path)
        if _length_of(request) > limit:
            return self._refuse(request, path, REQUEST_ENTITY_TOO_LARGE, f"the body is over {limit} bytes")
        self.under_way += 1
        request.notifyFinish().addBoth(self._is_done)
        return self._nodes.render(request)

    def _is_done(self, _: object) -> None:
        self.under_way -= 1

    def _refuse(self, request: Request, path: bytes, code: int, text: str) -> bytes:
        request.setResponseCode(code)
        if path in self._plain_paths:
            request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
            return f"refused: {text}".encode()
        request.setHeader(b"Content-Type", b"application/json")
        return refusal(text)


def _length_of(request: Request) -> int:
    content: Any = request.content
    length = int(content.seek(0, 2))
    content.seek(0)
    return length
