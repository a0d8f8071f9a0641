"""The routes of operators that are about worker processes."""

from __future__ import annotations

from typing import Any, Protocol

import attrs
from twisted.web.server import Request


class NotReplaced(Exception):
    """Workers cannot be replaced; the text says why."""


class WorkerCrew(Protocol):
    """The workers of this server."""

    def rows(self) -> list[dict[str, Any]]:
        """All of them, ready to be JSON."""

    async def replace(self) -> int:
        """
        Replace all, one after the other; fires with how many.

        :raise NotReplaced: one of the new ones does not serve.
        """


@attrs.frozen
class WorkerRoutes:
    """Each method is one route; see :mod:`osqtwist.web.admin`."""

    crew: WorkerCrew | None

    async def workers(self, request: Request) -> Any:
        """All workers; none where one process does everything."""
        return {"workers": self.crew.rows() if self.crew else []}

    async def replace(self, request: Request) -> Any:
        """Replace the workers."""
        if self.crew is None:
            raise NotReplaced("this server has no worker processes: --workers is 1")
        return {"replaced": await self.crew.replace()}
