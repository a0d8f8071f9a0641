"""
An identity rule: a node is what an extension of its certificate says.

Puppet's CA, for one, puts facts there that the host cannot change: 1.3.6.1.4.1.34380.1.1.1 is pp_uuid.
"""

import msgspec
from cryptography import x509
from zope.interface import implementer

from osqtwist.identityinterfaces import IIdentityRule

UTF8_STRING = 0x0C


class ExtensionSettings(msgspec.Struct, frozen=True, kw_only=True):
    oid: str = "1.3.6.1.4.1.34380.1.1.1"


@implementer(IIdentityRule)
class ExtensionRule:
    kind = "extension"
    settings = ExtensionSettings

    def find(self, certificate, settings):
        oid = x509.ObjectIdentifier(settings.oid)
        try:
            encoded = certificate.extensions.get_extension_for_oid(oid).value.public_bytes()
        except x509.ExtensionNotFound:
            return []
        # DER: what it is, how long it is, then the text; more than 127 bytes are no name.
        if len(encoded) < 2 or encoded[0] != UTF8_STRING or encoded[1] != len(encoded) - 2:
            raise ValueError(f"the extension {settings.oid} is no UTF8String")
        return [encoded[2:].decode("utf-8")]
