"""Operations by which browsers are signed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import attrs

from osqtwist.interfaces import NoSuchThing
from osqtwist.operator import Role
from osqtwist.session import LINK_SECONDS
from osqtwist.sessions import Sessions
from osqtwist.web.operations import Call, Operation


class Link(TypedDict):
    """A link that signs a browser in; ``expires_in`` in seconds."""

    path: str
    url: str
    expires_in: int


@attrs.frozen
class SigningOperations:
    """
    From the terminal into the browser.

    :ivar pages: the URL of the pages, if they are served on a port.
    """

    sessions: Sessions
    pages: Callable[[], str]

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (Operation("POST", "/api/v1/links", self.link, Role.VIEWER, code=201, has_secret=True),)

    async def link(self, call: Call) -> Link:
        """A link that signs a browser in as you, once, within a minute: `path`, and `url` where pages have a port."""
        if not self.pages():
            raise NoSuchThing("no port serves the pages: start with --admin-port tcp:9080:interface=127.0.0.1, or ssl:")
        path = f"/sign-in/{await self.sessions.link(call.actor)}"
        return {"path": path, "url": self.pages() + path, "expires_in": LINK_SECONDS}
