"""``osqtwist log``, ``carve``, ``config`` and ``pki``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from cryptography import x509

from osqtwist.cli.console import REFUSED, Operator, moment, plain
from osqtwist.identity import IdentityRule, UnidentifiedCertificate, identify
from osqtwist.pki import LEAF_DAYS, Authority, DevelopmentPKI, UnusablePKI, development_pki

_API = ("api", "v1")


@click.group()
def log() -> None:
    """The log buffer."""


@log.command("tail")
@click.option("--from-start", is_flag=True, help="Begin with what the buffer holds already.")
@click.option("--no-follow", is_flag=True, help="End at the newest line; implies --from-start.")
@click.pass_obj
def log_tail(operator: Operator, from_start: bool, no_follow: bool) -> None:
    """Print log lines as they come, with the proven identity of their node."""

    def show(line: dict[str, Any]) -> None:
        if operator.as_json:
            click.echo(json.dumps(line))
            return
        who = f"{plain(line['name'])} ({'certificate' if line['identity'] else 'key'})"
        click.echo(f"{who} {line['log_type']} {json.dumps(line['line'], ensure_ascii=False)}")
        sys.stdout.flush()

    operator.call(
        lambda client: client.stream(
            "GET",
            *_API,
            "logs",
            on_line=show,
            follow=int(not no_follow),
            **{"from": "start" if from_start or no_follow else "now"},
        )
    )


@log.command("dead")
@click.pass_obj
def log_dead(operator: Operator) -> None:
    """Print the dead letters: lines that cannot be delivered, and why."""
    operator.call(
        lambda client: client.stream("GET", *_API, "logs", "dead", on_line=lambda line: click.echo(json.dumps(line)))
    )


@log.command("trim")
@click.option("--older-than", type=click.FloatRange(min=0), required=True, help="Seconds.")
@click.pass_obj
def log_trim(operator: Operator, older_than: float) -> None:
    """Delete old batches from the log buffer, to make room."""
    operator.fields(operator.call(lambda client: client.post(*_API, "logs", "trim", body={"older_than": older_than})))


@click.group()
def carve() -> None:
    """Carved files."""


@carve.command("list")
@click.pass_obj
def carve_list(operator: Operator) -> None:
    """List carves, newest first."""
    carves = operator.call(lambda client: client.get(*_API, "carves"))["carves"]
    if not operator.as_json:
        for each in carves:
            each["started_at"] = moment(each["started_at"])
            each["progress"] = f"{each['received_blocks']}/{each['blocks']}"
    operator.rows(
        carves,
        {
            "carve": "CARVE",
            "name": "NODE",
            "size": "BYTES",
            "progress": "BLOCKS",
            "started_at": "STARTED",
            "sha256": "SHA-256",
            "file": "FILE",
        },
    )


@carve.command("get")
@click.argument("carve_id")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it; by default its own name.")
@click.pass_obj
def carve_get(operator: Operator, carve_id: str, output: Path | None) -> None:
    """Write the file of a complete carve, and check its SHA-256."""
    digest = hashlib.sha256()
    chosen: list[Path] = []

    async def fetch(client: Any) -> str:
        carves = (await client.get(*_API, "carves"))["carves"]
        named = [each for each in carves if carve_id in (each["carve"], each["carve_id"], each["file"])]
        path = output or Path(named[0]["file"] if named and named[0]["file"] else f"{carve_id}.carve")
        chosen.append(path)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:

            def keep(data: bytes) -> None:
                digest.update(data)
                file.write(data)

            try:
                headers = await client.save(keep, *_API, "carves", carve_id, "file")
            except BaseException:
                partial.unlink()
                raise
        expected: str = headers.getRawHeaders("X-Carve-SHA256", [""])[0]
        if expected == digest.hexdigest():
            partial.replace(path)
        return expected

    expected = operator.call(fetch)
    if expected != digest.hexdigest():
        click.echo(f"osqtwist: the SHA-256 of {chosen[0]}.partial is not {expected}", err=True)
        sys.exit(REFUSED)
    operator.fields({"file": str(chosen[0]), "sha256": expected})


@click.group()
def config() -> None:
    """The configuration of nodes."""


@config.command("check")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.pass_obj
def config_check(operator: Operator, folder: Path) -> None:
    """Check a folder of configuration layers, without a server."""
    from osqtwist.configuration import check_folder  # noqa: PLC0415 - only this sub-command needs it

    problems = check_folder(folder)
    if operator.as_json:
        operator.json([{"severity": each.severity, "text": str(each)} for each in problems])
    else:
        for each in problems:
            click.echo(f"{each.severity}: {each}")
    if any(each.severity == "error" for each in problems):
        sys.exit(REFUSED)
    if not operator.as_json:
        click.echo(f"{folder} can be served")


@config.command("show")
@click.argument("name")
@click.pass_obj
def config_show(operator: Operator, name: str) -> None:
    """Show the config that a node gets, and the layers it is made of."""
    found = operator.call(lambda client: client.get(*_API, "nodes", name, "config"))
    if operator.as_json:
        operator.json(found)
        return
    click.echo(f"# layers: {', '.join(found['layers'])}; etag {found['etag']}", err=True)
    click.echo(json.dumps(found["config"], indent=2))


@click.group()
def pki() -> None:
    """A small CA, for those without one."""


_FOLDER = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=Path("certs"), show_default=True, help="Where it is."
)


@pki.command("init")
@_FOLDER
@click.pass_obj
def pki_init(operator: Operator, folder: Path) -> None:
    """Make a CA with a server, a node and an operator certificate, for development."""
    with _sentences():
        made = development_pki(folder)
    operator.fields({"ca": str(made.certificate("ca")), "server": str(made.certificate("server"))})


@pki.command("issue")
@_FOLDER
@click.argument("name")
@click.option("--purpose", type=click.Choice(["node", "server", "operator"]), default="node", show_default=True)
@click.option("--dns", multiple=True, help="A DNS name of the certificate. Repeatable.")
@click.option("--address", "addresses", multiple=True, help="An IP address of it. Repeatable.")
@click.option("--uri", "uris", multiple=True, help="A URI of it, such as a SPIFFE id. Repeatable.")
@click.option("--days", type=click.IntRange(1, 825), default=LEAF_DAYS, show_default=True)
@click.pass_obj
def pki_issue(
    operator: Operator,
    folder: Path,
    name: str,
    purpose: str,
    dns: tuple[str, ...],
    addresses: tuple[str, ...],
    uris: tuple[str, ...],
    days: int,
) -> None:
    """Issue a certificate with NAME as its common name, signed by the CA of the folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", name):
        raise click.BadParameter("a name has letters, digits, dots, dashes, _ and @ only")
    known = DevelopmentPKI(folder)
    path, key = known.certificate(name), known.key(name)
    with _sentences():
        if path.exists() or key.exists():
            raise UnusablePKI(f"{path} or {key} is there already")
        authority = Authority.load(known.certificate("ca"), known.key("ca"))
        try:
            made = authority.issue(name, purpose, dns=dns, addresses=addresses, uris=uris, days=days)
        except ValueError as problem:
            raise UnusablePKI(str(problem)) from None
        made.write(path, key)
    operator.fields({"certificate": str(path), "key": str(key)})


@pki.command("show")
@click.argument("certificate", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def pki_show(operator: Operator, certificate: Path) -> None:
    """Show what a certificate says, and the identity that a node with it would have."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except ValueError:
        raise click.ClickException(f"{certificate} holds no certificate in PEM") from None
    try:
        identity = identify(found, (IdentityRule(),)).value
    except UnidentifiedCertificate as problem:
        identity = f"none: {problem}"
    operator.fields(
        {
            "subject": found.subject.rfc4514_string(),
            "issuer": found.issuer.rfc4514_string(),
            "serial": f"{found.serial_number:x}",
            "not_before": found.not_valid_before_utc.isoformat(),
            "not_after": found.not_valid_after_utc.isoformat(),
            "identity": identity,
        }
    )


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except UnusablePKI as problem:
        raise click.ClickException(str(problem)) from None
    except OSError as problem:
        raise click.ClickException(f"{problem.filename}: {problem.strerror}") from None
