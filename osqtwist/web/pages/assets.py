"""Scripts and styles: read once, and kept by browsers for as long as they stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import attrs

FOLDER = Path(__file__).parent / "static"

_MEDIA = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@attrs.frozen
class Asset:
    """One file."""

    media: str
    content: bytes


@attrs.frozen
class Assets:
    """
    All of them.

    :ivar version: changes with any of them, and is part of each one's path.
    """

    files: Mapping[str, Asset]
    version: str

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Assets:
        """Read them."""
        files = {
            path.name: Asset(_MEDIA[path.suffix], path.read_bytes())
            for path in sorted(folder.iterdir())
            if path.suffix in _MEDIA
        }
        digest = hashlib.sha256(b"\0".join(name.encode() + asset.content for name, asset in files.items()))
        return cls(files, digest.hexdigest()[:12])

    def url(self, name: str) -> str:
        """
        Where a file is.

        :raise KeyError: it is not there.
        """
        self.files[name]
        return f"/static/{self.version}/{name}"
