"""
``osqtwist reference``: in the place of osquery's ``test_http_server.py``.

It takes that script's arguments and is the real server, with an example profile: in-memory stores, a configuration
of fixed bytes, two distributed queries, and routes that let osquery's tests see what came.  What the script gets
wrong is right here: blocks of carves are answered, request bodies may be gzip, and requests do not wait for each
other.
"""

from __future__ import annotations

import gzip
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import attrs
import click
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from osqtwist.assembly import Parts, assemble, node_site
from osqtwist.configuration import StaticConfiguration
from osqtwist.enrollsecret import EnrollSecrets, parse_enroll_secrets
from osqtwist.identity import IdentityCache, IdentityRule, node_id_for_host
from osqtwist.metrics import Metrics
from osqtwist.nodekey import NodeKeyClaims, NodeKeys, new_signing_key
from osqtwist.ports import BoundPort, UnusablePort, bind_all
from osqtwist.query import DistributedQuery
from osqtwist.settings import Settings
from osqtwist.storage.memory import MemoryStores
from osqtwist.targeting import Target
from osqtwist.tls import PeerIdentities, ReloadingServerTLS
from osqtwist.tlsfiles import TLSFiles, UnusableCredential
from osqtwist.tlsport import listen
from osqtwist.web import routes

# The order of the keys counts: osquery's test knows the SHA-1 of it.
EXAMPLE_CONFIG = (
    b'{"schedule":{"tls_proc":{"query":"select * from processes","interval":1}},"node_invalid":false,"node":true}'
)
EXAMPLE_QUERIES = {
    "info": "select count(1) from osquery_info",
    "flags": "select count(1) from osquery_flags",
}
FIXED_KEYS = ("this_is_a_node_secret", "this_is_also_a_node_secret")
_SEEN = {"/enroll": "enroll", "/config": "config"}
_FOREVER = 10 * 365 * 86400.0


class ExampleKeys(NodeKeys):
    """Node keys as the server issues them, and the two that osquery's tests know by heart."""

    def verify(self, text: str, identity: str = "") -> NodeKeyClaims:
        """See :class:`osqtwist.nodekey.NodeKeys`."""
        if text in FIXED_KEYS:
            return NodeKeyClaims(node_id_for_host(text), 1.0, False)
        return super().verify(text, identity)


class ReferenceResource(Resource):
    """
    The node API, and around it what the script answers beside.

    :param requires_gzip: a request that does not accept gzip is answered with 400.
    """

    isLeaf = True

    def __init__(self, nodes: IResource, requires_gzip: bool) -> None:
        super().__init__()
        self._nodes = nodes
        self._requires_gzip = requires_gzip
        self._own_paths = {path for paths in routes.paths_by_route().values() for path in paths}
        self.received: list[dict[str, Any]] = []
        self.requests = 0

    def render(self, request: Request) -> Any:
        """Answer one request."""
        self.requests += 1
        path = request.path.decode("latin-1")
        if self._requires_gzip and not _accepts_gzip(request):
            request.setResponseCode(400)
            return b"gzip is required\n"
        if request.method == b"HEAD":
            return b""
        if request.method == b"GET":
            return _answer(request, {"foo": "baz", "config": "baz"})
        if path == "/test_read_requests":
            return _answer(request, self.received)
        if path not in self._own_paths:
            return _answer(request, {"foo": "bar"})
        self._remember(path, request)
        return self._nodes.render(request)

    def _remember(self, path: str, request: Request) -> None:
        command = _SEEN.get(path)
        content: Any = request.content
        try:
            body = json.loads(content.getvalue()) if command else None
        except ValueError:
            return
        if isinstance(body, dict):
            self.received.append({**body, "command": command})


def _accepts_gzip(request: Request) -> bool:
    return "gzip" in (request.getHeader("Accept-Encoding") or "")


def _answer(request: Request, value: Any) -> bytes:
    request.setHeader(b"Content-Type", b"application/json")
    body = json.dumps(value).encode()
    if _accepts_gzip(request):
        request.setHeader(b"Content-Encoding", b"gzip")
        return gzip.compress(body)
    return body


@attrs.frozen
class Arguments:
    """What the script is started with."""

    port: int
    uses_tls: bool
    cert: Path
    key: Path
    ca: Path
    secret: Path
    verifies_clients: bool
    requires_gzip: bool

    @property
    def client_auth(self) -> Literal["required", "none"]:
        """Whether clients have to show a certificate."""
        return "required" if self.verifies_clients else "none"


