"""A worker process: serves nodes on the sockets that its parent has bound, with everything else of its own."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.childside import ParentPipe, begin, read_instructions, run
from osqtwist.figures import figures_of
from osqtwist.garbage import RareCollections
from osqtwist.interfaces import StoreUnavailable
from osqtwist.launch import EXPECTED
from osqtwist.metrics import SUMMED_GAUGES, Metrics
from osqtwist.nodeside import NodeSide
from osqtwist.ports import BoundPort
from osqtwist.server import Server, StartFailed
from osqtwist.statefolder import StateFolder
from osqtwist.steadytime import steady
from osqtwist.storage.redis_url import parse_redis_url
from osqtwist.tracing import traces_of
from osqtwist.workers import FIRST_SOCKET, RELOAD, REPORT_SECONDS, WorkerInstructions

_log = Logger()


class Reports(Service):
    """Tells the parent every few seconds what this worker has counted; that it does shows that it is not stuck."""

    def __init__(self, reactor: Any, pipe: ParentPipe, metrics: Metrics) -> None:
        self._loop = LoopingCall(lambda: pipe.figures(figures_of(metrics.registry, SUMMED_GAUGES)))
        self._loop.clock = reactor

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._loop.start(REPORT_SECONDS)

    def stopService(self) -> None:
        """Send the last figures, so that none is missing from the sums."""
        super().stopService()
        self._loop.f()
        self._loop.stop()


def main() -> None:
    """Run as a child."""
    from twisted.internet import reactor  # noqa: PLC0415 - the one place where this process' reactor comes from

    loop = steady(reactor)
    pipe = begin()
    instructions = read_instructions(WorkerInstructions)
    settings, metrics = instructions.settings, Metrics()
    ports = [
        BoundPort(spoken, socket.socket(fileno=FIRST_SOCKET + place))
        for place, spoken in enumerate(instructions.sockets)
    ]
    secret_path = Path(instructions.secret_path) if instructions.secret_path else None
    state = StateFolder(Path(settings.state).absolute())
    try:
        traces = traces_of(loop, settings, "worker")
        node_side = NodeSide.of(
            loop,
            settings,
            state,
            parse_redis_url(instructions.redis_url),
            secret_path,
            metrics,
            traces,
            True,
            instructions.good,
        )
    except EXPECTED as problem:
        _fail(str(problem))
    server = Server(
        reactor=loop,
        front=node_side.front(loop, settings, ports),
        stores=node_side.stores,
        embedded=None,
        prepare=[node_side.follower.begin],
        services=[
            *traces.services,
            Reports(loop, pipe, metrics),
            *node_side.watches,
            RareCollections(loop),
            *node_side.parts.services,
        ],
        first_looks=node_side.parts.first_looks,
        on_ready=pipe.ready,
        on_failure=_fail,
        expected_failures=(StartFailed, StoreUnavailable),
    )

    def take(word: str) -> None:
        if word == RELOAD:
            for reload in node_side.reloads:
                reload()

    run(loop, server, take)


def _fail(sentence: str) -> Any:
    """Give up; the parent starts another worker."""
    _log.critical("{sentence}", sentence=sentence)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
