"""Certificates for tests, minted on the spot."""

from __future__ import annotations

import datetime
from pathlib import Path

import attrs
from cryptography.x509.oid import NameOID

from osqtwist.pki import Authority, Credential

DAY = datetime.timedelta(days=1)


@attrs.define
class TestPKI:
    """
    A CA with everything that a TLS matrix needs, and a CA that nobody trusts.

    :ivar nodes: ``good``, ``second``, ``other CA``, ``expired``, ``revoked``, ``wrong key usage``.
    """

    __test__ = False

    folder: Path
    authority: Authority
    other: Authority
    nodes: dict[str, Credential]
    server: Credential

    @classmethod
    def mint(cls, folder: Path, kind: str = "P-256") -> TestPKI:
        """Make it all in a folder."""
        now = datetime.datetime.now(datetime.UTC)
        authority, other = Authority.create("test CA", kind), Authority.create("other CA", kind)
        long_ago = {"not_before": now - 30 * DAY, "not_after": now - DAY}
        nodes = {
            "good": authority.issue("node-1", "node", kind=kind, attributes=[(NameOID.ORGANIZATION_NAME, "Example")]),
            "second": authority.issue("node-2", "node", kind=kind),
            "other CA": other.issue("node-1", "node", kind=kind),
            "expired": authority.issue("node-1", "node", kind=kind, **long_ago),
            "revoked": authority.issue("node-3", "node", kind=kind),
            "wrong key usage": authority.issue("node-1", "server", kind=kind),
        }
        server = authority.issue("localhost", "server", dns=["localhost"], addresses=["127.0.0.1", "::1"], kind=kind)
        pki = cls(folder, authority, other, nodes, server)
        pki.write("ca", authority.credential)
        pki.write("other-ca", other.credential)
        pki.write("server", server)
        for name, credential in nodes.items():
            pki.write(name.replace(" ", "-"), credential)
        pki.revoke("revoked")
        return pki

    def write(self, name: str, credential: Credential) -> None:
        """Put a credential into the folder."""
        credential.write(self.path(f"{name}.pem"), self.path(f"{name}.key"))

    def revoke(self, *names: str, next_update: datetime.datetime | None = None) -> None:
        """Write a revocation list with these nodes."""
        serials = [self.nodes[name].certificate.serial_number for name in names]
        past = datetime.datetime.now(datetime.UTC) - 10 * DAY
        text = self.authority.revocation_list(serials, next_update=next_update, last_update=past)
        self.path("crl.pem").write_bytes(text)

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name

    def files_of(self, node: str) -> tuple[str, str]:
        """Certificate and key file of a node."""
        name = node.replace(" ", "-")
        return str(self.path(f"{name}.pem")), str(self.path(f"{name}.key"))
