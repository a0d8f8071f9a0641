"""Two servers on one Redis, as two hosts behind a balancer are: what one does holds for the other."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stores import valkey
from tests.test_delivery_process import until
from tests.test_twistd import Server, Start, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def hosts(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """With state folders of their own, and what docs/capacity.md says that hosts share."""
    with valkey() as store:
        one, other = (tmp_path_factory.mktemp("h") for _ in range(2))
        redis = ("--port", "ssl:0", "--redis", f"unix:{store.place.path}")
        first = start(*redis, folder=one)
        shutil.copytree(one / "certs", other / "certs")
        (other / "state").mkdir(mode=0o700)
        for name in ("signing-keys", "enroll-secret"):
            shutil.copy2(one / "state" / name, other / "state" / name)
        (other / "state" / "carves").symlink_to(one / "state" / "carves")
        yield first, start(*redis, folder=other)


def enroll(server: Server, name: str) -> str:
    secret = (server.folder / "state" / "enroll-secret").read_text().strip()
    body = {"enroll_secret": secret, "host_identifier": name, "platform_type": "9"}
    return str(server.ask("/enroll", body, node=None)["node_key"])


class Held:
    """A distributed read that is held, in a thread."""

    def __init__(self, server: Server, key: str) -> None:
        self.answer: Any = None
        self.took = 0.0
        self._thread = threading.Thread(target=self._read, args=(server, key))
        self._thread.start()
        until(lambda: server.json("status")["parked_reads"] == 1)

    def _read(self, server: Server, key: str) -> None:
        began = time.monotonic()
        self.answer = server.ask("/distributed/read", {"node_key": key}, node=None)
        self.took = time.monotonic() - began

    def result(self) -> Any:
        self._thread.join(15)
        return self.answer


def test_what_one_host_does_holds_for_the_other(hosts: tuple[Server, Server]) -> None:
    """A key of one is good at the other; a query reaches a read held there; so does a revocation."""
    one, other = hosts
    key = enroll(one, "host-1")
    assert "schedule" in other.ask("/config", {"node_key": key}, node=None)
    held = Held(other, key)
    done = one.osqtwist("query", "issue", "select 1 as a", "--node", "host-1")
    assert done.returncode == 0, done.stderr
    (query_id,) = held.result()["queries"]
    assert held.took < 5
    body = {"node_key": key, "queries": {query_id: [{"a": "1"}]}, "statuses": {query_id: 0}}
    assert one.ask("/distributed/write", body, node=None) == {}
    assert other.json("query", "list")[0]["answered"] == 1
    held = Held(other, key)
    began = time.monotonic()
    one.json("node", "revoke", "host-1")
    assert held.result()["node_invalid"] is True
    assert time.monotonic() - began < 2 + 3  # The command takes its time too.
    assert other.ask("/config", {"node_key": key}, node=None)["node_invalid"] is True


def test_a_carve_goes_over_both(hosts: tuple[Server, Server]) -> None:
    """Its blocks come to whichever host the balancer picks, into one folder."""
    one, other = hosts
    key = enroll(other, "host-1")
    begin = {"block_count": 2, "block_size": 4, "carve_size": 8, "carve_id": "c", "request_id": "r", "node_key": key}
    session = one.ask("/carver/start", begin, node=None)["session_id"]
    for number, (server, data) in enumerate(((other, "YWJjZA=="), (one, "ZWZnaA=="))):
        block = {"block_id": number, "session_id": session, "request_id": "r", "data": data}
        assert server.ask("/carver/continue", block, node=None) in ({}, {"success": True})
    until(lambda: other.json("carve", "list")[0]["sha256"])
    got = other.osqtwist("carve", "get", other.json("carve", "list")[0]["carve"], "-o", "got.tar")
    assert got.returncode == 0, got.stderr
    assert (other.folder / "got.tar").read_bytes() == b"abcdefgh"
