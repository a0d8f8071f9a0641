"""The command itself, and where each group of sub-commands comes from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from osqtwist import __version__
from osqtwist.cli.audit import audit
from osqtwist.cli.console import Operator
from osqtwist.cli.files import carve, config, log
from osqtwist.cli.fleet import node, query, status
from osqtwist.cli.pki import pki
from osqtwist.cli.programs import flags, reference, simulate
from osqtwist.cli.sinks import sink
from osqtwist.cli.workers import worker


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def main(context: click.Context, socket_path: Path | None, state: str, as_json: bool) -> None:
    """Operate an osqtwist server."""
    context.obj = Operator(socket=socket_path or Path(state) / "admin.sock", as_json=as_json)


for command in (status, node, query, log, sink, carve, audit, worker, config, pki, flags, simulate, reference):
    main.add_command(command)
