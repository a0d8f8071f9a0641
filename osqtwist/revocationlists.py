"""
Revocation lists (CRLs): of every CA the one in force, and what is passed over where OpenSSL would lock a fleet out.

A file that cannot be used, or that misses what was in it, takes nothing back: the list of a CA stays in force until
there is a newer one of that CA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from osqtwist.tlsfiles import UNREADABLE, TLSFiles, UnusableCredential, is_issued_by

# X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_CRL_NOT_YET_VALID, X509_V_ERR_CRL_HAS_EXPIRED
_CRL_MISSING, _CRL_NOT_YET_VALID, _CRL_EXPIRED = 3, 11, 12
# X509_V_ERR_DIFFERENT_CRL_SCOPE; having passed that over and looked at the list, OpenSSL says that there is none.
OF_SCOPE = frozenset({44, _CRL_MISSING})
"""Verdicts about a list that says where it is, and a certificate that does not say where its list is."""
_PEM_CRL = b"-----BEGIN X509 CRL-----"
WARN_SHARE, WARN_AT_MOST = 0.1, 86400.0
"""How long before its next update a list is warned of: this share of its time, and so many seconds at most."""


class RevocationListRow(TypedDict):
    """A revocation list in force; `next_update` is null where it does not say."""

    issuer: str
    next_update: float | None
    stale: bool
    entries: int
    file: str


@attrs.define(eq=False)
class RevocationList:
    """
    One list.

    :ivar authorities: whose it is, by name and signature; none if that CA is not among those that are trusted.
    :ivar source: the file it is from.
    :ivar is_kept: whether it is from before, and no file has it any more.
    :ivar issuer: its CA's name (RFC 4514).
    :ivar begin: Unix time from which it is good.
    :ivar next_update: Unix time at which there should be another, or infinity.
    """

    crl: x509.CertificateRevocationList
    authorities: tuple[x509.Certificate, ...]
    source: str
    is_kept: bool = False
    issuer: str = attrs.field(init=False)
    begin: float = attrs.field(init=False)
    next_update: float = attrs.field(init=False)
    _serials: frozenset[int] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        # Each takes long to make of the list, and is asked for again for each connection.
        self.issuer = self.crl.issuer.rfc4514_string()
        self.begin = self.crl.last_update_utc.timestamp()
        self.next_update = self.crl.next_update_utc.timestamp() if self.crl.next_update_utc else math.inf

    @property
    def warn_at(self) -> float:
        """Unix time from which to say that there should soon be another."""
        return self.next_update - min(WARN_SHARE * (self.next_update - self.begin), WARN_AT_MOST)

    @property
    def order(self) -> tuple[float, int]:
        """The later, the greater."""
        try:
            return self.begin, self.crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (x509.ExtensionNotFound, *UNREADABLE):
            return self.begin, 0

    @property
    def key(self) -> tuple[str, ...]:
        """Tells lists apart that do not take each other's place: those of other CAs, and other keys of a CA."""
        return (self.issuer, *sorted(each.fingerprint(hashes.SHA256()).hex() for each in self.authorities))

    def has(self, serial: int) -> bool:
        """Whether it has a serial number; the first time this takes long, if the list is."""
        if self._serials is None:
            self._serials = frozenset(each.serial_number for each in self.crl)
        return serial in self._serials


