"""``osqtwist pki``: a CA for fleets that have none.  It works on files, without a server."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from osqtwist.cafolder import REASONS, CAFolder, read_secret, reading, write_durably
from osqtwist.certificateauthority import MAX_DAYS, CertificateAuthority, Issued
from osqtwist.certificaterequest import (
    MAX_REQUEST,
    ROLES,
    CertificateRefused,
    LeafRequest,
    checked_key,
    key_of_request,
    name_of,
    purpose_of,
)
from osqtwist.cli.console import Operator
from osqtwist.credentialfiles import CredentialFiles, load_certificate
from osqtwist.identity import IdentityRule, UnidentifiedCertificate, identify
from osqtwist.pki import CA_DAYS, UnusablePKI, kind_of, new_key, utc_now

F = TypeVar("F", bound=Callable[..., Any])

_KINDS = {"p256": "P-256", "p384": "P-384", "rsa2048": "RSA-2048"}
_PATH = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_DAYS = click.IntRange(1, MAX_DAYS)

_in_folder = click.option(
    "--dir", "folder", type=_FOLDER, default=Path("certs"), show_default=True, help="The folder of the CA."
)
_with_passphrase = click.option("--passphrase-file", type=_FILE, help="Where the passphrase of the CA's key is.")
_key_type = click.option("--key-type", type=click.Choice(list(_KINDS)), default="p256", show_default=True)


def _asking(days: int) -> Callable[[F], F]:
    """The options of every sub-command that issues."""
    options = [
        click.option(
            "--san", "sans", multiple=True, help="A further name: DNS:NAME, IP:ADDRESS or URI:URI. Repeatable."
        ),
        click.option("--days", type=_DAYS, default=days, show_default=True, help="How long it is good."),
        _key_type,
        click.option("--csr", type=_FILE, help="Take the public key from this request, and nothing else."),
        click.option("--out", type=_FOLDER, help="Where to write it; by default in the folder of the CA."),
        _in_folder,
        _with_passphrase,
    ]

    def decorate(command: F) -> F:
        return functools.reduce(lambda found, option: option(found), reversed(options), command)

    return decorate


@click.group()
def pki() -> None:
    """A CA, for fleets that have none."""


@pki.command("init")
@click.argument("folder", type=_FOLDER)
@click.option("--name", default="", help="Its common name; by default one that no other CA has.")
@click.option("--days", type=_DAYS, default=CA_DAYS, show_default=True, help="How long it is good.")
@_key_type
@_with_passphrase
@click.pass_obj
def init(operator: Operator, folder: Path, name: str, days: int, key_type: str, passphrase_file: Path | None) -> None:
    """Make a new CA in FOLDER."""
    with _sentences():
        made = CertificateAuthority.create(folder, name, days, _KINDS[key_type], _passphrase(passphrase_file))
    operator.fields(
        {
            "ca": str(made.folder.certificate),
            "key": str(made.folder.key),
            "name": made.name,
            "not_after": made.certificate.not_valid_after_utc.isoformat(),
        }
    )


@pki.command("server")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_asking(days=365)
@click.pass_obj
def server(operator: Operator, /, names: tuple[str, ...], sans: tuple[str, ...], **more: Any) -> None:
    """
    Issue a certificate to a server.

    Each NAME is a DNS name or an IP address that nodes reach it by.
    """
    _issue(operator, lambda: LeafRequest.server(names, sans), **more)


@pki.command("node")
@click.argument("name")
@_asking(days=365)
@click.pass_obj
def node(operator: Operator, /, name: str, sans: tuple[str, ...], **more: Any) -> None:
    """Issue a certificate to a node; NAME is its identity."""
    _issue(operator, lambda: LeafRequest.node(name, sans), **more)


@pki.command("operator")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="operator", show_default=True)
@_asking(days=365)
@click.pass_obj
def operator_(operator: Operator, /, name: str, role: str, sans: tuple[str, ...], **more: Any) -> None:
    """Issue a certificate to a person, or a program, that operates the server."""
    _issue(operator, lambda: LeafRequest.operator(name, role, sans), **more)


@pki.command("renew")
@click.argument("certificate", metavar="CERT|SERIAL")
@click.option("--keep-key", is_flag=True, help="Keep the key; by default there is a new one.")
@click.option("--days", type=_DAYS, help="How long the new one is good; by default as long as the old one was.")
@click.option("--csr", type=_FILE, help="Take the new public key from this request, and nothing else.")
@click.option("--out", type=_FOLDER, help="Where to write it; by default in the place of the old.")
@_in_folder
@_with_passphrase
@click.pass_obj
def renew(
    operator: Operator,
    certificate: str,
    keep_key: bool,
    days: int | None,
    csr: Path | None,
    out: Path | None,
    folder: Path,
    passphrase_file: Path | None,
) -> None:
    """
    Issue a certificate that says what another says.

    The old one stays good until its own end; in its place its file is kept as *.previous.
    """
    if keep_key and csr:
        raise click.UsageError("--keep-key and --csr exclude each other")
    with _sentences():
        authority = _open(folder, passphrase_file)
        old, place = _find(authority, certificate)
        requested = key_of_request(_read_request(csr)) if csr else None
        if not keep_key and not csr and not place.key.exists():
            raise UnusablePKI(f"its key is not beside it ({place.key}): give --keep-key, or --csr for a new key")
        if out:
            place = attrs.evolve(place, folder=out)
            place.check_free()
        else:
            place.check_holds(old)
            if csr and place.key.exists():
                raise UnusablePKI(f"--csr is for another key than {place.key}: give --out for the new certificate")
        new = None if keep_key or csr else new_key(kind_of(checked_key(old.public_key())))
        made = authority.renew(old, new.public_key() if new else requested, days)
        with authority.folder.locked():
            if not out:
                place.replace(old, made, new)
            elif new:
                place.create(new, lambda _: made)
            else:
                place.create_certificate(lambda: made)
    operator.fields(_fields(authority, place, made))


@pki.command("revoke")
@click.argument("certificate", metavar="CERT|SERIAL")
@click.option("--reason", type=click.Choice(REASONS), default="unspecified", show_default=True)
@_in_folder
@click.pass_obj
def revoke(operator: Operator, certificate: str, reason: str, folder: Path) -> None:
    """Revoke a certificate. It is in force once the server has the next revocation list."""
    with _sentences():
        authority = CertificateAuthority.open(folder)
        found, _ = _find(authority, certificate)
        done = authority.revoke(found, reason)
    operator.fields({"serial": done.serial, "subject": found.subject.rfc4514_string(), "reason": done.reason})
    click.echo(f"It is in force once the server has a new list: osqtwist pki crl --dir {folder}", err=True)


@pki.command("crl")
@click.option("--days", type=_DAYS, default=30, show_default=True, help="How long until the next one is due.")
@_in_folder
@_with_passphrase
@click.pass_obj
def crl(operator: Operator, days: int, folder: Path, passphrase_file: Path | None) -> None:
    """Write a new revocation list into the folder of the CA, for the server's --client-crl."""
    with _sentences():
        authority = _open(folder, passphrase_file)
        made = authority.crl(days)
    number = made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    fields = {"crl": str(authority.folder.crl), "number": number, "revoked": len(made)}
    operator.fields({**fields, "next_update": made.next_update_utc.isoformat() if made.next_update_utc else None})


