"""
The contract of identity rules that come from plug-ins.

A plug-in package adds a kind of rule with a module in ``twisted/plugins`` that has an object providing
:class:`IIdentityRule`; ``[[identity]]`` blocks of the settings file name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography.x509 import Certificate
from zope.interface import Attribute, Interface


class BadIdentityRule(ValueError):
    """An ``[[identity]]`` block cannot be used; one sentence that names the kind and the key."""


class IIdentityRule(Interface):
    """
    A kind of identity rule; plug-ins provide it together with ``twisted.plugin.IPlugin``.

    The rest of a block (issuer, pattern, namespace) is the server's business, and so is what may be an identity at all:
    at most 255 letters, printable, without blanks at an end.
    """

    kind = Attribute("the word after ``kind =`` in an identity block")
    settings = Attribute("a msgspec.Struct class, keyword-only and with defaults, for the block's key ``settings``")

    def find(certificate: Certificate, settings: Any) -> Sequence[str]:
        """
        Every identity that a certificate gives: none, and the next rule is asked; several, and it is refused.

        The certificate was verified in the handshake.  This must be a pure and quick function of it: it is called in
        the reactor, and what it says of a certificate is kept for as long as the process runs.  Whatever it raises
        refuses the certificate, until the node comes again.

        :param settings: as :attr:`settings` says.
        """
