"""Real servers, two workers and two hosts: whoever is denied or revoked is out of every connection within 2 s."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from osqtwist.pki import Authority, development_pki, utc_now
from tests.certificates import DAY
from tests.ocsp_responder import Responder
from tests.stores import valkey
from tests.test_delivery_process import until
from tests.test_nodes_on_workers import ended_at, half_sent, held, silent
from tests.test_twistd import Server, Start, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NODE = "node-1.example.com"


class Own:
    """The development PKI of a folder, with a revocation list."""

    def __init__(self, folder: Path) -> None:
        self.pki = development_pki(folder / "certs")
        self.authority = Authority.load(self.pki.certificate("ca"), self.pki.key("ca"))
        self.node = x509.load_pem_x509_certificate(self.pki.certificate("node").read_bytes())
        self.path = folder / "crl.pem"
        self.revoke()

    def revoke(self, *serials: int) -> None:
        """Write the list, whole or not at all, as one should."""
        text = self.authority.revocation_list(serials, next_update=utc_now() + DAY)
        new = self.path.with_suffix(".new")
        new.write_bytes(text)
        new.replace(self.path)

    @property
    def options(self) -> list[str]:
        """That use it."""
        files = {"cert": self.pki.certificate("server"), "key": self.pki.key("server")}
        files |= {"client-ca": self.pki.certificate("ca"), "client-crl": self.path}
        return [word for name, path in files.items() for word in (f"--{name}", str(path))]


def operate(server: Server, path: str, body: Any) -> Any:
    """As the command does, which takes longer to start."""
    socket = str(server.folder / "state" / "admin.sock")
    words = ["curl", "-s", "--unix-socket", socket, "-d", json.dumps(body), f"http://x/api/v1/{path}"]
    return json.loads(subprocess.run(words, check=True, timeout=10, capture_output=True).stdout)


def by_identity(server: Server, own: Own) -> None:
    operate(server, "denials", {"kind": "identity", "value": "node-1.*"})


def by_serial(server: Server, own: Own) -> None:
    issuer = own.node.issuer.rfc4514_string()
    operate(server, "denials", {"kind": "serial", "value": f"{own.node.serial_number:X}", "issuer": issuer})


def by_fingerprint(server: Server, own: Own) -> None:
    operate(server, "denials", {"kind": "fingerprint", "value": own.node.fingerprint(hashes.SHA256()).hex(":")})


def by_list(server: Server, own: Own) -> None:
    own.revoke(own.node.serial_number)


WAYS: dict[str, Callable[[Server, Own], None]] = {
    "identity": by_identity,
    "serial": by_serial,
    "fingerprint": by_fingerprint,
    "list": by_list,
}


def until_both_have_some(server: Server) -> None:
    """Or it would prove nothing of them."""
    until(lambda: all(row["connections"] for row in server.json("worker", "list")))


@pytest.mark.parametrize("way", WAYS)
def test_two_workers(start: Start, tmp_path_factory: pytest.TempPathFactory, way: str) -> None:
    """Held reads are told, whatever else is open is ended, strangers notice nothing, and nobody comes again."""
    folder = tmp_path_factory.mktemp("s")
    own = Own(folder)
    secret = folder / "secret"
    secret.write_text("open-sesame\n")
    words = ["--port", "ssl:0", "--workers", "2", "--hold", "8", "--enroll-secret-path", str(secret), *own.options]
    server = start(*words, folder=folder)
    server.ask("/config", {"node_key": ""})
    body = {"enroll_secret": "open-sesame", "host_identifier": "stranger"}
    other = server.ask("/enroll", body, node=None)["node_key"]
    kinds = [held, half_sent, silent] * 4
    connections = [kind(server) for kind in kinds]
    answers: list[Any] = []
    stranger = threading.Thread(
        target=lambda: answers.append(server.ask("/distributed/read", {"node_key": other}, node=None))
    )
    stranger.start()
    until(lambda: server.json("status")["parked_reads"] == 5)
    until_both_have_some(server)
    ended: list[tuple[float, bytes]] = []
    threads = [threading.Thread(target=lambda each=each: ended.append(ended_at(each))) for each in connections]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    WAYS[way](server, own)
    for thread in threads:
        thread.join(20)
    assert max(at for at, _ in ended) - began < 2, [round(at - began, 2) for at, _ in ended]
    told = [json.loads(said.partition(b"\r\n\r\n")[2]) for _, said in ended if said]
    # OpenSSL says nothing to whom it refuses, and neither do we then.
    assert len(told) == (0 if way == "list" else 4)
    assert all(set(answer) == {"error"} for answer in told)
    assert not answers
    stranger.join(20)
    assert answers == [{}]
    if way == "list":
        with pytest.raises(OSError):
            server.ask("/config", {"node_key": ""})
    else:
        assert set(server.ask("/config", {"node_key": ""})) == {"error"}
        (row,) = server.json("deny", "list")
        assert server.json("deny", "remove", row["denial_id"])["removed"]
        until(lambda: "schedule" in server.ask("/config", {"node_key": ""}))


def test_two_hosts(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is denied on one is out of the other; after a restart too, and while the store is away."""
    with valkey() as store:
        one, other = (tmp_path_factory.mktemp("h") for _ in range(2))
        Own(one)
        shutil.copytree(one / "certs", other / "certs")
        redis = ("--port", "ssl:0", "--redis", f"unix:{store.place.path}")
        first, second = (start(*redis, folder=folder) for folder in (one, other))
        assert "schedule" in second.ask("/config", {"node_key": ""})
        reads = [held(second) for _ in range(3)]
        until(lambda: second.json("status")["parked_reads"] == 3)
        began = time.monotonic()
        done = first.json("deny", "add", "--identity", NODE, "--reason", "stolen", "--for", "1h")
        took = time.monotonic() - began
        ends = [ended_at(each) for each in reads]
        assert max(at for at, _ in ends) - began < 2 + took
        assert all(b'{"error":' in said and b"node_invalid" not in said for _, said in ends)
        assert (done["kind"], done["value"], done["reason"]) == ("identity", NODE, "stolen")
        assert second.json("status")["denials"] == 1
        second.stop()
        again = start(*redis, folder=other)
        assert set(again.ask("/config", {"node_key": ""})) == {"error"}
        store.kill()
        time.sleep(1.5)
        assert set(again.ask("/config", {"node_key": ""})) == {"error"}
        assert again.osqtwist("deny", "add", "--identity", "x").returncode == 1
        store.start()
        until(lambda: again.osqtwist("deny", "list").returncode == 0)
        assert set(again.ask("/config", {"node_key": ""})) == {"error"}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("s")  # type: ignore[return-value]


