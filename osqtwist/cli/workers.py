"""``osqtwist worker``."""

from __future__ import annotations

import click

from osqtwist.cli.console import Operator

_API = ("api", "v1", "workers")


@click.group()
def worker() -> None:
    """Worker processes: what serves nodes where the server has --workers."""


@worker.command("list")
@click.pass_obj
def worker_list(operator: Operator) -> None:
    """List the workers and what each does now; none where one process does everything."""
    columns = {
        "worker": "WORKER",
        "pid": "PID",
        "state": "STATE",
        "starts": "STARTS",
        "connections": "CONNECTIONS",
        "parked_reads": "HELD",
        "requests": "REQUESTS",
    }
    operator.rows(operator.call(lambda client: client.get(*_API))["workers"], columns)


@worker.command("replace")
@click.pass_obj
def worker_replace(operator: Operator) -> None:
    """Replace the workers by new ones, one after the other, refusing no connection; after an upgrade, say."""
    operator.fields(operator.call(lambda client: client.post(*_API, "replace")))
