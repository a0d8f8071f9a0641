"""Who a certificate says a node is: the rules, and the certificates that say nothing clear."""

from __future__ import annotations

import datetime
import hashlib
import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from osqtwist.identity import (
    CertificateIdentity,
    IdentityCache,
    IdentityRule,
    TagRule,
    UnidentifiedCertificate,
    identify,
    node_id_for_certificate,
    node_id_for_host,
)
from osqtwist.pki import Authority, new_key
from tests.examples import examples

AUTHORITY = Authority.create("test CA")
OTHER = Authority.create("other CA")
KEY = new_key()
SPIFFE = r"spiffe://example\.com/node/([a-z0-9-]+)"


def certificate(
    *names: str,
    by: Authority = AUTHORITY,
    dns: Iterable[str] = (),
    uris: Iterable[str] = (),
    **attributes: str | list[str],
) -> x509.Certificate:
    """A certificate with these common names, alternative names and further attributes (``O="Example"``)."""
    oids = {"O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "UID": NameOID.USER_ID}
    oids |= {"L": NameOID.LOCALITY_NAME, "serialNumber": NameOID.SERIAL_NUMBER, "DC": NameOID.DOMAIN_COMPONENT}
    oids |= {"emailAddress": NameOID.EMAIL_ADDRESS}
    pairs = [(oids[name], each) for name, value in attributes.items() for each in listed(value)]
    return by.issue(names, "node", dns=dns, uris=uris, attributes=pairs, key=KEY).certificate


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def patched(found: x509.Certificate, before: bytes, after: bytes) -> x509.Certificate:
    """
    The certificate with some of its bytes changed; what no decent CA signs, a careless one may have.

    Identities are found after the handshake has verified the signature, which is not looked at again.
    """
    der = found.public_bytes(serialization.Encoding.DER)
    assert len(before) == len(after) and der.count(before) == 1
    return x509.load_der_x509_certificate(der.replace(before, after))


def with_extension(oid: str, value: bytes) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node-1")]))
        .issuer_name(AUTHORITY.credential.certificate.subject)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a")]), critical=False)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
        .sign(AUTHORITY.credential.key, hashes.SHA256())
    )


def who(found: x509.Certificate, *rules: IdentityRule) -> str:
    return identify(found, rules or (IdentityRule(),)).value


def refusal(found: x509.Certificate, *rules: IdentityRule) -> str:
    with pytest.raises(UnidentifiedCertificate) as caught:
        who(found, *rules)
    return str(caught.value)


# -- rules


@pytest.mark.parametrize(
    ("rule", "fields", "expected"),
    [
        (IdentityRule(), {}, "node-1"),
        (IdentityRule("subject.O"), {"O": "Example"}, "Example"),
        (IdentityRule("subject.OU"), {"OU": "fleet"}, "fleet"),
        (IdentityRule("subject.UID"), {"UID": "u1"}, "u1"),
        (IdentityRule("subject.serialNumber"), {"serialNumber": "C02X"}, "C02X"),
        (IdentityRule("subject.DC"), {"DC": "example"}, "example"),
        (IdentityRule("subject.emailAddress"), {"emailAddress": "a@example.com"}, "a@example.com"),
        (IdentityRule("san.dns"), {"dns": ["Node-1.Example.COM"]}, "node-1.example.com"),
        (IdentityRule("san.uri"), {"uris": ["spiffe://example.com/node/n-1"]}, "spiffe://example.com/node/n-1"),
        (IdentityRule("san.uri", pattern=SPIFFE), {"uris": ["spiffe://example.com/node/n-1"]}, "n-1"),
        (
            IdentityRule("san.uri", pattern=SPIFFE),
            {"uris": ["https://example.com/", "spiffe://example.com/node/n-1"]},
            "n-1",
        ),
        (IdentityRule(pattern="node-.*"), {}, "node-1"),
        (IdentityRule(namespace="prod/"), {}, "prod/node-1"),
        (IdentityRule("subject.OU", pattern="id:(.+)"), {"OU": ["operator", "id:7"]}, "7"),
        (IdentityRule("subject.OU"), {"OU": ["same", "same"]}, "same"),
    ],
)
def test_a_rule_finds_the_identity(rule: IdentityRule, fields: dict[str, Any], expected: str) -> None:
    """Each source, with a pattern and a namespace; DNS names in lower case."""
    found = identify(certificate("node-1", **fields), (rule,))
    assert (found.value, found.source) == (expected, rule.source)