@pytest_twisted.async_yield_fixture
async def responder(folder: Path) -> AsyncIterator[Responder]:
    made = Responder(Own(folder).authority)
    made.url = made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest_twisted.ensureDeferred
async def test_a_server_that_asks(start: Start, folder: Path, responder: Responder, mode: str) -> None:
    """Good, revoked, dead: over real TLS with two workers, each of which asks for itself and asks once."""
    own = Own(folder)
    words = ["--port", "ssl:0", "--workers", "2", "--ocsp", mode, "--ocsp-url", responder.url, *own.options]
    (folder / "secret").write_text("open-sesame\n")
    server = await deferToThread(start, *words, "--enroll-secret-path", str(folder / "secret"), folder=folder)

    async def ask(count: int = 1) -> list[Any]:
        found = []
        for _ in range(count):
            found.append(await deferToThread(server.ask, "/config", {"node_key": ""}))  # noqa: PERF401
        return found

    assert all("schedule" in each for each in await ask(12))
    assert 1 <= responder.requests <= 2
    assert (await deferToThread(server.json, "status"))["ocsp"] == mode
    responder.mood = "fails"
    assert all("schedule" in each for each in await ask(4))
    # A certificate of which nobody has said anything.
    fresh = own.authority.issue("node-2.example.com", "node")
    fresh.write(folder / "certs" / "fresh.pem", folder / "certs" / "fresh.key")
    answer = await deferToThread(server.ask, "/config", {"node_key": ""}, "fresh")
    assert ("schedule" in answer) == (mode == "soft")
    assert "node_invalid" not in answer
    responder.mood = "answers"
    stolen = own.authority.issue("node-3.example.com", "node")
    stolen.write(folder / "certs" / "stolen.pem", folder / "certs" / "stolen.key")
    responder.signing.revoked.add(stolen.certificate.serial_number)
    for _ in range(6):
        answer = await deferToThread(server.ask, "/config", {"node_key": ""}, "stolen")
        assert answer == {"error": "this certificate is revoked"}
    assert "is revoked (keyCompromise)" in server.text()


@pytest_twisted.ensureDeferred
async def test_a_held_read_ends_when_the_answer_changes(start: Start, folder: Path, responder: Responder) -> None:
    """As soon as a request of the node has the issuer asked again: also what is open besides is ended then."""
    own = Own(folder)
    (folder / "secret").write_text("open-sesame\n")
    words = ["--port", "ssl:0", "--ocsp", "soft", "--ocsp-url", responder.url, *own.options]
    server = await deferToThread(start, *words, "--enroll-secret-path", str(folder / "secret"), folder=folder)
    responder.signing.next_update = utc_now() + datetime.timedelta(seconds=5)
    connections = [await deferToThread(kind, server) for kind in (held, silent)]
    await deferToThread(until, lambda: server.json("status")["parked_reads"] == 1)
    responder.signing.next_update = None
    responder.signing.revoked.add(own.node.serial_number)
    ends = [deferToThread(ended_at, connection) for connection in connections]
    answers: list[Any] = []
    while "error" not in (answers or [{}])[-1]:
        answers.append(await deferToThread(server.ask, "/config", {"node_key": ""}))
        began = time.monotonic()
    assert len(answers) > 1 and "schedule" in answers[0]
    (read_at, read_said), (silent_at, silent_said) = await gatherResults(ends)
    assert max(read_at, silent_at) - began < 2
    assert b'{"error":"this certificate is revoked"}' in read_said and not silent_said
