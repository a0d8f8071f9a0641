"""The small CA: what its certificates say, who can read its keys, and what it never overwrites."""

from __future__ import annotations

import datetime
import ipaddress
import os
import stat
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from osqtwist import pki
from osqtwist.pki import Authority, Credential, DevelopmentPKI, UnusablePKI, development_pki, write_new

E = TypeVar("E", bound=x509.ExtensionType)

FILES = [f"{name}.{suffix}" for name in ("ca", "server", "node", "operator") for suffix in ("pem", "key")]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test CA")


def extension(credential: Credential, kind: type[E]) -> tuple[E, bool]:
    found = credential.certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


def usages(credential: Credential) -> set[str]:
    usage, critical = extension(credential, x509.KeyUsage)
    assert critical
    names = ("digital_signature", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    return {name for name in names if getattr(usage, name)}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- certificates


def test_a_ca_signs_leaves_and_revocation_lists_only(authority: Authority) -> None:
    """Its extensions say so, and say that they must be heeded."""
    assert extension(authority.credential, x509.BasicConstraints) == (x509.BasicConstraints(True, 0), True)
    assert usages(authority.credential) == {"key_cert_sign", "crl_sign"}
    assert authority.credential.certificate.subject == authority.credential.certificate.issuer
    authority.credential.certificate.verify_directly_issued_by(authority.credential.certificate)


@pytest.mark.parametrize(
    ("purpose", "extended"),
    [
        ("server", ExtendedKeyUsageOID.SERVER_AUTH),
        ("node", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("operator", ExtendedKeyUsageOID.CLIENT_AUTH),
    ],
)
def test_a_leaf_is_for_one_purpose(authority: Authority, purpose: str, extended: x509.ObjectIdentifier) -> None:
    """One extended key usage, no right to sign certificates, and a pointer to the key of its CA."""
    leaf = authority.issue("someone", purpose)
    assert extension(leaf, x509.BasicConstraints) == (x509.BasicConstraints(False, None), True)
    assert usages(leaf) == {"digital_signature"}
    assert list(extension(leaf, x509.ExtendedKeyUsage)[0]) == [extended]
    key_of_ca = extension(authority.credential, x509.SubjectKeyIdentifier)[0].digest
    assert extension(leaf, x509.AuthorityKeyIdentifier)[0].key_identifier == key_of_ca
    leaf.certificate.verify_directly_issued_by(authority.credential.certificate)
    units = leaf.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    assert [unit.value for unit in units] == (["operator"] if purpose == "operator" else [])
    with pytest.raises(x509.ExtensionNotFound):
        extension(leaf, x509.SubjectAlternativeName)


def test_a_leaf_carries_the_names_it_is_given(authority: Authority) -> None:
    """DNS names, addresses of both families, URIs, further attributes, several common names."""
    leaf = authority.issue(
        ["one", "two"],
        "node",
        dns=["a.example.com"],
        addresses=["127.0.0.1", "::1"],
        uris=["spiffe://example.com/node/1"],
        attributes=[(NameOID.ORGANIZATION_NAME, "Example")],
    )
    names, critical = extension(leaf, x509.SubjectAlternativeName)
    assert not critical
    assert names.get_values_for_type(x509.DNSName) == ["a.example.com"]
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.com/node/1"]
    assert [attribute.value for attribute in leaf.certificate.subject] == ["one", "two", "Example"]


def test_a_strict_verifier_accepts_the_server_certificate(authority: Authority) -> None:
    """The profile of the Web PKI, as another implementation than OpenSSL reads it."""
    server = authority.issue("localhost", "server", dns=["localhost"], addresses=["127.0.0.1"])
    verifier = PolicyBuilder().store(Store([authority.credential.certificate]))
    for name in (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))):
        chain = verifier.build_server_verifier(name).verify(server.certificate, [])
        assert chain == [server.certificate, authority.credential.certificate]