def test_the_serial_number_is_an_identity() -> None:
    """In hexadecimal, as OpenSSL prints it in lower case."""
    found = certificate("node-1")
    assert who(found, IdentityRule("serial")) == f"{found.serial_number:x}"


def test_the_common_name_decides_unless_told_otherwise() -> None:
    """The rule without a field is subject.CN."""
    assert msgspec.convert({}, IdentityRule) == IdentityRule("subject.CN")


def test_an_identity_says_where_it_is_from() -> None:
    """Issuer, serial number, fingerprint, end and kind of key are the certificate's."""
    found = certificate("node-1", O="Example")
    assert identify(found, (IdentityRule(),)) == CertificateIdentity(
        value="node-1",
        source="subject.CN",
        issuer="CN=test CA",
        serial=f"{found.serial_number:x}",
        fingerprint=hashlib.sha256(found.public_bytes(serialization.Encoding.DER)).hexdigest(),
        not_after=found.not_valid_after_utc.timestamp(),
        key_type="P-256",
    )


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048"])
def test_the_kind_of_key_is_told(kind: str) -> None:
    """As operators call it."""
    found = AUTHORITY.issue("node-1", "node", kind=kind).certificate
    assert identify(found, (IdentityRule(),)).key_type == kind


def test_edwards_keys_are_told() -> None:
    """Ed25519 too."""
    key: Any = ed25519.Ed25519PrivateKey.generate()
    assert identify(AUTHORITY.issue("node-1", "node", key=key).certificate, (IdentityRule(),)).key_type == "Ed25519"


def test_the_first_rule_that_finds_a_value_decides() -> None:
    """A rule that finds none leaves it to the next."""
    rules = (IdentityRule("san.dns"), IdentityRule("subject.CN", pattern="x(.*)"), IdentityRule("subject.CN"))
    assert who(certificate("node-1", dns=["a.example.com"]), *rules) == "a.example.com"
    assert who(certificate("xyz"), *rules) == "yz"
    assert who(certificate("node-1"), *rules) == "node-1"


def test_a_rule_may_be_for_one_issuer() -> None:
    """By its common name or its whole name; two CAs with one node name are two nodes by namespace."""
    rules = (IdentityRule(issuer="test CA"), IdentityRule(issuer="CN=other CA", namespace="other/"))
    assert who(certificate("node-1"), *rules) == "node-1"
    assert who(certificate("node-1", by=OTHER), *rules) == "other/node-1"
    assert "no identity rule covers its issuer" in refusal(certificate("node-1"), rules[1])


@pytest.mark.parametrize(("issuer", "covered"), [("test CA", True), ("CN=test CA", True), ("test", False), ("", True)])
def test_an_issuer_is_named_whole(issuer: str, covered: bool) -> None:
    """A part of its name is not its name."""
    assert IdentityRule(issuer=issuer).covers(certificate("node-1")) is covered


@pytest.mark.parametrize("pattern", ["node", "ode-1", "node-2", "(x)?node"])
def test_a_pattern_must_match_the_whole_value(pattern: str) -> None:
    """A part is not enough: node-1.evil.example must not be node-1."""
    assert "no subject.CN that fits the pattern" in refusal(certificate("node-1"), IdentityRule(pattern=pattern))


def test_a_group_that_took_no_part_is_no_identity() -> None:
    """An optional group that matched nothing, or matched the empty text."""
    for pattern in ("(x)?node-1", "(x*)node-1"):
        assert "fits the pattern" in refusal(certificate("node-1"), IdentityRule(pattern=pattern))


