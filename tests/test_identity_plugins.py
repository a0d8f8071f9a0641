"""Identity rules of plug-ins: what they find, what they must not find, and how a wrong block is refused."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from zope.interface import implementer

from osqtwist.identity import IdentityRule, UnidentifiedCertificate, identify
from osqtwist.identityinterfaces import BadIdentityRule, IIdentityRule
from osqtwist.identityrules import read_identity_rules
from osqtwist.launch import EXPECTED
from osqtwist.pki import Authority, Credential, new_key
from tests.examplepackages import example

AUTHORITY = Authority.create("test CA")
PP_UUID = "1.3.6.1.4.1.34380.1.1.1"


def with_extension(oid: str, value: bytes, authority: Authority = AUTHORITY) -> Credential:
    """A node's certificate with an extension that the CA put there."""
    key, now = new_key(), datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node-1")]))
        .issuer_name(authority.credential.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    )
    return Credential(builder.sign(authority.credential.key, hashes.SHA256()), key)


NODE = with_extension(PP_UUID, b"\x0c\x06uuid-1").certificate
PLAIN = AUTHORITY.issue("node-2", "node").certificate


class Nothing(msgspec.Struct, frozen=True, kw_only=True):
    """No settings."""


@implementer(IIdentityRule)
class Finds:
    """Finds what a test says."""

    kind = "test"
    settings = Nothing

    def __init__(self, find: Callable[[x509.Certificate], Any]) -> None:
        self._find = find

    def find(self, certificate: x509.Certificate, settings: Nothing) -> Any:
        return self._find(certificate)


def who(certificate: x509.Certificate, find: Callable[[x509.Certificate], Any], **rule: Any) -> Any:
    rules = read_identity_rules((IdentityRule(kind="test", **rule), IdentityRule()), [Finds(find)])
    return identify(certificate, rules)


@pytest.fixture(scope="module")
def extension() -> Any:
    """The example package's rule."""
    return example("extension-identity").ExtensionRule()


def test_the_example_finds_what_the_extension_says(extension: Any) -> None:
    """With a namespace; a certificate that has none is left to the next rule."""
    blocks = (IdentityRule(kind="extension", namespace="puppet:", settings={"oid": PP_UUID}), IdentityRule())
    rules = read_identity_rules(blocks, [extension])
    found = identify(NODE, rules)
    assert (found.value, found.source) == ("puppet:uuid-1", "extension")
    assert identify(PLAIN, rules).value == "node-2"


@pytest.mark.parametrize("value", [b"", b"\x0c", b"\x0c\x07uuid-1", b"\x13\x06uuid-1", b"\x0c\x02\xff\xfe"])
def test_the_example_refuses_what_is_no_text(extension: Any, value: bytes) -> None:
    """Rather than take the common name for the identity."""
    rules = read_identity_rules((IdentityRule(kind="extension"), IdentityRule()), [extension])
    with pytest.raises(UnidentifiedCertificate, match="identity rule extension failed"):
        identify(with_extension(PP_UUID, value).certificate, rules)


def test_a_rule_of_a_plugin_is_scoped_by_issuer() -> None:
    """It is not asked about certificates of another CA."""
    assert who(NODE, lambda _: ["theirs"], issuer="another CA").value == "node-1"
    assert who(NODE, lambda _: ["theirs"], issuer="test CA").value == "theirs"


def test_a_pattern_counts_for_it_too() -> None:
    """As for every rule: all of the value, and the first group."""
    assert who(NODE, lambda _: ["host/a", "user/b"], pattern="host/(.+)").value == "a"


@pytest.mark.parametrize(
    ("find", "why"),
    [
        (lambda _: ["a", "b"], "ambiguous"),
        (lambda _: [""], "empty"),
        (lambda _: ["a\nb"], "control"),
        (lambda _: ["x" * 256], "longer than 255"),
        (lambda _: [b"bytes"], "not text"),
        (lambda _: 7, "failed"),
        (lambda certificate: certificate.no_such_thing, "failed"),
    ],
)
def test_what_may_be_an_identity_is_not_for_a_plugin_to_say(find: Any, why: str) -> None:
    """What is unfit, or fails, refuses the certificate; the next rule is not asked instead."""
    with pytest.raises(UnidentifiedCertificate, match=why):
        who(NODE, find)


@pytest.mark.parametrize("nothing", [[], None, ""])
def test_a_rule_that_finds_nothing_leaves_it_to_the_next(nothing: Any) -> None:
    """As a rule whose source is not there."""
    if nothing == "":
        with pytest.raises(UnidentifiedCertificate, match="empty"):
            who(NODE, lambda _: nothing)
    else:
        assert who(NODE, lambda _: nothing).value == "node-1"


def test_one_text_is_one_identity() -> None:
    """Not each of its letters."""
    assert who(NODE, lambda _: "whole").value == "whole"


@pytest.mark.parametrize(
    ("rule", "plugins", "sentence"),
    [
        ({"kind": "nothing"}, [], r"kind is 'nothing'; no package with identity rules is installed"),
        ({"kind": "nothing"}, None, r"kind is 'nothing'; installed are extension"),
        ({"kind": "extension", "settings": {"oid": 5}}, None, r"kind extension: settings: .*oid"),
        ({"kind": "extension", "settings": {"odi": "5"}}, None, r"odi is not among its settings: oid"),
    ],
)
def test_a_wrong_block_is_one_sentence(extension: Any, rule: Any, plugins: Any, sentence: str) -> None:
    """Which names the kind and the key."""
    with pytest.raises(BadIdentityRule, match=sentence):
        read_identity_rules((IdentityRule(**rule),), [extension] if plugins is None else plugins)
    # What ends the start with that sentence, and without a traceback.
    assert BadIdentityRule in EXPECTED


def test_settings_without_a_kind_are_refused() -> None:
    """They would be for nobody."""
    with pytest.raises(ValueError, match="no kind is given"):
        IdentityRule(settings={"oid": PP_UUID})
