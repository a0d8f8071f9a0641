"""
Certificates that operators deny: by serial number, by fingerprint, or by the identity that they prove.

A denial is about certificates, also those that OpenSSL has nothing against; a node that shows none is refused by its
id (``osqtwist node revoke``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Literal

import attrs
import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from osqtwist.expression import Matches
from osqtwist.identity import MAX_IDENTITY, CertificateIdentity

DenialKind = Literal["serial", "fingerprint", "identity"]

_LONGEST_SERIAL = 40
_MOST_IDENTITIES = 100_000


class BadDenial(ValueError):
    """Nothing can be denied so; says why."""


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """
    Certificates that are refused.

    :ivar value: hexadecimal in lower case for a serial number (without leading zeros) and a fingerprint (SHA-256);
        of an identity a shell pattern, in which upper and lower case are alike.
    :ivar issuer: whose serial number it is: common name, or whole name (RFC 4514); empty for everybody's.
    :ivar expires_at: Unix time at which it is over; 0 for never.
    """

    denial_id: str
    kind: DenialKind
    value: str
    issuer: str = ""
    reason: str = ""
    created_at: float
    created_by: str
    expires_at: float = 0.0

    def is_over(self, now: float) -> bool:
        """Whether its time is up."""
        return 0.0 < self.expires_at <= now


def checked_value(kind: DenialKind, value: str, issuer: str) -> str:
    """
    What a person wrote, in the form that is kept.

    :raise BadDenial: it is no such thing, or would deny everybody.
    """
    if issuer and kind != "serial":
        raise BadDenial("an issuer goes with a serial number only")
    if kind == "identity":
        if not 0 < len(value) <= MAX_IDENTITY:
            raise BadDenial(f"an identity has 1 to {MAX_IDENTITY} letters")
        if not value.strip("*?"):
            raise BadDenial(f"{value!r} would deny every certificate")
        return value
    digits = value.lower().removeprefix("0x").replace(":", "").replace(" ", "")
    if not re.fullmatch("[0-9a-f]+", digits):
        raise BadDenial(f"{value[:100]!r} is not hexadecimal")
    if kind == "fingerprint":
        if len(digits) != 64:
            raise BadDenial(f"{value[:100]!r} is no SHA-256: that has 64 digits, and it {len(digits)}")
        return digits
    digits = digits.lstrip("0")
    if not 0 < len(digits) <= _LONGEST_SERIAL:
        raise BadDenial(f"a serial number has 1 to {_LONGEST_SERIAL} digits, and is not 0")
    return digits


@attrs.frozen(eq=False)
class DenialIndex:
    """Denials, by what finds them: a look into a dict, but for patterns when an identity comes for the first time."""

    _exact: dict[tuple[str, str], list[Denial]]
    _patterns: list[tuple[Matches, Denial]]
    _by_identity: dict[str, list[Denial]] = attrs.field(factory=dict, init=False)

    @classmethod
    def of(cls, denials: Iterable[Denial]) -> DenialIndex:
        """An index of these."""
        exact: dict[tuple[str, str], list[Denial]] = {}
        patterns = []
        for denial in denials:
            if denial.kind == "identity" and re.search(r"[*?\[]", denial.value):
                patterns.append((Matches("identity", denial.value.lower()), denial))
            else:
                exact.setdefault((denial.kind, denial.value.lower()), []).append(denial)
        return cls(exact, patterns)

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def find(self, certificate: CertificateIdentity, now: float) -> Denial | None:
        """A denial that is about this certificate, if any is."""
        identity = certificate.value.lower()
        for key in (
            ("fingerprint", certificate.fingerprint),
            ("serial", certificate.serial),
            ("identity", identity),
        ):
            for denial in self._exact.get(key, ()):
                if not denial.is_over(now) and (not denial.issuer or denial.issuer in _names(certificate.issuer)):
                    return denial
        for denial in self._of_patterns(identity):
            if not denial.is_over(now):
                return denial
        return None

    def _of_patterns(self, identity: str) -> Iterable[Denial]:
        if not self._patterns:
            return ()
        found = self._by_identity.get(identity)
        if found is None:
            found = [denial for pattern, denial in self._patterns if pattern.matches(lambda _: (identity,))]
            if len(self._by_identity) >= _MOST_IDENTITIES:
                self._by_identity.clear()
            self._by_identity[identity] = found
        return found


@functools.lru_cache(maxsize=256)
def _names(issuer: str) -> frozenset[str]:
    """What an issuer is called: its whole name, and its common names."""
    try:
        name = x509.Name.from_rfc4514_string(issuer)
    except ValueError:
        return frozenset((issuer,))
    return frozenset((issuer, *(str(each.value) for each in name.get_attributes_for_oid(NameOID.COMMON_NAME))))