@pytest.mark.parametrize(
    "rule",
    [{"source": "subject.cn"}, {"source": "san.ip"}, {"pattern": "("}, {"soruce": "serial"}, {"source": ""}],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, str]) -> None:
    """When the settings are read, not when the first node comes."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(rule, IdentityRule)


# -- what is unclear


@pytest.mark.parametrize(
    ("found", "rule", "words"),
    [
        (certificate("a", "b"), IdentityRule(), "subject.CN is ambiguous: it has 2"),
        (certificate(O="Example"), IdentityRule(), "has no subject.CN"),
        (certificate("a"), IdentityRule("san.dns"), "has no san.dns"),
        (certificate("a", dns=["a"]), IdentityRule("san.uri"), "has no san.uri"),
        (certificate("a", dns=["a", "b"]), IdentityRule("san.dns"), "san.dns is ambiguous: it has 2"),
        (certificate("a", uris=["a:1", "a:2", "a:3"]), IdentityRule("san.uri"), "san.uri is ambiguous: it has 3"),
        (
            certificate("a", uris=["spiffe://example.com/node/a", "spiffe://example.com/node/b"]),
            IdentityRule("san.uri", pattern=SPIFFE),
            "ambiguous",
        ),
        (certificate("a", dns=["*.example.com"]), IdentityRule("san.dns"), "san.dns is a wildcard"),
        (certificate("*.example.com"), IdentityRule(), "subject.CN is a wildcard"),
        (certificate("*"), IdentityRule(), "subject.CN is a wildcard"),
        (certificate("a", O="x" * 256), IdentityRule("subject.O"), "subject.O is longer than 255"),
        (certificate("a", uris=["a:" + "x" * 254]), IdentityRule("san.uri"), "san.uri is longer than 255"),
        (certificate("a", dns=[""]), IdentityRule("san.dns"), "san.dns is empty"),
        (certificate(" "), IdentityRule(), "subject.CN is empty"),
        (certificate(" a"), IdentityRule(), "blanks at an end"),
        (certificate("a "), IdentityRule(), "blanks at an end"),
        (certificate("a\0b"), IdentityRule(), "control characters"),
        (certificate("a\nb"), IdentityRule(), "control characters"),
        (certificate("a\x7fb"), IdentityRule(), "control characters"),
        (certificate("a\u202eb"), IdentityRule(), "control characters"),
        (certificate("a\u200bb"), IdentityRule(), "control characters"),
        (certificate("a\u2028b"), IdentityRule(), "control characters"),
    ],
)
def test_what_is_ambiguous_or_unfit_is_refused(found: x509.Certificate, rule: IdentityRule, words: str) -> None:
    """And the text says why; a later rule does not paper over it."""
    assert words in refusal(found, rule)
    if "has no" not in words:
        assert words in refusal(found, rule, IdentityRule("serial"))


def test_the_longest_identity() -> None:
    """255 letters, whatever they are in bytes."""
    assert who(certificate(O="é" * 255), IdentityRule("subject.O")) == "é" * 255


def test_an_empty_common_name_is_refused() -> None:
    """A CA may sign one, though it should not."""
    with warnings.catch_warnings():
        # cryptography warns when it reads such a name.
        warnings.simplefilter("ignore")
        found = certificate(O="Example")
        der = found.public_bytes(serialization.Encoding.DER)
        # The organization's OID becomes the common name's, and its seven letters blanks.
        der = der.replace(b"\x06\x03\x55\x04\x0a\x0c\x07Example", b"\x06\x03\x55\x04\x03\x0c\x07       ")
        assert "empty" in refusal(x509.load_der_x509_certificate(der))


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (patched(certificate("nodeX1"), b"nodeX1", b"node\xe91"), IdentityRule()),
        (patched(certificate("nodeX1"), b"\x0c\x06nodeX1", b"\x03\x06nodeX1"), IdentityRule()),
        (patched(with_extension("2.5.29.99", b"\x30\x00"), b"\x55\x1d\x63", b"\x55\x1d\x11"), IdentityRule("san.dns")),
        (patched(certificate("a", dns=["aaaa"]), b"\x82\x04aaaa", b"\xa3\x04aaaa"), IdentityRule("san.dns")),
        (patched(certificate("a", dns=["aaaa"]), b"\x82\x04aaaa", b"\x82\x04aa\xff\xff"), IdentityRule("san.dns")),
        (patched(certificate("a", dns=["aaaa"]), b"\x82\x04aaaa", b"\x82\x44aaaa"), IdentityRule("san.dns")),
    ],
    ids=["not UTF-8", "bit string", "extension twice", "x400Address", "name not ASCII", "broken"],
)
def test_what_cannot_be_read_is_refused(found: x509.Certificate, rule: IdentityRule) -> None:
    """OpenSSL verifies more than Python can read; it is a refusal like any other, not a failure of the server."""
    assert refusal(found, rule) == "the certificate cannot be read"


@pytest.mark.parametrize(
    ("written", "read"),
    [("Mu\u0308nchen", "M\u00fcnchen"), ("\u00e9", "\u00e9"), ("узел-1", "узел-1"), ("\u212b", "\u00c5")],
)
def test_one_name_has_one_spelling(written: str, read: str) -> None:
    """UTF-8 in the normal form C, so that no two spellings of one name are two nodes."""
    assert who(certificate(written)) == read


# -- tags


@pytest.mark.parametrize(
    ("fields", "rule", "tags"),
    [
        ({"OU": "web"}, TagRule("subject.OU", "ou:"), ("ou:web",)),
        ({"OU": ["web", "db"]}, TagRule("subject.OU"), ("db", "web")),
        ({"OU": ["web", "not a tag", "a/b"]}, TagRule("subject.OU"), ("a/b", "web")),
        ({"OU": "x" * 128}, TagRule("subject.OU", "y"), ()),
        ({}, TagRule("subject.OU", "ou:"), ()),
        ({"dns": ["A.example.com"]}, TagRule("san.dns", "dns:"), ("dns:a.example.com",)),
        ({"OU": "web"}, TagRule("subject.OU", issuer="test CA"), ("web",)),
        ({"OU": "web"}, TagRule("subject.OU", issuer="other CA"), ()),
    ],
)
def test_tags_come_from_the_certificate(fields: dict[str, Any], rule: TagRule, tags: tuple[str, ...]) -> None:
    """Each value becomes a tag with the rule's prefix, in order, unless it has letters that tags have not."""
    assert identify(certificate("node-1", **fields), (IdentityRule(),), (rule,)).tags == tags