@pki.command("list")
@click.option("--expiring", type=click.IntRange(0, MAX_DAYS), metavar="DAYS", help="Only those that soon need renewal.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@_in_folder
@click.pass_obj
def list_(operator: Operator, expiring: int | None, as_json: bool, folder: Path) -> None:
    """List what the CA issued, what ends first first."""
    with _sentences():
        authority = CertificateAuthority.open(folder)
        found = authority.list() if expiring is None else authority.expiring(expiring)
    now = utc_now()
    attrs.evolve(operator, as_json=operator.as_json or as_json).rows(
        [_row(each, each.status(now)) for each in found],
        {
            "name": "NAME",
            "purpose": "FOR",
            "role": "ROLE",
            "status": "STATUS",
            "renewed": "RENEWED",
            "not_after": "UNTIL",
            "serial": "SERIAL",
        },
    )


@pki.command("bundle")
@click.argument("folders", metavar="[FOLDER]...", type=_FOLDER, nargs=-1)
@click.option("--crl", "of_lists", is_flag=True, help="Their revocation lists instead, for the server's --client-crl.")
@click.option("-o", "--output", type=_FILE, help="A file to write; by default it is printed.")
@_in_folder
def bundle(folders: tuple[Path, ...], of_lists: bool, output: Path | None, folder: Path) -> None:
    """
    Print the certificates of one or several CAs, as osquery's tls_server_certs and the server's --client-ca take them.
    """
    with _sentences():
        parts = [_part(CAFolder(each), of_lists) for each in folders or (folder,)]
        data = b"".join(dict.fromkeys(parts))
        if output:
            with reading(output):
                write_durably(output, data, 0o644)
    if not output:
        click.echo(data, nl=False)


@pki.command("show")
@click.argument("certificate", type=_FILE)
@click.pass_obj
def show(operator: Operator, certificate: Path) -> None:
    """Show what a certificate says, and the identity that a node with it would have."""
    with _sentences():
        found = load_certificate(certificate)
    purpose, role = purpose_of(found)
    try:
        identity = identify(found, (IdentityRule(),)).value
    except UnidentifiedCertificate as problem:
        identity = f"none: {problem}"
    operator.fields(
        {
            "subject": found.subject.rfc4514_string(),
            "issuer": found.issuer.rfc4514_string(),
            "purpose": purpose,
            "role": role,
            "serial": f"{found.serial_number:x}",
            "not_before": found.not_valid_before_utc.isoformat(),
            "not_after": found.not_valid_after_utc.isoformat(),
            "identity": identity,
        }
    )


def _issue(
    operator: Operator,
    asked: Callable[[], LeafRequest],
    *,
    days: int,
    key_type: str,
    csr: Path | None,
    out: Path | None,
    folder: Path,
    passphrase_file: Path | None,
) -> None:
    with _sentences():
        request = asked()
        authority = _open(folder, passphrase_file)
        files = CredentialFiles.named(out or authority.folder.path / f"{request.purpose}s", request.name)
        if csr:
            key = key_of_request(_read_request(csr))
            made = files.create_certificate(lambda: authority.issue(request, key, days))
        else:
            made = files.create(new_key(_KINDS[key_type]), lambda key: authority.issue(request, key, days))
    operator.fields(_fields(authority, files, made))


def _find(authority: CertificateAuthority, text: str) -> tuple[x509.Certificate, CredentialFiles]:
    """The certificate in a file, or with a serial number, and where it was handed out to."""
    path = Path(text)
    if path.exists() and path.parent.resolve() != authority.folder.issued_folder.resolve():
        return load_certificate(path), CredentialFiles.beside(path)
    found = authority.find(path.stem if path.exists() else text)
    purpose, name = purpose_of(found)[0], name_of(found)
    return found, CredentialFiles.named(authority.folder.path / f"{purpose or 'other'}s", name)


def _open(folder: Path, passphrase_file: Path | None) -> CertificateAuthority:
    return CertificateAuthority.open(folder, _passphrase(passphrase_file))


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    # Some secret stores give files to a group of their own, so that one may read.
    passphrase = read_secret(path, 0o007).removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(passphrase) < 1024:
        raise UnusablePKI(f"--passphrase-file {path}: a passphrase has 1 to 1023 bytes")
    return passphrase


def _read_request(path: Path) -> bytes:
    with reading(path), path.open("rb") as file:
        return file.read(MAX_REQUEST + 1)


def _part(folder: CAFolder, of_lists: bool) -> bytes:
    if not of_lists:
        return folder.load_certificate().public_bytes(serialization.Encoding.PEM)
    newest = folder.newest_crl()
    if newest is None:
        raise UnusablePKI(f"{folder.crl} is not there: osqtwist pki crl --dir {folder.path}")
    return newest.public_bytes(serialization.Encoding.PEM)


def _row(each: Issued, status: str) -> dict[str, Any]:
    revocation = each.revocation
    return {
        "serial": each.serial,
        "name": each.name,
        "subject": each.certificate.subject.rfc4514_string(),
        "purpose": each.purpose,
        "role": each.role,
        "status": status,
        "renewed": each.renewed,
        "not_before": each.certificate.not_valid_before_utc.isoformat(),
        "not_after": each.certificate.not_valid_after_utc.isoformat(),
        "revoked_at": revocation.at.isoformat() if revocation else None,
        "reason": revocation.reason if revocation else None,
    }


def _fields(authority: CertificateAuthority, files: CredentialFiles, made: x509.Certificate) -> dict[str, Any]:
    return {
        "certificate": str(files.certificate),
        "key": str(files.key) if files.key.exists() else None,
        "subject": made.subject.rfc4514_string(),
        "issuer": authority.name,
        "serial": f"{made.serial_number:x}",
        "not_after": made.not_valid_after_utc.isoformat(),
    }


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except (UnusablePKI, CertificateRefused) as problem:
        raise click.ClickException(str(problem)) from None
    except OSError as problem:
        raise click.ClickException(f"{problem.filename}: {problem.strerror}") from None