@attrs.frozen(eq=False)
class RevocationLists:
    """
    Those in force.

    :ivar problems: what could not be used of the files; one sentence each.
    """

    lists: tuple[RevocationList, ...] = ()
    problems: tuple[str, ...] = ()

    def is_same_as(self, other: RevocationLists) -> bool:
        """Whether they say the same."""
        return {each.crl.fingerprint(hashes.SHA256()) for each in self.lists} == {
            each.crl.fingerprint(hashes.SHA256()) for each in other.lists
        }

    def may_have(self, issuer: str, serial: int) -> bool:
        """Whether a certificate by that name and number is in one of them; two CAs may have one name."""
        return any(each.has(serial) for each in self.lists if each.issuer == issuer)

    def have(self, certificate: x509.Certificate) -> bool:
        """Whether one of them has a certificate."""
        issuer, serial = certificate.issuer.rfc4514_string(), certificate.serial_number
        return any(
            each.issuer == issuer
            and each.has(serial)
            and (not each.authorities or any(is_issued_by(certificate, one) for one in each.authorities))
            for each in self.lists
        )

    def rows(self, now: float) -> list[RevocationListRow]:
        """The lists, ready to be JSON."""
        return [
            {
                "issuer": each.issuer,
                "next_update": None if math.isinf(each.next_update) else each.next_update,
                "stale": each.next_update <= now,
                "entries": len(each.crl),
                "file": each.source,
            }
            for each in self.lists
        ]

    def located(self) -> frozenset[bytes]:
        """
        The CAs (names, DER) whose list says where it is, and that it is all of it.

        OpenSSL takes such a list for another than that of a certificate that names no place, as those of step-ca are,
        and would refuse them all.  There is one list of each CA here, so it is theirs.
        """
        return frozenset(each.crl.issuer.public_bytes() for each in self.lists if _is_located(each.crl))

    def warnings(self, files: TLSFiles, now: float) -> list[tuple[str, str]]:
        """What an operator should know of their times, each with what it is about."""
        return [
            (f"{fate[:12]} {each.issuer}", f"{files.said('client_crl')}: the list of {each.issuer} {fate}")
            for each in self.lists
            if (fate := _fate_of(each, files.stale_crl == "accept", now))
        ]

    def tolerances(self, files: TLSFiles, trusted: Sequence[x509.Certificate]) -> tuple[frozenset[int], list[str]]:
        """
        Which verdicts of OpenSSL about revocation lists are passed over, and what to say of that.

        OpenSSL refuses every certificate of a CA whose list is stale or from the future, and of a CA that has none once
        any list is there.  Either would lock out a fleet with a good certificate each.  Staleness is passed over before
        it begins, since the context that is in force then may have to stay: the next one could be unusable.
        """
        tolerated, warnings = set[int](), []
        if files.stale_crl == "accept":
            tolerated |= {_CRL_NOT_YET_VALID, _CRL_EXPIRED}
        covered = {one for each in self.lists for one in each.authorities}
        uncovered = [authority for authority in trusted if authority not in covered]
        if uncovered:
            tolerated.add(_CRL_MISSING)
            names = ", ".join(authority.subject.rfc4514_string() for authority in uncovered)
            warnings.append(f"{files.said('client_crl')} has no list of {names}; its nodes are not checked")
        return frozenset(tolerated), warnings


def _fate_of(each: RevocationList, is_accepted: bool, now: float) -> str:
    """What is wrong with the times of a list and what follows from it, if anything is."""
    if each.begin > now:
        return "is dated in the future; " + (
            "it is in force" if is_accepted else "until then the nodes it is about are refused"
        )
    if each.next_update <= now:
        return f"is past its next update by {(now - each.next_update) / 3600:.1f} h" + (
            "; it stays in force" if is_accepted else ": with --stale-crl refuse, the nodes it is about are refused"
        )
    if each.warn_at <= now:
        return f"has its next update in {(each.next_update - now) / 3600:.1f} h, and no other is here; then " + (
            "it stays in force" if is_accepted else "the nodes it is about are refused: --stale-crl refuse"
        )
    return ""