def test_certificates_begin_a_little_ago_and_serials_differ(authority: Authority) -> None:
    """A node whose clock is late by minutes is not refused; a serial number names one certificate."""
    now = datetime.datetime.now(datetime.UTC)
    leaves = [authority.issue("x", "node", key=authority.credential.key) for _ in range(3)]
    assert len({leaf.certificate.serial_number for leaf in leaves}) == 3
    for leaf in leaves:
        assert 200 < (now - leaf.certificate.not_valid_before_utc).total_seconds() < 400
        assert 396 <= (leaf.certificate.not_valid_after_utc - now).days <= 397


def test_dates_may_be_given(authority: Authority) -> None:
    """Both ends, to the second."""
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    end = datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC)
    leaf = authority.issue("x", "node", not_before=begin, not_after=end).certificate
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (begin, end)


@pytest.mark.parametrize(
    ("kind", "expected", "size"),
    [
        ("P-256", ec.EllipticCurvePrivateKey, 256),
        ("P-384", ec.EllipticCurvePrivateKey, 384),
        ("RSA-2048", rsa.RSAPrivateKey, 2048),
    ],
)
def test_kinds_of_keys(kind: str, expected: type[pki.PrivateKey], size: int) -> None:
    """The kind is what was asked for, for the CA and its leaves alike."""
    authority = Authority.create("test CA", kind)
    for credential in (authority.credential, authority.issue("x", "node", kind=kind)):
        assert isinstance(credential.key, expected)
        assert credential.key.key_size == size


def test_a_key_is_never_in_a_repr(authority: Authority) -> None:
    """What gets into a log by accident shows no key."""
    assert "key" not in repr(authority.credential).lower()


# -- revocation lists


def test_a_revocation_list_names_serials_and_is_signed(authority: Authority) -> None:
    """It is good for a week unless said otherwise, and found by the key of its CA."""
    revoked, good = authority.issue("x", "node").certificate, authority.issue("y", "node").certificate
    found = x509.load_pem_x509_crl(authority.revocation_list([revoked.serial_number]))
    assert [each.serial_number for each in found] == [revoked.serial_number]
    assert found.get_revoked_certificate_by_serial_number(good.serial_number) is None
    assert found.issuer == authority.credential.certificate.subject
    assert found.is_signature_valid(authority.credential.certificate.public_key())  # type: ignore[arg-type]
    key_of_ca = extension(authority.credential, x509.SubjectKeyIdentifier)[0].digest
    identifier = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier.key_identifier == key_of_ca
    now = datetime.datetime.now(datetime.UTC)
    assert found.next_update_utc is not None
    assert found.last_update_utc < now < found.next_update_utc
    assert (found.next_update_utc - now).days == 6


def test_a_revocation_list_may_be_empty_and_dated(authority: Authority) -> None:
    """An empty list is a list; its dates may be in the past."""
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    end = datetime.datetime(2020, 2, 1, tzinfo=datetime.UTC)
    found = x509.load_pem_x509_crl(authority.revocation_list([], last_update=begin, next_update=end))
    assert len(found) == 0
    assert (found.last_update_utc, found.next_update_utc) == (begin, end)


# -- files


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_key_file_is_its_owners_whatever_the_umask(tmp_path: Path, authority: Authority, umask: int) -> None:
    """Keys are 0600 even under umask 0; certificates are for everybody that the umask lets."""
    before = os.umask(umask)
    try:
        authority.issue("x", "node").write(tmp_path / "x.pem", tmp_path / "x.key")
    finally:
        os.umask(before)
    assert mode(tmp_path / "x.key") == 0o600
    assert mode(tmp_path / "x.pem") == 0o644 & ~umask


