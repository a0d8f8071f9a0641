"""Which kinds of sinks there are: ours, and those of plug-ins."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from twisted.plugin import getPlugins
from zope.interface import providedBy

from osqtwist.sinkinterfaces import BadSinkSetting, ISinkKind

# Imported only when asked for: some need packages that not everybody has.
_OURS = {
    "file": "osqtwist.sinks.file:FileKind",
    "stdout": "osqtwist.sinks.stdout:StdoutKind",
    "webhook": "osqtwist.sinks.webhook:WebhookKind",
    "splunk": "osqtwist.sinks.splunk:SplunkKind",
    "elastic": "osqtwist.sinks.elastic:ElasticKind",
    "loki": "osqtwist.sinks.loki:LokiKind",
    "kafka": "osqtwist.sinks.kafka:KafkaKind",
    "syslog": "osqtwist.sinks.syslog:SyslogKind",
    "s3": "osqtwist.sinks.s3:S3Kind",
    "slack": "osqtwist.sinks.slack:SlackKind",
    "pagerduty": "osqtwist.sinks.pagerduty:PagerDutyKind",
    "email": "osqtwist.sinks.email:EmailKind",
    "redis-stream": "osqtwist.sinks.redis_stream:RedisStreamKind",
}

OUR_KINDS = tuple(_OURS)


def kind_named(name: str, plugins: Iterable[Any] | None = None) -> Any:
    """
    The :class:`~osqtwist.sinkinterfaces.ISinkKind` of a name.

    :param plugins: in the place of those that are installed.
    :raise BadSinkSetting: there is none.
    """
    if name in _OURS:
        module, _, kind = _OURS[name].partition(":")
        return getattr(importlib.import_module(module), kind)()
    found = {each.kind: each for each in (getPlugins(ISinkKind) if plugins is None else plugins)}
    if name not in found:
        raise BadSinkSetting(f"kind is {name!r}; it must be one of {', '.join(sorted({*_OURS, *found}))}")
    if not ISinkKind.providedBy(found[name]):
        raise BadSinkSetting(f"kind {name!r} provides {list(providedBy(found[name]))}, not ISinkKind")
    return found[name]
