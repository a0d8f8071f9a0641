"""Operations about worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypedDict

import attrs

from osqtwist.operator import Role
from osqtwist.web.operations import Call, Operation


class NotReplaced(Exception):
    """Workers cannot be replaced; the text says why."""


class WorkerRow(TypedDict):
    """A worker process."""

    worker: int
    pid: int | None
    state: Literal["serving", "starting"]
    starts: int
    connections: int
    parked_reads: int
    requests: int


class AllWorkers(TypedDict):
    """Worker processes; none where one process does everything."""

    workers: list[WorkerRow]


class WorkersReplaced(TypedDict):
    """How many were replaced."""

    replaced: int


class WorkerCrew(Protocol):
    """The workers of this server."""

    def rows(self) -> list[WorkerRow]:
        """All of them, ready to be JSON."""

    async def replace(self) -> int:
        """
        Replace all, one after the other; fires with how many.

        :raise NotReplaced: one of the new ones does not serve.
        """


@attrs.frozen
class WorkerOperations:
    """Worker processes: looked at, replaced."""

    crew: WorkerCrew | None

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/workers", self.workers, Role.VIEWER),
            Operation("POST", "/api/v1/workers/replace", self.replace, Role.ADMIN),
        )

    async def workers(self, call: Call) -> AllWorkers:
        """Worker processes and what they do; none where one process does everything."""
        return {"workers": self.crew.rows() if self.crew else []}

    async def replace(self, call: Call) -> WorkersReplaced:
        """Replace them one by one, refusing no connection."""
        if self.crew is None:
            raise NotReplaced("this server has no worker processes: --workers is 1")
        return {"replaced": await self.crew.replace()}
