"""Redis over TLS: our Valkey has none, so a forwarder in front of it does that part."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyFactory

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import RedisPlace, check_redis, parse_redis_url
from tests.certificates import TestPKI
from tests.stores import RealValkey, valkey
from tests.test_storage import NODE, a_node

pytestmark = [
    pytest.mark.slow,
    # Twisted hands pyOpenSSL its own objects.
    pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("redis-tls"))


@pytest.fixture(scope="module")
def server() -> Iterator[RealValkey]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with valkey("--bind", "127.0.0.1", "--port", str(port)) as running:
        yield running


@pytest_twisted.async_yield_fixture
async def place(server: RealValkey, pki: TestPKI) -> AsyncIterator[RedisPlace]:
    """Valkey behind TLS that asks for a certificate of the test CA."""
    own = PrivateCertificate.loadPEM(pki.path("server.pem").read_bytes() + pki.path("server.key").read_bytes())
    context = own.options(Certificate.loadPEM(pki.path("ca.pem").read_bytes()))
    factory = ProxyFactory("127.0.0.1", int(server.ask("CONFIG", "GET", "port")[1]))
    factory.noisy = False
    port = reactor.listenSSL(0, factory, context, interface="127.0.0.1")  # type: ignore[attr-defined]
    certificate, key = pki.files_of("good")
    ca = str(pki.path("ca.pem"))
    yield RedisPlace("rediss", (("127.0.0.1", port.getHost().port),), "", Login(), "", ca, certificate, key)
    await port.stopListening()


async def works(server: RealValkey, place: RedisPlace) -> None:
    """Both ways to the server go through."""
    await deferToThread(check_redis, place)
    stores = server.stores(reactor, place)
    await stores.ready()
    await stores.nodes.record(a_node())
    assert await stores.nodes.get(NODE) == a_node()
    await stores.close()


async def fails(server: RealValkey, place: RedisPlace) -> None:
    """Neither way does, with a sentence."""
    with pytest.raises(StoreUnavailable, match="--redis rediss:"):
        await deferToThread(check_redis, place)
    stores = server.stores(reactor, place, ready_within=0.5)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await stores.ready()
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_tls_both_ways(server: RealValkey, place: RedisPlace, pki: TestPKI, tmp_path: Path) -> None:
    """With a CA and a certificate; certificate and key may be one file; the URL can say it all."""
    await works(server, place)
    together = tmp_path / "both.pem"
    together.write_bytes(Path(place.cert).read_bytes() + Path(place.key).read_bytes())
    await works(server, attrs.evolve(place, cert=str(together), key=""))
    (_, port) = place.hosts[0]
    await works(server, parse_redis_url(f"rediss://127.0.0.1:{port}?ca={place.ca}&cert={together}"))


@pytest_twisted.ensureDeferred
async def test_every_ca_of_the_file_is_trusted(
    server: RealValkey, place: RedisPlace, pki: TestPKI, tmp_path: Path
) -> None:
    """A file with an old CA before the new one is as good as the new one alone."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(pki.path("other-ca.pem").read_bytes() + pki.path("ca.pem").read_bytes())
    await works(server, attrs.evolve(place, ca=str(bundle)))


@pytest_twisted.ensureDeferred
async def test_the_server_must_be_the_one_named(server: RealValkey, place: RedisPlace, pki: TestPKI) -> None:
    """A CA that did not sign it, and the system's CAs, do not do."""
    await fails(server, attrs.evolve(place, ca=str(pki.path("other-ca.pem"))))
    await fails(server, attrs.evolve(place, ca=""))


@pytest_twisted.ensureDeferred
async def test_another_name_than_the_certificate_has_is_refused(
    server: RealValkey, place: RedisPlace, pki: TestPKI, tmp_path: Path
) -> None:
    """A certificate of the right CA for another host does not do."""
    pki.write("elsewhere", pki.authority.issue("elsewhere", "server", dns=["elsewhere.example"]))
    own = PrivateCertificate.loadPEM(pki.path("elsewhere.pem").read_bytes() + pki.path("elsewhere.key").read_bytes())
    factory: Any = ProxyFactory("127.0.0.1", int(server.ask("CONFIG", "GET", "port")[1]))
    factory.noisy = False
    port = reactor.listenSSL(0, factory, own.options(), interface="127.0.0.1")  # type: ignore[attr-defined]
    await fails(server, attrs.evolve(place, hosts=(("127.0.0.1", port.getHost().port),)))
    await port.stopListening()
