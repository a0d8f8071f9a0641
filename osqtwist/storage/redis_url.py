"""Where Redis is: URLs, and a look at the server before anything else starts."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
from OpenSSL import crypto
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import (
    Certificate,
    KeyPair,
    PrivateCertificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage.redis_connection import Login, without_arguments
from osqtwist.storage.redis_durability import check_durability

_TIMEOUT = 5.0
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class BadRedisURL(ValueError):
    """A ``--redis`` URL cannot be understood; one sentence, without the password."""


@attrs.frozen
class RedisPlace:
    """
    What a URL says.

    :ivar hosts: host and port of the server, or of each sentinel; empty for a socket path.
    :ivar master: the name that sentinels know the master by, or nothing.
    :ivar ca: CA certificates for ``rediss``; empty for the system's.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    login: Login
    master: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    def __str__(self) -> str:
        where = self.path or ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.kind}:{'//' if self.hosts else ''}{where}" + (f"/{self.master}" if self.master else "")

    @property
    def name(self) -> str:
        """What the server is known by among others: no credentials, and sentinels in whatever order."""
        text = str(attrs.evolve(self, hosts=tuple(sorted(self.hosts))))
        return f"{text} db {self.login.database}" if self.login.database else text


def parse_redis_url(text: str) -> RedisPlace:
    """
    Understand ``redis://[USER:PASSWORD@]HOST[:PORT][/DB]``, ``rediss://`` (with ``?ca=FILE&cert=FILE&key=FILE``),
    ``unix:/PATH[?db=N]`` or ``sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT]/MASTER[/DB]``.

    :raise BadRedisURL: it is none of these.
    """
    try:
        parts = urlsplit(text)
        query = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    except ValueError:
        raise BadRedisURL("--redis is not a URL") from None
    allowed = {"rediss": {"ca", "cert", "key", "db"}}.get(parts.scheme, {"db"})
    paths = {"ca", "cert", "key"} & allowed
    astray = [parts.path, parts.fragment, *(each for name in set(query) - paths for each in (name, query[name]))]
    if parts.scheme != "unix" and "@" in "".join(astray):
        # Part of a password, most likely: nothing of it must be repeated.
        raise BadRedisURL("--redis: /, ? and # in a password must be written as %2F, %3F and %23")
    if unknown := sorted(set(query) - allowed):
        raise BadRedisURL(f"--redis: {unknown[0]!r} is not understood in a {parts.scheme or 'nameless'} URL")
    path = [part for part in parts.path.split("/") if part]
    if parts.scheme == "unix":
        if not parts.path.startswith("/") or parts.netloc:
            raise BadRedisURL("--redis: unix: needs an absolute path, as in unix:/run/valkey.sock")
        return RedisPlace("unix", (), unquote(parts.path), Login(database=_database(query.get("db", "0"))))
    if parts.scheme not in ("redis", "rediss", "sentinel"):
        raise BadRedisURL("--redis must begin with redis://, rediss://, unix: or sentinel://")
    user, _, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    if user and not password:
        raise BadRedisURL("--redis: there is a user and no password; write :PASSWORD@ for a password alone")
    master = path.pop(0) if parts.scheme == "sentinel" and path else ""
    if parts.scheme == "sentinel" and not master:
        raise BadRedisURL("--redis: sentinel:// needs the name of the master, as in sentinel://HOST:26379/mymaster")
    if len(path) > 1:
        raise BadRedisURL(f"--redis: /{'/'.join(path)} is not a database number")
    return RedisPlace(
        parts.scheme,
        tuple(_host(each, 26379 if parts.scheme == "sentinel" else 6379) for each in hosts.split(",")),
        "",
        Login(unquote(name), unquote(password), _database(path[0] if path else query.get("db", "0"))),
        master,
        query.get("ca", ""),
        query.get("cert", ""),
        query.get("key", ""),
    )


