"""docs/pki-recipes.md: the settings are settings, and their rules know the certificates that each CA makes."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from osqtwist.identity import UnidentifiedCertificate, identify
from osqtwist.settings import Settings, gather
from tests.documentedcommands import ROOT

TEXT = (ROOT / "docs" / "pki-recipes.md").read_text("utf-8")
NOW = datetime.datetime.now(datetime.UTC)


@attrs.frozen
class Made:
    """
    What a CA makes for a node.

    :ivar issuer: its name, the way round in which it is encoded.
    :ivar subject: the node's, likewise.
    :ivar identity: what osqtwist is to make of it.
    """

    issuer: tuple[tuple[x509.ObjectIdentifier, str], ...]
    subject: tuple[tuple[x509.ObjectIdentifier, str], ...]
    names: tuple[x509.GeneralName, ...]
    identity: str
    tags: tuple[str, ...] = ()

    def certificate(self, issuer: x509.Name | None = None) -> x509.Certificate:
        """It, signed by anybody: what is looked at here was verified before."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(self.subject))
            .issuer_name(issuer or named(self.issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW)
            .not_valid_after(NOW + datetime.timedelta(days=1))
        )
        if self.names:
            builder = builder.add_extension(x509.SubjectAlternativeName(self.names), critical=not self.subject)
        return builder.sign(key, hashes.SHA256())


def named(parts: tuple[tuple[x509.ObjectIdentifier, str], ...]) -> x509.Name:
    """A name of these parts."""
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])


CN, OU, DC = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.DOMAIN_COMPONENT
WEB = "web-1.example.com"
MADE = {
    "step-ca": Made(
        ((NameOID.ORGANIZATION_NAME, "Example"), (CN, "Example Intermediate CA")),
        ((CN, WEB),),
        (x509.DNSName(WEB),),
        WEB,
    ),
    "Vault": Made(((CN, "Example Fleet CA"),), ((OU, "nodes"), (CN, WEB)), (x509.DNSName(WEB),), WEB, ("role:nodes",)),
    "Active Directory Certificate Services": Made(
        ((DC, "com"), (DC, "example"), (DC, "corp"), (CN, "Example Issuing CA")),
        (),
        (x509.DNSName("web-1.corp.example.com"),),
        "web-1",
    ),
    "cert-manager": Made(
        ((CN, "Cluster CA"),),
        ((CN, "worker-1"),),
        (x509.UniformResourceIdentifier("spiffe://cluster.example.com/node/worker-1"),),
        "worker-1",
    ),
    "Puppet": Made(((CN, "Puppet CA: puppet.example.com"),), ((CN, WEB),), (x509.DNSName(WEB),), WEB),
}


def recipe(name: str, folder: Path) -> Settings:
    """The settings under a heading."""
    section = re.split(r"^## ", TEXT, flags=re.M)
    (text,) = [part for part in section if part.startswith(name + "\n")]
    (settings,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    file = folder / "settings.toml"
    file.write_text(settings)
    return gather({}, {}, str(file))


def test_there_is_a_test_for_each_recipe() -> None:
    """Every heading with settings."""
    parts = re.split(r"^## ", TEXT, flags=re.M)
    assert {part.partition("\n")[0] for part in parts if "```toml" in part} == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_a_recipe_knows_the_nodes_of_its_ca(name: str, tmp_path: Path) -> None:
    """Settings and rules are good; a certificate of this shape is the node; one of another CA is nobody."""
    settings = recipe(name, tmp_path)
    assert settings.client_auth == "required"
    assert settings.cert and settings.key and settings.client_ca
    made = MADE[name]
    found = identify(made.certificate(), settings.identity, settings.certificate_tags)
    assert (found.value, found.tags) == (made.identity, made.tags)
    with pytest.raises(UnidentifiedCertificate):
        identify(made.certificate(named(((CN, "Another CA"),))), settings.identity)