async def build(reactor: Any, arguments: Arguments, folder: Path) -> tuple[Any, ReferenceResource, Parts]:
    """
    The site to listen with, the resource that remembers, and the parts to run.
    """
    settings = Settings(hold=0.0, client_auth=arguments.client_auth)
    metrics = Metrics()
    stores = MemoryStores(reactor)
    parts = assemble(
        reactor,
        settings,
        stores,
        StaticConfiguration(EXAMPLE_CONFIG),
        PeerIdentities(IdentityCache((IdentityRule(), IdentityRule("serial")))),
        EnrollSecrets(parse_enroll_secrets(arguments.secret.read_text("utf-8"))),
        # Required certificates authenticate the connection here, not the key: the script knows no bound keys.
        ExampleKeys((new_signing_key(),)),
        folder,
        metrics,
        binds_keys=False,
    )
    now = reactor.seconds()
    for name, sql in EXAMPLE_QUERIES.items():
        await stores.queries.add(
            DistributedQuery(query_id=name, sql=sql, target=Target(), created_at=now, expires_at=now + _FOREVER)
        )
    resource = ReferenceResource(parts.api.app().resource(), arguments.requires_gzip)
    site = node_site(reactor, settings, resource, metrics)
    return site, resource, parts


@click.command()
@click.argument("port", type=click.IntRange(0, 65535))
@click.option("--tls", is_flag=True, help="Serve over TLS.")
@click.option("--persist", is_flag=True, help="Do not end when no requests come.")
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds until then.")
@click.option("--verbose", is_flag=True, help="Log each request.")
@click.option("--cert", type=click.Path(path_type=Path), help="By default test_server.pem in the configs dir.")
@click.option("--key", type=click.Path(path_type=Path), help="By default test_server.key.")
@click.option("--ca", type=click.Path(path_type=Path), help="By default test_server_ca.pem.")
@click.option("--use_enroll_secret", is_flag=True, default=True, help="Always so.")
@click.option("--enroll_secret", type=click.Path(path_type=Path), help="By default test_enroll_secret.txt.")
@click.option("--test-configs-dir", type=click.Path(path_type=Path), required=True, help="Where those files are.")
@click.option("--verify-client-cert", is_flag=True, help="Require a client certificate.")
@click.option("--require-gzip", is_flag=True, help="Refuse requests that do not accept gzip.")
def reference(
    port: int,
    tls: bool,
    persist: bool,
    timeout: float,
    verbose: bool,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    use_enroll_secret: bool,
    enroll_secret: Path | None,
    test_configs_dir: Path,
    verify_client_cert: bool,
    require_gzip: bool,
) -> None:
    """Serve osquery's own tests on 127.0.0.1, with the arguments of its test_http_server.py."""
    from twisted.internet import reactor  # noqa: PLC0415 - the edge where the reactor comes from

    arguments = Arguments(
        port,
        tls,
        cert or test_configs_dir / "test_server.pem",
        key or test_configs_dir / "test_server.key",
        ca or test_configs_dir / "test_server_ca.pem",
        enroll_secret or test_configs_dir / "test_enroll_secret.txt",
        verify_client_cert,
        require_gzip,
    )
    _log_to_stderr(LogLevel.info if verbose else LogLevel.warn)
    with tempfile.TemporaryDirectory(prefix="osqtwist-reference-") as folder:
        try:
            ((bound,),) = bind_all([f"ssl:{port}:interface=127.0.0.1"])
            _serve(reactor, arguments, bound, Path(folder), None if persist else timeout)
        except (UnusablePort, UnusableCredential) as problem:
            raise click.ClickException(str(problem)) from None
        except OSError as problem:
            raise click.ClickException(f"{problem.filename}: {problem.strerror}") from None


def _serve(reactor: Any, arguments: Arguments, bound: BoundPort, folder: Path, timeout: float | None) -> None:
    outcome: list[Any] = []
    Deferred.fromCoroutine(build(reactor, arguments, folder)).addBoth(outcome.append)
    if not isinstance(outcome[0], tuple):
        outcome[0].raiseException()
    site, resource, parts = outcome[0]
    for service in parts.services:
        service.startService()
    if arguments.uses_tls:
        files = TLSFiles(arguments.cert, arguments.key, arguments.ca, client_auth=arguments.client_auth)
        listen(reactor, bound.socket, site, ReloadingServerTLS(files).connection)
    else:
        reactor.adoptStreamPort(bound.socket.fileno(), bound.socket.family, site)
    click.echo(f"osqtwist reference serves on 127.0.0.1 port {bound.number}", err=True)
    if timeout is not None:
        _end_when_idle(reactor, resource, timeout)
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(reactor.stop))
    for service in reversed(parts.services):
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


def _end_when_idle(reactor: Any, resource: ReferenceResource, timeout: float) -> None:
    last = [resource.requests, reactor.seconds()]

    def look() -> None:
        if resource.requests != last[0]:
            last[:] = [resource.requests, reactor.seconds()]
        elif reactor.seconds() - last[1] > timeout and reactor.running:
            reactor.stop()

    loop = LoopingCall(look)
    loop.clock = reactor
    loop.start(min(1.0, timeout / 4), now=False)


def _log_to_stderr(level: Any) -> None:
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(level)])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
