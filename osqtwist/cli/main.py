"""The command itself, and where each group of sub-commands comes from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from osqtwist import __version__
from osqtwist.adminclient import Door
from osqtwist.cli.alerts import alert
from osqtwist.cli.audit import audit
from osqtwist.cli.config import config
from osqtwist.cli.console import Operator
from osqtwist.cli.deny import deny
from osqtwist.cli.files import carve, log
from osqtwist.cli.fleet import status
from osqtwist.cli.nodes import node as _with_more  # noqa: F401 - adds its commands
from osqtwist.cli.pending import node
from osqtwist.cli.pki import pki
from osqtwist.cli.programs import flags, reference, simulate
from osqtwist.cli.query import query
from osqtwist.cli.rollout import rollout
from osqtwist.cli.secrets import secret
from osqtwist.cli.sinks import sink
from osqtwist.cli.tokens import token, whoami
from osqtwist.cli.workers import worker

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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


_COMMANDS = (
    status,
    node,
    deny,
    query,
    log,
    sink,
    alert,
    carve,
    audit,
    worker,
    secret,
    token,
    whoami,
    config,
    rollout,
    pki,
    flags,
    simulate,
    reference,
)
for command in _COMMANDS:
    main.add_command(command)
