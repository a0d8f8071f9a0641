"""``osqtwist deny``."""

from __future__ import annotations

from typing import Any

import click

from osqtwist.cli.console import Operator, moment
from osqtwist.cli.times import Duration

_API = ("api", "v1", "denials")
_PAGE = 1000


@click.group()
def deny() -> None:
    """Certificates that are denied, whatever their CA says."""


@deny.command("add")
@click.option("--serial", metavar="HEX", help="A serial number.")
@click.option("--issuer", default="", help="With --serial: whose; common name or whole name (RFC 4514).")
@click.option("--fingerprint", metavar="HEX", help="The SHA-256 of a certificate.")
@click.option("--identity", metavar="PATTERN", help="What certificates prove: web-1, or build-*.")
@click.option("--reason", default="", help="Kept with it.")
@click.option("--for", "duration", type=Duration(), help="How long: 90s, 15m, 2h, 7d; until removed if not given.")
@click.pass_obj
def deny_add(
    operator: Operator,
    serial: str | None,
    issuer: str,
    fingerprint: str | None,
    identity: str | None,
    reason: str,
    duration: float | None,
) -> None:
    """Deny certificates from now on, on open connections too."""
    given = {"serial": serial, "fingerprint": fingerprint, "identity": identity}
    values = [(kind, value) for kind, value in given.items() if value is not None]
    if len(values) != 1:
        raise click.UsageError("give one of --serial, --fingerprint and --identity")
    kind, value = values[0]
    body = {"kind": kind, "value": value, "issuer": issuer, "reason": reason, "expires_in": duration}
    operator.fields(operator.call(lambda client: client.post(*_API, body=body)))


@deny.command("list")
@click.pass_obj
def deny_list(operator: Operator) -> None:
    """List what is denied, the oldest first."""

    async def pages(client: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        offset: int | None = 0
        while offset is not None:
            page = await client.get(*_API, offset=offset, limit=_PAGE)
            found += page["denials"]
            offset = page["next_offset"]
        return found

    rows = operator.call(pages)
    if not operator.as_json:
        for each in rows:
            each["created_at"], each["expires_at"] = moment(each["created_at"]), moment(each["expires_at"])
    columns = {
        "denial_id": "DENIAL",
        "kind": "KIND",
        "value": "VALUE",
        "issuer": "ISSUER",
        "reason": "REASON",
        "created_by": "BY",
        "created_at": "SINCE",
        "expires_at": "ENDS",
        "in_force": "IN FORCE",
    }
    operator.rows(rows, columns)


@deny.command("remove")
@click.argument("denial")
@click.pass_obj
def deny_remove(operator: Operator, denial: str) -> None:
    """Deny these certificates no more; by the id of the denial."""
    operator.fields(operator.call(lambda client: client.post(*_API, denial, "remove")))
