"""``osqtwist capacity``: what a fleet needs, by the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import click

from osqtwist.capacity import LIMITS, RSA, STOCK, Costs, Host, figure, first_limits, needs
from osqtwist.cli.console import Operator

_POSITIVE = click.FloatRange(min=0, min_open=True)
_SPARE_FILES = 1000


@click.command()
@click.option("--nodes", type=click.IntRange(min=1), multiple=True, default=(10_000,), help="How many; repeatable.")
@click.option("--cores", type=click.IntRange(min=1), default=8, help="Of a host.", show_default=True)
@click.option("--memory", type=_POSITIVE, default=16.0, help="Of a host, GB.", show_default=True)
@click.option("--hold", type=click.FloatRange(0, 12), default=STOCK.hold, help="As of the server.", show_default=True)
@click.option("--interval", type=_POSITIVE, default=STOCK.pause, help="distributed_interval.", show_default=True)
@click.option("--config-refresh", type=_POSITIVE, default=STOCK.config, help="Seconds.", show_default=True)
@click.option("--log-period", type=_POSITIVE, default=STOCK.logs, help="Seconds between posts.", show_default=True)
@click.option("--log-bytes", type=click.IntRange(min=0), default=STOCK.log_bytes, help="Of a post.", show_default=True)
@click.option("--rsa", is_flag=True, help="The server's or the nodes' keys are RSA-2048, not P-256.")
@click.option(
    "--costs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Costs of your own machines: JSON with some of the names that python -m bench.capacity --measure prints.",
)
@click.pass_obj
def capacity(
    operator: Operator,
    nodes: tuple[int, ...],
    cores: int,
    memory: float,
    hold: float,
    interval: float,
    config_refresh: float,
    log_period: float,
    log_bytes: int,
    rsa: bool,
    costs: Path | None,
) -> None:
    """
    Work out how many hosts, processors and Redis servers a fleet needs.

    A model, fed by what was measured on one host: docs/capacity.md says what goes into it.  It asks no server.
    """
    mix = attrs.evolve(STOCK, hold=hold, pause=interval, config=config_refresh, logs=log_period, log_bytes=log_bytes)
    each = _costs(RSA if rsa else Costs(), costs)
    host = Host(cores, memory * 1e9, cores)
    found = [needs(count, mix, each, host) for count in nodes]
    limits = first_limits(mix, each, host)
    if operator.as_json:
        operator.json({"needs": found, "limits": limits})
        return
    rows = [
        {"what": name} | {str(at): figure(one[name]) for at, one in enumerate(found)} for name in list(found[0])[1:]
    ]
    headings = {str(at): f"{count:,} nodes" for at, count in enumerate(nodes)}
    operator.rows(rows, {"what": ""} | headings)
    first = min(LIMITS, key=lambda name: limits[name])
    click.echo(f"\nOne of each is good for: {', '.join(f'{figure(limits[name])} by {name}' for name in LIMITS)}.")
    click.echo(f"What comes first is the {first}.")
    files = max(one["held reads a process"] for one in found) + _SPARE_FILES
    click.echo(f"On each host: --workers {cores}, and LimitNOFILE of {figure(_up(files))} at least.")


def _up(value: float) -> float:
    # The next round thousand.
    return -(-value // 1000) * 1000


def _costs(known: Costs, file: Path | None) -> Costs:
    if file is None:
        return known
    try:
        given: Any = json.loads(file.read_text("utf-8"))
        numbers = {name: float(value) for name, value in given.items()}
        return attrs.evolve(known, **numbers)
    except (ValueError, AttributeError, TypeError) as problem:
        names = ", ".join(field.name for field in attrs.fields(Costs))
        raise click.BadParameter(f"{file}: {problem}; it takes {names}", param_hint="--costs") from None