def _database(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise BadRedisURL(f"--redis: {text!r} is not a database number")
    return int(text)


def _host(text: str, default: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, str(default)
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        # Not repeated: without its "@HOST" a password looks like a host or a port.
        raise BadRedisURL("--redis: each server must be written as HOST or HOST:PORT")
    return host.strip("[]"), int(port)


def endpoint_to(reactor: Any, place: RedisPlace, host: str = "", port: int = 0) -> IStreamClientEndpoint:
    """How to reach the server, or the one named instead of it."""
    if place.kind == "unix":
        return UNIXClientEndpoint(reactor, place.path, timeout=_TIMEOUT)
    if not host:
        host, port = place.hosts[0]
    endpoint = HostnameEndpoint(reactor, host, port, timeout=_TIMEOUT)
    return wrapClientTLS(_tls(place, host), endpoint) if place.kind == "rediss" else endpoint


def _tls(place: RedisPlace, host: str) -> Any:
    trust: Any = platformTrust()
    if place.ca:
        # loadPEM() reads the first certificate only.
        found = _CERTIFICATE.findall(Path(place.ca).read_bytes())
        trust = trustRootFromCertificates([Certificate.loadPEM(each) for each in found])
    mine = None
    if place.cert:
        pair = Path(place.key or place.cert).read_bytes()
        mine = PrivateCertificate.fromCertificateAndKeyPair(
            Certificate.loadPEM(Path(place.cert).read_bytes()), KeyPair.load(pair, crypto.FILETYPE_PEM)
        )
    return optionsForClientTLS(host, trustRoot=trust, clientCertificate=mine)


def check_redis(place: RedisPlace, durability: str = "append") -> list[str]:
    """
    See, before the reactor runs, that the server answers; answers with what an operator should know of it.

    :param durability: see :mod:`osqtwist.storage.redis_durability`; with sentinels it shows only at work.

    :raise StoreUnavailable: it does not answer; one sentence.
    :raise NotDurable: it cannot give the durability; one sentence.
    """
    for name in (place.ca, place.cert, place.key):
        if name and not Path(name).is_file():
            raise StoreUnavailable(f"--redis: there is no file {name}")
    try:
        with BlockingRedis.to(place) as talk:
            if place.kind != "sentinel":
                talk.sign_in(place.login)
            talk.ask("PING")
            if place.kind == "sentinel":
                if not talk.ask("SENTINEL", "get-master-addr-by-name", place.master):
                    raise StoreUnavailable(f"--redis {place}: the sentinels know no master {place.master!r}")
                return []
            check_durability(durability, talk.ask)
            with contextlib.suppress(RedisRefused, IndexError):
                # CONFIG GET would say it too, and passwords as well: nobody should need that right.
                facts = talk.ask("INFO", "memory").decode("utf-8", "replace")
                found = facts.partition("maxmemory_policy:")[2].split(maxsplit=1)[0]
                if found != "noeviction":
                    return [f"Redis evicts keys when it is full (maxmemory-policy {found}); set it to noeviction"]
            return []
    except (OSError, ValueError, RedisRefused) as problem:
        raise StoreUnavailable(f"--redis {place}: {getattr(problem, 'strerror', None) or problem}") from None


class RedisRefused(Exception):
    """Redis answered with an error."""


class BlockingRedis:
    """As much of a Redis client as is needed where no reactor runs."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rwb")

    @classmethod
    @contextlib.contextmanager
    def to(cls, place: RedisPlace) -> Iterator[BlockingRedis]:
        """A connection, for as long as the context lasts; it has not signed in."""
        with contextlib.ExitStack() as stack:
            if place.kind == "unix":
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.settimeout(_TIMEOUT)
                connection.connect(place.path)
            else:
                connection = stack.enter_context(_first(place.hosts))
            if place.kind == "rediss":
                context = ssl.create_default_context(cafile=place.ca or None)
                if place.cert:
                    context.load_cert_chain(place.cert, place.key or None)
                connection = stack.enter_context(context.wrap_socket(connection, server_hostname=place.hosts[0][0]))
            talk = cls(connection)
            stack.enter_context(contextlib.closing(talk._stream))
            yield talk

    def sign_in(self, login: Login) -> None:
        """
        Say who we are, and choose the database.

        :raise RedisRefused: the server does not want us.
        """
        if login.password:
            self.ask("AUTH", *([login.username] if login.username else []), login.password)
        if login.database:
            self.ask("SELECT", str(login.database))

    def ask(self, *words: str | bytes) -> Any:
        """
        What the server answers to a command: bytes, ``None``, or a list of those.

        :raise RedisRefused: an error.
        """
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = word if isinstance(word, bytes) else word.encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self._stream.write(b"".join(parts))
        self._stream.flush()
        return self._reply()

    def _reply(self) -> Any:
        line = self._stream.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RedisRefused(without_arguments(rest.decode("utf-8", "replace")))
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._stream.read(size + 2)[:-2]
        if kind == b"*":
            return None if int(rest) < 0 else [self._reply() for _ in range(int(rest))]
        if kind not in (b"+", b":"):
            raise RedisRefused("what answers there is not Redis")
        return rest


def _first(hosts: tuple[tuple[str, int], ...]) -> socket.socket:
    trouble: OSError | None = None
    for host in hosts:
        try:
            return socket.create_connection(host, _TIMEOUT)
        except OSError as problem:
            trouble = problem
    raise trouble or OSError("no host is named")
