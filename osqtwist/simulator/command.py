"""``osqtwist simulate``: a fleet to try a server with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater

from osqtwist.simulator.certificates import CertificateSource
from osqtwist.simulator.fleet import SimulatedFleet
from osqtwist.simulator.node import Flags
from osqtwist.simulator.transport import Server

_PROGRESS_INTERVAL = 2.0


@click.command()
@click.option("--nodes", type=click.IntRange(1, 100_000), default=5, show_default=True, help="How many.")
@click.option("--server", default="localhost:8443", show_default=True, help="Name and port, as in --tls_hostname.")
@click.option("--certs", type=click.Path(path_type=Path), default=Path("certs"), show_default=True, help="PKI folder.")
@click.option(
    "--server-certs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CAs of the server, as in --tls_server_certs; by default ca.pem in the PKI folder.",
)
@click.option("--ou", "unit", default="", help="The OU in their certificates.")
@click.option("--domain", default="sim", show_default=True, help="What their names end with: node-00001.DOMAIN.")
@click.option("--no-certs", is_flag=True, help="Nodes show no certificate; they enroll with the secret.")
@click.option("--duration", type=click.FloatRange(min=0), default=0.0, help="Seconds; until Ctrl-C by default.")
@click.option("--enroll-secret-path", type=click.Path(path_type=Path), help="By default enroll-secret in state/.")
@click.option("--disable-enrollment", is_flag=True, help="Nodes never enroll; their certificate is all they have.")
@click.option("--tls", "version", type=click.Choice(["1.2", "1.3"]), help="This version only.")
@click.option("--lines-per-second", type=click.FloatRange(min=0), default=0.0, help="Result lines a node, on top.")
@click.option("--config-refresh", type=click.FloatRange(min=0.1), default=60.0, show_default=True)
@click.option(
    "--ramp", type=click.FloatRange(min=0.1), default=200.0, show_default=True, help="Nodes started a second."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Other nodes with another seed.")
def simulate(
    nodes: int,
    server: str,
    certs: Path,
    server_certs: Path | None,
    unit: str,
    domain: str,
    no_certs: bool,
    duration: float,
    enroll_secret_path: Path | None,
    disable_enrollment: bool,
    version: str | None,
    lines_per_second: float,
    config_refresh: float,
    ramp: float,
    seed: int,
) -> None:
    """
    Simulate nodes: they enroll, fetch their config, post logs and answer live queries.

    Each is a faithful client of osquery's protocol with a certificate of its own.  At the end, figures as JSON.  The
    exit status is 1 if no node got through.
    """
    from twisted.internet import reactor  # noqa: PLC0415 - the edge where the reactor comes from

    loop: Any = reactor
    try:
        source = None if no_certs else CertificateSource.of(certs, unit)
    except (OSError, ValueError) as problem:
        raise click.ClickException(f"--certs {certs}: {getattr(problem, 'strerror', None) or problem}") from None
    trusted = server_certs or certs / "ca.pem"
    if not trusted.exists():
        raise click.ClickException(f"--certs {certs}: there is no ca.pem to check the server with")
    name, _, port = server.rpartition(":")
    if not name or not port.isdecimal():
        raise click.BadParameter(f"{server!r} is not NAME:PORT", param_hint="--server")
    flags = Flags(
        enroll_secret=_secret(enroll_secret_path),
        disable_enrollment=disable_enrollment,
        config_refresh=config_refresh,
        extra_lines_per_second=lines_per_second,
    )
    fleet = SimulatedFleet(
        loop, Server(name.strip("[]"), int(port)), str(trusted), flags, source, version or "", seed, ramp, domain
    )
    progress = LoopingCall(_show_progress, fleet)

    async def live() -> None:
        progress.start(_PROGRESS_INTERVAL, now=False)
        await fleet.start(nodes)
        await (deferLater(loop, duration) if duration else Deferred())

    living = Deferred.fromCoroutine(live())
    # Cancelled, the reactor is stopping already.
    living.addCallback(lambda _: loop.stop())
    living.addErrback(lambda failure: None if failure.check(CancelledError) else loop.stop())
    loop.addSystemEventTrigger("before", "shutdown", _end, loop, living, progress, fleet)
    loop.run()
    summary = fleet.summary()
    click.echo(json.dumps(summary, indent=2))
    if not summary["configs_applied"]:
        sys.exit(1)


def _end(loop: Any, living: Deferred[Any], progress: LoopingCall, fleet: SimulatedFleet) -> Deferred[None]:
    living.cancel()
    if progress.running:
        progress.stop()
    fleet.stop()
    # A moment for connections to close.
    return deferLater(loop, 0.05)


def _show_progress(fleet: SimulatedFleet) -> None:
    found = fleet.summary()
    failures = sum(found["failures"].values())
    click.echo(
        f"{found['nodes']} nodes, {found['enrolled']} enrolled, {found['handshakes']} handshakes, "
        f"{found['lines_acknowledged']}/{found['lines_generated']} lines acknowledged, "
        f"{found['queries_answered']} queries answered, {failures} failures",
        err=True,
    )


def _secret(path: Path | None) -> str:
    chosen = path or Path("state") / "enroll-secret"
    try:
        words = [line.split() for line in chosen.read_text("utf-8").splitlines() if not line.startswith("#")]
    except OSError as problem:
        if path is None:
            return ""
        raise click.ClickException(f"--enroll-secret-path {path}: {problem.strerror}") from None
    return next((line[0] for line in words if line), "")
