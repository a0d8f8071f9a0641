"""Operations about the server as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypedDict

import attrs
import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from osqtwist.certificatechecks import CheckFigures
from osqtwist.figures import SummedFigures
from osqtwist.flags import BadHostname, Flagfiles
from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.inventory import FleetFigures, Inventory
from osqtwist.operator import Role
from osqtwist.revocationlists import RevocationListRow
from osqtwist.sinkview import SinkView, SinkWord
from osqtwist.web.operations import Call, Operation
from osqtwist.wire import MalformedRequest

_TEXT = "text/plain; charset=utf-8"


class FlagsWanted(msgspec.Struct, forbid_unknown_fields=True):
    """For whom a flagfile is."""

    platform: Annotated[
        Literal["", "linux", "darwin", "windows"],
        msgspec.Meta(description="osquery's packages for it; empty for the server's own machine"),
    ] = ""
    hostname: Annotated[
        str, msgspec.Meta(max_length=300, description="HOST or HOST:PORT of the server, as nodes see it")
    ] = ""


class Healthy(TypedDict):
    """That requests of nodes can be served."""

    status: Literal["ok"]


class SinkBrief(TypedDict):
    """How a sink is, in short."""

    state: SinkWord
    lag_lines: int
    lag_seconds: float


class RefusalFigures(CheckFigures):
    """How certificates are refused."""

    revocation_lists: list[RevocationListRow]


class Status(FleetFigures, RefusalFigures):
    """One page of figures; `sinks` by name."""

    sinks: dict[str, SinkBrief]


@attrs.frozen
class ServiceOperations:
    """
    Health, figures, and how to come in.

    :ivar figures: those of every process.
    :ivar flags: writes the flagfile.
    :ivar refusing: what there is to say of how certificates are refused.
    """

    inventory: Inventory
    sinks: SinkView
    figures: SummedFigures
    flags: Flagfiles
    refusing: Callable[[], RefusalFigures]

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/healthz", self.healthz, None),
            Operation("GET", "/metrics", self.metrics, Role.VIEWER, media=CONTENT_TYPE_LATEST),
            Operation("GET", "/api/v1/status", self.status, Role.VIEWER),
            Operation("GET", "/api/v1/flags", self.flagfile, Role.VIEWER, FlagsWanted, media=_TEXT),
        )

    async def healthz(self, call: Call) -> Healthy:
        """Whether requests of nodes can be served: `{"status":"ok"}`, or 503 when the store does not answer."""
        await self.inventory.ping()
        return {"status": "ok"}

    async def metrics(self, call: Call) -> bytes:
        """Every metric, for Prometheus, with the figures of the store looked up now."""
        await self.inventory.update_metrics()
        with contextlib.suppress(StoreUnavailable, StoreFull):
            await self.sinks.update_metrics()
        return generate_latest(self.figures)

    async def status(self, call: Call) -> Status:
        """One page of figures."""
        sinks: dict[str, SinkBrief] = {
            each["sink"]: {
                "state": each["state"],
                "lag_lines": each["lag_lines"],
                "lag_seconds": each["lag_seconds"],
            }
            for each in await self.sinks.rows()
        }
        return {**await self.inventory.status(), "sinks": sinks, **self.refusing()}

    async def flagfile(self, call: Call) -> bytes:
        """An osqueryd flagfile that works with this server, for its own machine or osquery's packages of a platform."""
        try:
            return self.flags.text(call.query.platform, call.query.hostname).encode()
        except BadHostname as problem:
            raise MalformedRequest(str(problem)) from None
