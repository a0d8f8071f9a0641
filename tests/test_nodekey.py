"""osqtwist.nodekey: keys that prove themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.nodekey import (
    CertificateMissing,
    InvalidNodeKey,
    NodeKeys,
    SigningKey,
    WrongCertificate,
    new_signing_key,
    parse_signing_keys,
    render_signing_keys,
)

NODE = "0123456789abcdef0123"
KEYS = NodeKeys((SigningKey("aa", b"k" * 32),))


@given(st.integers(0, 2**33), st.text(max_size=300))
def test_what_is_issued_verifies(issued_at: int, identity: str) -> None:
    """A key verifies with the identity it was issued over, and says what it was issued for."""
    text = KEYS.issue(NODE, float(issued_at), identity)
    claims = KEYS.verify(text, identity)
    assert (claims.node_id, claims.issued_at, claims.is_bound) == (NODE, issued_at, bool(identity))


@given(st.text(max_size=200))
def test_no_text_but_a_key_verifies(text: str) -> None:
    """Whatever else is shown as a key is refused, without any other exception."""
    with pytest.raises(InvalidNodeKey):
        KEYS.verify(text)


@given(st.data())
def test_a_key_with_one_letter_changed_is_refused(data: st.DataObject) -> None:
    """Every letter of a key is covered by its signature."""
    text = KEYS.issue(NODE, 1_700_000_000.0)
    index = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("0123456789abcdefXYZ.-_ "))
    changed = text[:index] + letter + text[index + 1 :]
    # The last letter of unpadded base64 carries bits that count for nothing; the text must still be the same.
    if changed != text:
        with pytest.raises((InvalidNodeKey, CertificateMissing)):
            KEYS.verify(changed)


def test_a_bound_key_is_worthless_with_another_certificate_and_without_any() -> None:
    """Another identity means a wrong key; no certificate means only that nothing is proven."""
    text = KEYS.issue(NODE, 0.0, "node-1")
    with pytest.raises(WrongCertificate):
        KEYS.verify(text, "node-2")
    with pytest.raises(CertificateMissing):
        KEYS.verify(text)


def test_binding_cannot_be_taken_off() -> None:
    """A bound key relabelled as unbound does not verify."""
    text = KEYS.issue(NODE, 0.0, "node-1").replace(".c.", ".s.")
    with pytest.raises(InvalidNodeKey):
        KEYS.verify(text)


def test_signing_keys_rotate_with_overlap() -> None:
    """After a rotation old keys verify until their signing key is removed; new ones are signed with the first."""
    old, new = new_signing_key(), new_signing_key()
    text = NodeKeys((old,)).issue(NODE, 1.0)
    assert NodeKeys((new, old)).verify(text).node_id == NODE
    with pytest.raises(InvalidNodeKey):
        NodeKeys((new,)).verify(text)
    assert NodeKeys((new, old)).issue(NODE, 1.0).split(".")[1] == new.key_id


def test_a_key_fits_into_a_header() -> None:
    """Node keys are short visible ASCII: osquery puts them raw into an HTTP header."""
    text = KEYS.issue(NODE, 1_790_000_000.0, "x" * 255)
    assert text.isascii() and text.isprintable() and " " not in text and len(text) < 100


def test_signing_key_file_round_trip() -> None:
    """What is written is read; anything else is refused with its line."""
    keys = (new_signing_key(), new_signing_key())
    assert parse_signing_keys(render_signing_keys(keys)) == keys
    for text, line in (("zz aa\n", "line 1"), ("# c\nab cd ef\n", "line 2"), ("aa bb\n", "line 1")):
        with pytest.raises(ValueError, match=line):
            parse_signing_keys(text)
    with pytest.raises(ValueError, match="no signing key"):
        parse_signing_keys("\n")


def test_secrets_do_not_show() -> None:
    """A signing key does not print its secret."""
    assert "kkkk" not in repr(KEYS)