def test_a_tag_rule_names_its_source() -> None:
    """A tag without a source, or with a wrong one, is a fault of the settings."""
    for rule in ({}, {"source": "subject.ou"}, {"source": "serial", "pattern": "x"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(rule, TagRule)


# -- ids of nodes


def test_node_ids_stay_what_they_are() -> None:
    """They are keys of the store: another value would be another node after an upgrade."""
    assert node_id_for_certificate("node-1") == "d6be1d247f318c9a6ae1"
    assert node_id_for_host("node-1") == "a694c2c2ed3a674afab0"


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_certificate_and_a_host_are_never_the_same_node(one: str, two: str) -> None:
    """An enroll secret cannot speak for a node that a certificate proves, whatever it calls itself."""
    assert node_id_for_certificate(one) != node_id_for_host(two)
    assert (node_id_for_certificate(one) == node_id_for_certificate(two)) is (one == two)
    assert (node_id_for_host(one) == node_id_for_host(two)) is (one == two)


def test_a_host_identifier_that_is_no_unicode_has_an_id() -> None:
    """JSON can carry half of a surrogate pair."""
    assert len(node_id_for_host("\ud800")) == 20


# -- any certificate


@settings(max_examples=examples(60), deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16))
def test_any_common_name_is_an_identity_in_normal_form_or_refused(name: str) -> None:
    """Whatever gets through is printable, normal, not empty, and means the same node when it is read again."""
    found = certificate(name)
    try:
        value = who(found)
    except UnidentifiedCertificate:
        normal = unicodedata.normalize("NFC", name)
        assert not normal.isprintable() or normal != normal.strip() or normal.startswith("*")
    else:
        assert value == unicodedata.normalize("NFC", name)
        assert value.isprintable() and value == value.strip() != ""


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c.example.com", "*.example.com"]), max_size=4))
def test_only_one_name_is_a_name(names: list[str]) -> None:
    """Of alternative names there is one identity if they are all the same, and none otherwise."""
    found = certificate("x", dns=names)
    if len(set(names)) == 1 and "*" not in names[0]:
        assert who(found, IdentityRule("san.dns")) == names[0]
    else:
        refusal(found, IdentityRule("san.dns"))


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_a_damaged_certificate_never_breaks_the_server(data: st.DataObject) -> None:
    """A byte changed anywhere: it cannot be loaded, or it has an identity, or it is refused."""
    der = bytearray(DAMAGED)
    der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = x509.load_der_x509_certificate(bytes(der))
            found.fingerprint(hashes.SHA256())
        except (ValueError, x509.InvalidVersion):
            return
        for source in ("subject.CN", "san.dns", "san.uri", "serial"):
            try:
                assert identify(found, (IdentityRule(source),), (TagRule("subject.O"),)).value
            except UnidentifiedCertificate as problem:
                assert str(problem)


DAMAGED = certificate("node-1", dns=["a.example.com"], uris=["spiffe://example.com/node/1"], O="Example").public_bytes(
    serialization.Encoding.DER
)


# -- the cache


def der(found: x509.Certificate) -> bytes:
    return found.public_bytes(serialization.Encoding.DER)


def test_a_certificate_is_read_once() -> None:
    """The same certificate, loaded again, has the very same identity."""
    cache = IdentityCache((IdentityRule(),), (TagRule("subject.OU"),))
    found = certificate("node-1", OU="web")
    first = cache.identify(der(found))
    assert first.tags == ("web",)
    assert cache.identify(bytes(bytearray(der(found)))) is first


def test_two_certificates_of_a_node_are_two_entries() -> None:
    """A renewed certificate is not taken for the old one: its serial number and end are its own."""
    cache = IdentityCache((IdentityRule(),))
    old, new = (cache.identify(der(certificate("node-1"))) for _ in range(2))
    assert old.value == new.value
    assert old.serial != new.serial and old.fingerprint != new.fingerprint


def test_the_cache_is_bounded() -> None:
    """The oldest goes first; nothing is wrong after that but slower."""
    cache = IdentityCache((IdentityRule(),), max_entries=2)
    certificates = [certificate(f"node-{number}") for number in range(3)]
    first, second, third = (cache.identify(der(each)) for each in certificates)
    assert cache.identify(der(certificates[2])) is third
    assert cache.identify(der(certificates[1])) is second
    assert cache.identify(der(certificates[0])) is not first
    assert cache.identify(der(certificates[0])).value == "node-0"
    assert len(cache._known) == 2


def test_a_refusal_is_a_refusal_the_second_time() -> None:
    """Nothing of it is kept."""
    cache = IdentityCache((IdentityRule("san.dns"),))
    found = certificate("node-1")
    for _ in range(2):
        with pytest.raises(UnidentifiedCertificate):
            cache.identify(der(found))
    assert not cache._known


def test_rubbish_is_no_certificate() -> None:
    """OpenSSL reads more leniently than what finds the identity; what only OpenSSL can read is refused."""
    with pytest.raises(UnidentifiedCertificate, match="cannot be read"):
        IdentityCache((IdentityRule(),)).identify(b"rubbish")
