"""
What is asked about a node's certificate after its handshake, where OpenSSL had nothing against it.

The deny list of operators, in memory; and, if the settings say so, OCSP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypedDict

import attrs
from cryptography import x509

from osqtwist.denials import Denials
from osqtwist.identity import CertificateIdentity, node_id_for_certificate
from osqtwist.interfaces import Report
from osqtwist.ocsp import Responders

Chain = Callable[[], Sequence[x509.Certificate]]
"""A node's certificate and those above it, as verified in the handshake."""


class CheckFigures(TypedDict):
    """How many denials are in force, and what is done about OCSP."""

    denials: int
    ocsp: Literal["off", "soft", "hard"]


class CertificateRefused(Exception):
    """A certificate is good for OpenSSL, and refused all the same: an operator denies it, or its issuer revoked it."""


@attrs.frozen
class CertificateChecks:
    """
    :ivar responders: asked over OCSP; nothing if the settings do not say so.
    :ivar report: told of whoever is refused and comes all the same.
    """

    denials: Denials
    responders: Responders | None = None
    report: Report = lambda kind, node_id, facts: None

    def refusal_of(self, certificate: CertificateIdentity) -> str:
        """Why a certificate is refused, as far as that is known here and now; empty if it is not."""
        denial = self.denials.find(certificate)
        if denial is not None:
            return f"this certificate is denied ({denial.denial_id})"
        if self.responders is not None and self.responders.is_revoked(certificate.fingerprint):
            return "this certificate is revoked"
        return ""

    def is_settled(self, certificate: CertificateIdentity) -> bool:
        """Whether nobody has to be asked about a certificate."""
        return self.responders is None or self.responders.is_good(certificate.fingerprint)

    def admit(self, certificate: CertificateIdentity) -> None:
        """
        Let a request in.

        :raise CertificateRefused: not with this certificate.
        """
        if refusal := self.refusal_of(certificate):
            name = certificate.value
            self.report("revoked_attempt", node_id_for_certificate(name), {"name": name, "why": refusal})
            raise CertificateRefused(refusal)

    def status(self) -> CheckFigures:
        """What there is to say of them, ready to be JSON."""
        return {"denials": self.denials.count(), "ocsp": self.responders.mode if self.responders else "off"}

    async def ask(self, certificate: CertificateIdentity, chain: Chain) -> None:
        """
        Ask whoever is to be asked; :meth:`refusal_of` knows the answer then.

        :raise osqtwist.ocsp.Unchecked: nobody says, and then it is to be refused for now.
        """
        if self.responders is not None:
            await self.responders.check(certificate, chain)
