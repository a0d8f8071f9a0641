"""
The certificate of a node in the headers of a proxy that ends TLS: Envoy's, those that nginx and HAProxy are given by
their users, Amazon's.

Exactly one family of headers counts, the one that the settings name: a proxy that sets one of them lets the others
through, and then they are the node's own words.  Whatever is ambiguous is refused rather than guessed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Literal
from urllib.parse import unquote

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

HeaderFamily = Literal["ssl-client", "xfcc", "amzn-mtls", "none"]

VERIFY, CERT = "X-SSL-Client-Verify", "X-SSL-Client-Cert"
XFCC = "X-Forwarded-Client-Cert"
LEAF, UNVERIFIED = "X-Amzn-Mtls-Clientcert-Leaf", "X-Amzn-Mtls-Clientcert"
_ALL = (VERIFY, CERT, "X-SSL-Client-S-DN", XFCC, LEAF, UNVERIFIED)

Headers = Callable[[str], Sequence[str]]
"""Every value of a header, by its name."""


class BadPassedHeaders(Exception):
    """What headers say of a certificate cannot be believed; the text says why."""


class TrustedProxy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    ``[trusted_proxy]`` of the settings: who ends TLS before us, and how it says who the node is.

    :ivar peers: addresses and networks of proxies; ``unix`` for whoever can open a ``unix:`` port.
    :ivar headers: ``ssl-client`` (``X-SSL-Client-Verify`` and ``X-SSL-Client-Cert``), ``xfcc``
        (``X-Forwarded-Client-Cert``), ``amzn-mtls`` (``X-Amzn-Mtls-Clientcert-Leaf``) or ``none`` (nodes have
        keys only).
    :ivar address: the header whose last element is the node's address, where the PROXY protocol has not said it.
    """

    peers: tuple[str, ...]
    headers: HeaderFamily = "ssl-client"
    address: str = "X-Forwarded-For"


def names_a_certificate(headers: Headers) -> str:
    """The first header there is that a proxy would name a certificate with; empty if there is none."""
    return next((name for name in _ALL if headers(name)), "")


def certificate_in(family: HeaderFamily, headers: Headers) -> x509.Certificate | None:
    """
    The certificate that a proxy passes; nothing if it says that the node has shown none.

    :raise BadPassedHeaders: it cannot be believed.
    """
    if family == "ssl-client":
        return _of_ssl_client(headers)
    if family == "xfcc":
        return _of_xfcc(headers)
    return _of_amazon(headers) if family == "amzn-mtls" else None


def last_address(name: str, headers: Headers) -> str:
    """The last address of a header such as ``X-Forwarded-For``, which is the one that our proxy has seen itself."""
    values = headers(name)
    last = values[-1].rpartition(",")[2].strip() if values else ""
    # [2001:db8::1]:4711 and 192.0.2.1:4711 are written too.
    if last.startswith("["):
        return last[1:].partition("]")[0]
    return last.partition(":")[0] if last.count(":") == 1 else last


def _single(name: str, headers: Headers) -> str:
    values = headers(name)
    if len(values) > 1:
        raise BadPassedHeaders(f"{name} is there {len(values)} times")
    return values[0].strip() if values else ""


def _of_ssl_client(headers: Headers) -> x509.Certificate | None:
    verify, cert = _single(VERIFY, headers), _single(CERT, headers)
    if not verify:
        raise BadPassedHeaders(f"the proxy does not say {VERIFY}")
    # nginx says NONE; HAProxy's ssl_c_verify is 0 of a node without a certificate too.
    if verify == "NONE":
        if cert:
            raise BadPassedHeaders(f"{VERIFY} is NONE, and yet there is {CERT}")
        return None
    if verify not in ("SUCCESS", "0"):
        raise BadPassedHeaders(f"{VERIFY} is {verify[:60]!r}")
    if not cert:
        if verify == "0":
            return None
        raise BadPassedHeaders(f"{VERIFY} is SUCCESS, but there is no {CERT}")
    return _certificate(CERT, cert)


def _of_xfcc(headers: Headers) -> x509.Certificate | None:
    value = _single(XFCC, headers)
    if not value:
        return None
    fields: dict[str, str] = {}
    for name, text in _elements(value):
        if name in ("cert", "hash"):
            if name in fields:
                raise BadPassedHeaders(f"{XFCC} has {name} twice")
            fields[name] = text
    if "cert" not in fields:
        raise BadPassedHeaders(f"{XFCC} has no Cert: the proxy must pass the whole certificate")
    certificate = _certificate(XFCC, fields["cert"])
    if "hash" in fields and fields["hash"].lower() != _fingerprint(certificate):
        raise BadPassedHeaders(f"the Hash of {XFCC} is not that of its Cert")
    return certificate


def _elements(value: str) -> list[tuple[str, str]]:
    """Names in lower case and values of an XFCC header of one hop."""
    found, name, text, is_quoted = [], "", "", False
    for letter in value:
        if is_quoted:
            if letter == '"' and not text.endswith("\\"):
                is_quoted = False
            else:
                text = text[:-1] + letter if letter == '"' else text + letter
        elif letter == '"':
            is_quoted = True
        elif letter == ",":
            raise BadPassedHeaders(f"{XFCC} is of several hops: the proxy must set it, not append to it")
        elif letter == "=" and not name:
            name, text = text.strip().lower(), ""
        elif letter == ";":
            found.append((name, text))
            name, text = "", ""
        else:
            text += letter
    if is_quoted:
        raise BadPassedHeaders(f"{XFCC} ends within quotes")
    return [*found, (name, text)]


def _of_amazon(headers: Headers) -> x509.Certificate | None:
    leaf = _single(LEAF, headers)
    if headers(UNVERIFIED):
        raise BadPassedHeaders(f"{UNVERIFIED} is of a load balancer that passes certificates through unverified")
    return _certificate(LEAF, leaf) if leaf else None


def _certificate(name: str, text: str) -> x509.Certificate:
    """From PEM that is escaped as in a URL, or from base64 of DER."""
    try:
        if text.startswith("-----BEGIN"):
            found = x509.load_pem_x509_certificates(unquote(text, errors="strict").encode("ascii"))
            if len(found) != 1:
                raise BadPassedHeaders(f"{name} holds {len(found)} certificates")
            certificate = found[0]
        else:
            certificate = x509.load_der_x509_certificate(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error, x509.InvalidVersion):
        raise BadPassedHeaders(f"{name} is no certificate that can be read") from None
    return certificate


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()