def read_lists(
    files: TLSFiles, trusted: Sequence[x509.Certificate], before: RevocationLists | None = None
) -> RevocationLists:
    """
    The lists of a file or folder; of each CA and key the newest.

    :param before: those in force so far, which stay where there is no other.
    :raise UnusableCredential: there are none from before, and something cannot be used.
    """
    found: dict[tuple[str, ...], RevocationList] = {}
    problems: list[str] = []

    def take(each: RevocationList) -> None:
        other = found.get(each.key)
        if other is None or each.order > other.order:
            found[each.key] = each

    paths = files.revocation_files
    for path in paths:
        try:
            for crl in _parsed(files, path):
                take(RevocationList(crl, _checked_authorities_of(crl, trusted), str(path)))
        except _Unusable as problem:
            problems.append(f"{files.options['client_crl']} {path} {problem}")
    if not paths:
        problems.append(f"{files.said('client_crl')} holds no revocation list")
    if before is None:
        if problems:
            raise UnusableCredential(problems[0])
    else:
        problems += _keep(before, found, trusted, files)
    return RevocationLists(tuple(found[key] for key in sorted(found)), tuple(problems))


def _keep(
    before: RevocationLists,
    found: dict[tuple[str, ...], RevocationList],
    trusted: Sequence[x509.Certificate],
    files: TLSFiles,
) -> list[str]:
    """Put the lists of before in where there is none now, or only an older one; answers with what there is to say."""
    problems = []
    for old in before.lists:
        authorities = _authorities_of(old.crl, trusted)
        if not authorities:
            continue
        kept = RevocationList(old.crl, authorities, old.source, is_kept=True)
        now = found.get(kept.key)
        if now is None:
            problems.append(f"{files.said('client_crl')} has no list of {old.issuer} any more: it stays in force")
        elif old.order > now.order:
            problems.append(f"{files.said('client_crl')}: the list of {old.issuer} is older than the one in force")
        else:
            continue
        found[kept.key] = kept
    return problems


class _Unusable(Exception):
    """A file cannot be used; the text goes on behind its name."""


def _parsed(files: TLSFiles, path: Path) -> list[x509.CertificateRevocationList]:
    try:
        data = files.read(path)
    except OSError as problem:
        raise _Unusable(f"cannot be read: {problem.strerror}") from None
    parts = [_PEM_CRL + part for part in data.split(_PEM_CRL)[1:]]
    load: Callable[[bytes], x509.CertificateRevocationList] = x509.load_pem_x509_crl
    if not parts and data[:1] == b"\x30":
        parts, load = [data], x509.load_der_x509_crl
    if not parts:
        raise _Unusable("holds no revocation list")
    try:
        # What has changed since a complete list (RFC 5280, 5.2.4) cannot stand in its place.
        found = [crl for part in parts if not _is_delta(crl := load(part))]
        for crl in found:
            _read_through(crl)
        return found
    except UNREADABLE:
        raise _Unusable("holds a revocation list that cannot be read") from None


def _read_through(crl: x509.CertificateRevocationList) -> None:
    """Ask for everything that is asked for later: cryptography reads a part when it is wanted, and fails then."""
    RevocationList(crl, (), "")
    len(crl)


def _is_delta(crl: x509.CertificateRevocationList) -> bool:
    return any(isinstance(each.value, x509.DeltaCRLIndicator) for each in crl.extensions)


def _is_located(crl: x509.CertificateRevocationList) -> bool:
    for each in crl.extensions:
        if isinstance(point := each.value, x509.IssuingDistributionPoint):
            only = (point.only_contains_user_certs, point.only_contains_ca_certs, point.only_contains_attribute_certs)
            return not any(only) and not point.indirect_crl and not point.only_some_reasons
    return False


def _authorities_of(
    crl: x509.CertificateRevocationList, trusted: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """The CAs whose list it is."""
    return tuple(each for each in trusted if each.subject == crl.issuer and _is_signed_by(crl, each))


def _checked_authorities_of(
    crl: x509.CertificateRevocationList, trusted: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """
    The same.

    :raise _Unusable: it says that it is of one of them, and is not.
    """
    found = _authorities_of(crl, trusted)
    if not found and any(each.subject == crl.issuer for each in trusted):
        raise _Unusable(f"has a list of {crl.issuer.rfc4514_string()} that is not signed by the CA of that name")
    return found


def _is_signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    # The name is not enough: a CA that renews its key has one name and, for a while, a list by its old key only.
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except UNREADABLE:
        # Cryptography cannot tell; OpenSSL will.
        return True
