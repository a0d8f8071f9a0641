"""
OpenTelemetry traces, for those who want them.

Without ``--traces`` nothing of OpenTelemetry is imported, and everything is put together as if this package were not
there.  With it, parts of the server are replaced by the same with spans around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService

from osqtwist.interfaces import IStores
from osqtwist.settings import BadSetting, Settings
from osqtwist.sinkinterfaces import ILogSink

if TYPE_CHECKING:
    # The delivery process needs neither.
    from osqtwist.web.admin import AdminAPI
    from osqtwist.web.exchange import Exchange


class Traces:
    """What puts spans around parts of the server; this one puts none."""

    services: Sequence[IService] = ()
    """What has to run, first to start and last to stop."""

    def exchange(self, exchange: Exchange) -> Exchange:
        """Around each request of a node."""
        return exchange

    def stores(self, stores: IStores) -> IStores:
        """Around each call of a store that a request, a delivery or an operator makes."""
        return stores

    def admin(self, admin: AdminAPI) -> AdminAPI:
        """Around each operation of an operator who is known and may do it."""
        return admin

    def sink(self, name: str, sink: ILogSink) -> ILogSink:
        """Around each delivery to a log sink."""
        return sink


def traces_of(reactor: Any, settings: Settings, part: str) -> Traces:
    """
    What the settings want.

    :param part: what this process is: ``server``, ``worker`` or ``delivery``.
    :raise BadSetting: the packages are not installed.
    """
    if not settings.traces:
        return Traces()
    try:
        from osqtwist.tracing.otel import OpenTelemetry  # noqa: PLC0415 - not everybody has it
    except ImportError as problem:
        raise BadSetting(f"--traces needs the package {problem.name}: pip install osqtwist[otel]") from None
    return OpenTelemetry(reactor, settings.traces, part)
