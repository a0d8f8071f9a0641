"""A server with two workers: a node that is revoked is out everywhere, and a clone is seen wherever it comes in."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
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
