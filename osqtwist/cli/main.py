"""The command itself, and where each group of sub-commands comes from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from osqtwist import __version__
from osqtwist.adminclient import Door
from osqtwist.cli.console import Operator
from osqtwist.cli.latecommands import LateCommands

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


_COMMANDS = {
    "status": "osqtwist.cli.fleet:status",
    "node": "osqtwist.cli.pending:node",
    "deny": "osqtwist.cli.deny:deny",
    "query": "osqtwist.cli.query:query",
    "log": "osqtwist.cli.files:log",
    "sink": "osqtwist.cli.sinks:sink",
    "alert": "osqtwist.cli.alerts:alert",
    "carve": "osqtwist.cli.files:carve",
    "audit": "osqtwist.cli.audit:audit",
    "worker": "osqtwist.cli.workers:worker",
    "secret": "osqtwist.cli.secrets:secret",
    "signing-key": "osqtwist.cli.signingkeys:signing_key",
    "token": "osqtwist.cli.tokens:token",
    "whoami": "osqtwist.cli.tokens:whoami",
    "sign-in": "osqtwist.cli.signin:sign_in",
    "config": "osqtwist.cli.config:config",
    "rollout": "osqtwist.cli.rollout:rollout",
    "export": "osqtwist.cli.export:export",
    "backup": "osqtwist.cli.backups:backup",
    "restore": "osqtwist.cli.backups:restore",
    "pki": "osqtwist.cli.pki:pki",
    "capacity": "osqtwist.cli.capacity:capacity",
    "flags": "osqtwist.cli.programs:flags",
    "simulate": "osqtwist.simulator.command:simulate",
    "reference": "osqtwist.reference:reference",
}
"""Where each command is: imported once it is asked for."""


@click.group(cls=LateCommands, late=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="osqtwist")
@click.option(
    "--socket",
    "socket_path",
    envvar="OSQTWIST_ADMIN_SOCKET",
    help="The server's admin socket; by default admin.sock in the state folder.",
    type=click.Path(path_type=Path),
)
@click.option("--state", default=lambda: os.environ.get("OSQTWIST_STATE", "state"), help="The server's state folder.")
@click.option(
    "--server", envvar="OSQTWIST_SERVER", default="", metavar="URL", help="The server, over TLS: https://HOST:PORT."
)
@click.option("--server-ca", envvar="OSQTWIST_SERVER_CA", type=_FILE, help="CAs of its certificate; or the system's.")
@click.option("--cert", envvar="OSQTWIST_OPERATOR_CERT", type=_FILE, help="Your certificate, PEM.")
@click.option("--key", envvar="OSQTWIST_OPERATOR_KEY", type=_FILE, help="Its private key, PEM.")
@click.option("--token-file", envvar="OSQTWIST_TOKEN_FILE", type=_FILE, help="A file with an access token.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def main(
    context: click.Context,
    socket_path: Path | None,
    state: str,
    server: str,
    server_ca: Path | None,
    cert: Path | None,
    key: Path | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Operate an osqtwist server."""
    if server and not server.startswith("https://"):
        raise click.BadParameter("it must begin with https://", param_hint="--server")
    if (cert is None) != (key is None):
        raise click.UsageError("--cert and --key go together")
    door = Door(
        socket=socket_path or Path(state) / "admin.sock",
        server=server.rstrip("/"),
        ca=server_ca.read_bytes() if server_ca else b"",
        certificate=b"\n".join(path.read_bytes() for path in (cert, key) if path),
        token=token_file.read_text("utf-8").strip() if token_file else "",
    )
    context.obj = Operator(door=door, as_json=as_json)
