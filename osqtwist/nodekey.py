"""
Node keys: signed, so that a request is authenticated without asking the store.

A key is ``o1.KEY.NODE.TIME.B.MAC``: the id of the signing key, the node id, the moment of issue (hexadecimal Unix
time), ``c`` if it is bound to a certificate's identity or ``s`` if not, and 128 bits of an HMAC-SHA256 over all
that and the identity.  It goes raw into an HTTP header (osquery/remote/transports/tls.cpp), so it is visible ASCII
without anything that needs quoting.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

import attrs

_VERSION = "o1"
_MAC_BYTES = 16
_MAX_LENGTH = 160
_NODE_ID = re.compile(r"[0-9a-f]{20}")


class InvalidNodeKey(Exception):
    """The key was never issued here, or with a signing key that is gone.  The node must enroll again."""


class WrongCertificate(Exception):
    """The key is bound to another identity than the certificate that was shown.  The node must enroll again."""


class CertificateMissing(Exception):
    """The key is bound to a certificate and none was shown.  The key itself may be good."""


@attrs.frozen
class SigningKey:
    """One secret that signs node keys, with a short public name for it."""

    key_id: str
    secret: bytes = attrs.field(repr=False)


@attrs.frozen
class NodeKeyClaims:
    """
    What a good key says: for which node, since when, and whether it is bound to the certificate shown.

    :ivar key_id: the signing key that it was made with.
    """

    node_id: str
    issued_at: float
    is_bound: bool
    key_id: str = ""


@attrs.define
class NodeKeys:
    """
    Issues and checks node keys.

    :ivar signing_keys: the first one signs; all of them verify, so keys rotate with an overlap.
    :ivar still_signs: signs in its place, as long as others may not know the first one yet.
    """

    signing_keys: tuple[SigningKey, ...]
    still_signs: SigningKey | None = None

    @property
    def signing(self) -> SigningKey:
        """The key that signs now."""
        return self.still_signs or self.signing_keys[0]

    def issue(self, node_id: str, issued_at: float, identity: str = "") -> str:
        """A key for a node, bound to ``identity`` (of its certificate) unless that is empty."""
        signing_key = self.signing
        kind = "c" if identity else "s"
        head = f"{_VERSION}.{signing_key.key_id}.{node_id}.{int(issued_at):x}.{kind}"
        return f"{head}.{_mac(signing_key.secret, head, identity)}"

    def verify(self, text: str, identity: str = "") -> NodeKeyClaims:
        """
        What a key says, if it is good.

        :param identity: the identity of the certificate shown, empty without one.
        :raise InvalidNodeKey: it is not ours.
        :raise CertificateMissing: it is bound, and there is no certificate to compare.
        :raise WrongCertificate: it is bound to another identity, or altered.
        """
        parts = text.split(".", 6) if len(text) <= _MAX_LENGTH and text.isascii() else []
        if len(parts) != 6:
            raise InvalidNodeKey("not a node key of this server")
        version, key_id, node_id, issued, kind, mac = parts
        signing_key = next((key for key in self.signing_keys if key.key_id == key_id), None)
        if version != _VERSION or signing_key is None or kind not in ("c", "s") or not _NODE_ID.fullmatch(node_id):
            raise InvalidNodeKey("not a node key of this server")
        if kind == "c" and not identity:
            raise CertificateMissing("this node key is bound to a certificate, and none was shown")
        head, _, _ = text.rpartition(".")
        expected = _mac(signing_key.secret, head, identity if kind == "c" else "")
        if not hmac.compare_digest(expected, mac):
            if kind == "c":
                raise WrongCertificate("this node key is bound to another certificate")
            raise InvalidNodeKey("the signature of this node key is wrong")
        return NodeKeyClaims(node_id=node_id, issued_at=float(int(issued, 16)), is_bound=kind == "c", key_id=key_id)


def new_signing_key() -> SigningKey:
    """A fresh signing key."""
    return SigningKey(key_id=secrets.token_hex(3), secret=secrets.token_bytes(32))


def parse_signing_keys(text: str) -> tuple[SigningKey, ...]:
    """
    Signing keys from their file: ``ID SECRET`` a line, both hexadecimal, newest first; ``#`` begins a comment.

    :raise ValueError: a line is something else, or there is none; the text names the line.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key_id, secret = words
            keys.append(SigningKey(key_id=bytes.fromhex(key_id).hex(), secret=bytes.fromhex(secret)))
        except ValueError:
            raise ValueError(f"line {number} is not 'ID SECRET' in hexadecimal") from None
        if len(keys[-1].secret) < 16:
            raise ValueError(f"the secret in line {number} is shorter than 16 bytes")
    if not keys:
        raise ValueError("it holds no signing key")
    return tuple(keys)


def render_signing_keys(keys: tuple[SigningKey, ...]) -> str:
    """The text of a signing key file."""
    lines = [f"{key.key_id} {key.secret.hex()}\n" for key in keys]
    return "# Node keys are signed with the first of these and accepted with any.\n" + "".join(lines)


def _mac(secret: bytes, head: str, identity: str) -> str:
    mac = hmac.digest(secret, f"{head}\0{identity}".encode(), hashlib.sha256)[:_MAC_BYTES]
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode("ascii")
