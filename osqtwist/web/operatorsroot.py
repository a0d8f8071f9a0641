"""What operators come in by: the API, and the pages; and a look at the name by which they came."""

from __future__ import annotations

import attrs
from twisted.web.resource import IResource
from twisted.web.server import Request
from zope.interface import implementer

from osqtwist.web.browsers import is_local_name

_API = (b"/api/", b"/metrics", b"/healthz")


@implementer(IResource)
@attrs.frozen
class OperatorsRoot:
    """
    The root of the site.

    :ivar is_local: whether it is reached by names of this machine only: on a unix socket, which a browser reaches
        through ``ssh -L``, and on a plain port.  Over TLS the certificate sees to the name.
    """

    api: IResource
    pages: IResource
    is_local: bool
    isLeaf = True

    def render(self, request: Request) -> int | bytes:
        """Answer, or have somebody answer."""
        if self.is_local and not is_local_name(request.getHeader("host") or ""):
            request.setResponseCode(421)
            request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
            return b"osqtwist: here it answers to localhost only, not to the name that this request came by\n"
        chosen = self.api if request.path.startswith(_API) else self.pages
        answer: int | bytes = chosen.render(request)
        return answer

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        """Never asked of a leaf."""
        raise NotImplementedError

    def putChild(self, path: bytes, child: IResource) -> None:
        """Never asked of a leaf."""
        raise NotImplementedError