def test_a_key_file_is_never_readable_by_others_not_even_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its mode before it has its content, and its name only when it is whole."""
    seen = []
    real = os.fsync

    # A stand-in for fsync is the only place to look from before the file has its name.
    def look(descriptor: int) -> None:
        seen.append((stat.S_IMODE(os.fstat(descriptor).st_mode), (tmp_path / "x.key").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        write_new(tmp_path / "x.key", b"secret", 0o600)
    finally:
        os.umask(before)
    assert seen == [(0o600, False)]
    assert (tmp_path / "x.key").read_bytes() == b"secret"


def test_a_rest_of_an_interrupted_write_is_not_written_into(tmp_path: Path) -> None:
    """A file left by a crash, perhaps readable by all, is removed rather than filled; no such rest is left."""
    rest = tmp_path / "x.key.new"
    rest.write_bytes(b"rest")
    rest.chmod(0o666)
    write_new(tmp_path / "x.key", b"secret", 0o600)
    assert mode(tmp_path / "x.key") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["x.key"]


def test_a_link_in_the_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    """Someone else's link gets no key."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"victim")
    for name in ("x.key", "x.key.new"):
        (tmp_path / name).symlink_to(victim)
    write_new(tmp_path / "x.key", b"secret", 0o600)
    assert victim.read_bytes() == b"victim"
    assert not (tmp_path / "x.key").is_symlink()


def test_an_authority_comes_back_from_its_files(tmp_path: Path, authority: Authority) -> None:
    """What was written is what is read, and it signs as before."""
    authority.credential.write(tmp_path / "ca.pem", tmp_path / "ca.key")
    found = Authority.load(tmp_path / "ca.pem", tmp_path / "ca.key")
    assert found.credential.certificate == authority.credential.certificate
    found.issue("x", "node").certificate.verify_directly_issued_by(authority.credential.certificate)


def test_an_authority_that_cannot_be_loaded_is_named(tmp_path: Path, authority: Authority) -> None:
    """A file that is missing, one that is no PEM, and a key of another CA."""
    certificate, key, other = tmp_path / "ca.pem", tmp_path / "ca.key", tmp_path / "other.key"
    with pytest.raises(UnusablePKI, match=r"ca\.pem: No such file"):
        Authority.load(certificate, key)
    authority.credential.write(certificate, key)
    key.write_bytes(b"rubbish")
    with pytest.raises(UnusablePKI, match=r"ca\.key cannot be read as PEM"):
        Authority.load(certificate, key)
    write_new(other, authority.issue("x", "node").key_pem, 0o600)
    with pytest.raises(UnusablePKI, match=r"other\.key is not the key of .*ca\.pem"):
        Authority.load(certificate, other)


# -- the development PKI


def test_a_development_pki_is_made_whole(tmp_path: Path) -> None:
    """A CA, a server for localhost, a node and an operator, in a folder that is made for them."""
    made = development_pki(tmp_path / "deep" / "certs")
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(FILES)
    for name in ("ca", "server", "node", "operator"):
        assert mode(made.key(name)) == 0o600
    authority = Authority.load(made.certificate("ca"), made.key("ca"))
    leaves = {name: x509.load_pem_x509_certificate(made.certificate(name).read_bytes()) for name in ("server", "node")}
    for leaf in leaves.values():
        leaf.verify_directly_issued_by(authority.credential.certificate)
    names = leaves["server"].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert leaves["node"].subject.rfc4514_string() == "CN=node-1.example.com"


def test_a_development_pki_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """A second start changes no byte of it."""
    made = development_pki(tmp_path)
    before = {path: path.read_bytes() for path in made.files}
    assert development_pki(tmp_path) == made
    assert {path: path.read_bytes() for path in made.files} == before


@pytest.mark.parametrize("missing", FILES)
def test_an_incomplete_development_pki_is_not_completed(tmp_path: Path, missing: str) -> None:
    """A new file would not fit the old ones: the missing one is named and nothing is written."""
    for name in FILES:
        if name != missing:
            (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UnusablePKI) as caught:
        development_pki(tmp_path)
    assert missing in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "--cert" in str(caught.value)
    assert not (tmp_path / missing).exists()
    assert all(path.read_bytes() == b"precious" for path in tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where the folder should be: one sentence, no traceback."""
    (tmp_path / "certs").write_bytes(b"")
    with pytest.raises(UnusablePKI, match="certs"):
        development_pki(tmp_path / "certs")


def test_where_the_files_are(tmp_path: Path) -> None:
    """For each name a certificate and a key."""
    assert [path.name for path in DevelopmentPKI(tmp_path).files] == FILES
