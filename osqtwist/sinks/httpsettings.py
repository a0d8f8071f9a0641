"""What sinks over HTTP are told, and the files that it names: credentials, certificates, authorities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import msgspec
from OpenSSL import crypto
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from osqtwist.sinkinterfaces import BadSinkSetting, SinkUnavailable

_REASON_LENGTH = 300
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OUR_HEADERS = {"connection", "content-encoding", "content-length", "content-type", "transfer-encoding"}
_PEM = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of every sink over HTTP.

    :ivar url: where, with ``https://`` or ``http://``.  Its path appears in messages, so secrets have no place in it.
    :ivar token: what goes into the Authorization header; or :attr:`token_file`, which is read anew after each failure.
    :ivar username: for basic authentication, with :attr:`password` or :attr:`password_file`.
    :ivar headers: more headers, by name.
    :ivar ca: PEM file with the authorities to trust; empty for those of the system.
    :ivar cert: PEM file with a client certificate, and what is between it and its CA; needs :attr:`key`.
    :ivar timeout: seconds that one delivery may take.
    :ivar gzip: whether requests are compressed.
    """

    url: str = ""
    token: str = ""
    token_file: str = ""
    username: str = ""
    password: str = ""
    password_file: str = ""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    ca: str = ""
    cert: str = ""
    key: str = ""
    timeout: float = 30.0
    gzip: bool = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place!r})"

    @property
    def place(self) -> str:
        """The URL as messages say it: without what may be secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def check(self) -> None:
        """
        See whether the keys can work together.

        :raise BadSinkSetting: they cannot.
        """
        self._check_url()
        self._check_credentials()
        if not 0.1 <= self.timeout <= 3600:
            raise BadSinkSetting(f"timeout is {self.timeout:g}; it must be from 0.1 to 3600 seconds")
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name) or name.lower() in _OUR_HEADERS or not is_plain(value):
                raise BadSinkSetting(f"headers has {name!r}, which cannot be set or has a value that cannot be sent")

    def _check_url(self) -> None:
        if not self.url:
            raise BadSinkSetting('url is missing, as in url = "https://logs.example.com/"')
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            raise BadSinkSetting("url is not a URL") from None
        if not usable or parts.fragment or re.search(r"[\x00-\x20\x7f]", self.url):
            raise BadSinkSetting(f"url is {self.place!r}; it must be https://HOST/PATH or http://HOST/PATH")
        if "@" in parts.netloc:
            raise BadSinkSetting("url has a user in it; username and password are keys of their own")
        if (self.ca or self.cert) and parts.scheme != "https":
            raise BadSinkSetting(f"{'ca' if self.ca else 'cert'} has no use for a url that is not https://")

    def _check_credentials(self) -> None:
        for one, other in (("token", "token_file"), ("password", "password_file")):
            if getattr(self, one) and getattr(self, other):
                raise BadSinkSetting(f"{one} and {other} are both there; one must go")
        has_token, has_password = bool(self.token or self.token_file), bool(self.password or self.password_file)
        if has_token and (self.username or has_password):
            raise BadSinkSetting("token and username are both there; one must go")
        if bool(self.username) != has_password:
            raise BadSinkSetting("username and password (or password_file) go together; one is missing")
        if bool(self.cert) != bool(self.key):
            raise BadSinkSetting("cert and key go together; one is missing")


@implementer(IPolicyForHTTPS)
@attrs.frozen
class VerifiedTLS:
    """Verifies servers, and shows them a client certificate if there is one."""

    trust: Any
    credential: Mapping[str, Any]

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        """TLS for a connection to a host."""
        name = hostname.decode("ascii")
        return optionsForClientTLS(name, trustRoot=self.trust, extraCertificateOptions=dict(self.credential))


def one_line(text: str) -> str:
    """As much of a text as is good in a message, on one line."""
    return "".join(each if each.isprintable() else " " for each in " ".join(text.split()))[:_REASON_LENGTH]


def is_plain(value: str) -> bool:
    """Whether a header may have this value."""
    return value.isprintable() and value.isascii()


def secret_in(key: str, path: str) -> str:
    """
    The secret that a file holds; nothing if no file is named.

    :raise SinkUnavailable: it cannot be read, or is empty.
    """
    if not path:
        return ""
    try:
        found = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise _unusable(key, path, problem) from None
    if not found:
        raise SinkUnavailable(f"{key} {path} is empty")
    return found


def trust_of(path: str) -> Any:
    """What to trust: the authorities in a file, or the system's."""
    if not path:
        return platformTrust()
    try:
        found = _PEM.findall(Path(path).read_bytes())
        if not found:
            raise ValueError("there is no certificate in it")
        return trustRootFromCertificates([Certificate.loadPEM(each) for each in found])
    except (OSError, ValueError, crypto.Error) as problem:
        raise _unusable("ca", path, problem) from None


def credential_of(settings: HttpSettings) -> dict[str, Any]:
    """The client's certificate, key and chain, as Twisted's CertificateOptions takes them."""
    if not settings.cert:
        return {}
    try:
        found = _PEM.findall(Path(settings.cert).read_bytes())
        chain = [crypto.load_certificate(crypto.FILETYPE_PEM, each) for each in found]
        if not chain:
            raise ValueError("there is no certificate in it")
    except (OSError, ValueError, crypto.Error) as problem:
        raise _unusable("cert", settings.cert, problem) from None
    try:
        # Without a passphrase to give, OpenSSL would ask for one at the terminal.
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, Path(settings.key).read_bytes(), b"")
    except (OSError, ValueError, crypto.Error) as problem:
        raise _unusable("key", settings.key, problem) from None
    if key.to_cryptography_key().public_key() != chain[0].get_pubkey().to_cryptography_key():  # type: ignore[union-attr]
        raise SinkUnavailable(f"key {settings.key} is not the key of cert {settings.cert}")
    return {"privateKey": key, "certificate": chain[0], "extraCertChain": chain[1:]}


def _unusable(key: str, path: str, problem: Exception) -> SinkUnavailable:
    why = problem.strerror if isinstance(problem, OSError) else "" if isinstance(problem, crypto.Error) else problem
    return SinkUnavailable(f"{key} {path} cannot be used: {one_line(str(why or 'it is not such a file in PEM'))}")
