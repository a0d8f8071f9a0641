"""A server with two workers: a node that is revoked is out everywhere, and a clone is seen wherever it comes in."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.test_delivery_process import until
from tests.test_twistd import Server, Start, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def connect(server: Server, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
    """A connection of the node, from an address."""
    context = ssl.create_default_context(cafile=str(server.folder / "certs" / "ca.pem"))
    context.load_cert_chain(server.folder / "certs" / "node.pem", server.folder / "certs" / "node.key")
    context.check_hostname = False
    return http.client.HTTPSConnection(
        "127.0.0.1", server.port, timeout=20, context=context, source_address=(source, 0)
    )


def read(server: Server, source: str) -> Any:
    """A distributed read, held to its end."""
    with contextlib.closing(connect(server, source)) as connection:
        connection.request("POST", "/distributed/read", json.dumps({"node_key": ""}))
        return json.loads(connection.getresponse().read())


@contextlib.contextmanager
def reading(server: Server, *sources: str) -> Iterator[list[Any]]:
    """One machine at each address, which reads and reads again."""
    is_over = threading.Event()
    answers: list[Any] = []

    def machine(source: str) -> None:
        while not is_over.is_set():
            answers.append(read(server, source))

    threads = [threading.Thread(target=machine, args=[source]) for source in sources]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)


def test_one_certificate_at_two_addresses(start: Start) -> None:
    """Both are served, the clone is reported once, and one machine that comes from two addresses is none."""
    server = start("--port", "ssl:0", "--workers", "2", "--hold", "1")
    for _ in range(4):
        for source in ("127.0.0.1", "127.0.0.2"):
            assert read(server, source) == {}
    assert server.json("node", "clones") == []
    with reading(server, "127.0.0.1", "127.0.0.2") as answers:
        until(lambda: server.json("node", "clones"), 60)
    assert all(answer == {} for answer in answers)
    (clone,) = server.json("node", "clones")
    assert (clone["kind"], clone["name"], clone["parted"]) == ("reads", "node-1.example.com", False)
    assert set(clone["places"]) == {"127.0.0.1", "127.0.0.2"}
    assert server.text().count("clones: two machines") == 1
    assert "not told apart" in server.osqtwist("node", "clones").stdout
    node = server.json("node", "show", "node-1.example.com")
    assert {each["address"] for each in node["addresses"]} == {"127.0.0.1", "127.0.0.2"}


# -- revocation


def held(server: Server) -> http.client.HTTPSConnection:
    """A read that is held."""
    connection = connect(server)
    connection.request("POST", "/distributed/read", json.dumps({"node_key": ""}))
    return connection


def half_sent(server: Server) -> http.client.HTTPSConnection:
    """A log post of which the end has not come: who sends it, only the certificate says."""
    connection = connect(server)
    connection.putrequest("POST", "/log")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b'{"node_key": "", ')
    return connection


def silent(server: Server) -> http.client.HTTPSConnection:
    """A connection that has said nothing yet."""
    connection = connect(server)
    connection.connect()
    return connection


def ended_at(connection: http.client.HTTPSConnection) -> tuple[float, bytes]:
    """When the server closes a connection, and what it says before."""
    said = b""
    with contextlib.closing(connection), contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := connection.sock.recv(65536):
            said += data
    return time.monotonic(), said


@pytest.mark.parametrize("keep", ["no", "yes"])
def test_a_revoked_node_is_out_of_every_connection(start: Start, keep: str) -> None:
    """Within two seconds, on both workers, whatever a connection is at; held reads are told why."""
    server = start("--port", "ssl:0", "--workers", "2", "--keep-connections", keep, "--hold", "6")
    server.ask("/config", {"node_key": ""})
    other = server.ask("/enroll", enrollment(server), node=None)["node_key"]
    kinds = [held, half_sent, silent] * 4
    connections = [kind(server) for kind in kinds]
    strangers = threading.Thread(
        target=lambda: answers.append(server.ask("/distributed/read", {"node_key": other}, None))
    )
    answers: list[Any] = []
    strangers.start()
    until(lambda: server.json("status")["parked_reads"] == 5)
    # Both workers have some, or it would prove nothing of them: by chance they do not once in 4,000 runs.
    until(lambda: all(row["connections"] for row in server.json("worker", "list")))
    ended: list[tuple[float, bytes]] = []
    threads = [threading.Thread(target=lambda each=each: ended.append(ended_at(each))) for each in connections]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    revoke(server, "node-1.example.com")
    for thread in threads:
        thread.join(20)
    assert len(ended) == len(kinds)
    assert max(at for at, _ in ended) - began < 2, [round(at - began, 2) for at, _ in ended]
    assert sum(b'"node_invalid":true' in said for _, said in ended) == 4
    assert not answers
    strangers.join(20)
    assert answers == [{}]
    assert server.ask("/config", {"node_key": ""})["node_invalid"] is True


def enrollment(server: Server) -> dict[str, str]:
    secret = (server.folder / "state" / "enroll-secret").read_text().splitlines()[-1].split()[0]
    return {"enroll_secret": secret, "host_identifier": "stranger"}


def revoke(server: Server, name: str) -> None:
    """As the command does, which takes longer to start."""
    socket = str(server.folder / "state" / "admin.sock")
    words = ["curl", "-sf", "--unix-socket", socket, "-d", "{}", f"http://x/api/v1/nodes/{name}/revoke"]
    subprocess.run(words, check=True, timeout=10, stdout=subprocess.DEVNULL)
