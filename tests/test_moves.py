"""Nodes that come from another server with the flagfile that it gave them: docs/moving-nodes.md."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from osqtwist.enrollsecret import parse_enroll_secrets
from tests.documentedcommands import ROOT
from tests.harness import InMemoryServer

# A server for each of many.
pytestmark = pytest.mark.slow

LINES = "/api/v1/logs?from=start&follow=false"
OSCTRL = "/0c1d8a2e-7f7b-4b0e-9f53-0a4f2f2d6c11"


@attrs.frozen
class Origin:
    """
    Where a node comes from: what its flagfile says and how its old server had it.

    :ivar paths: enroll, config, log, distributed read and write, carve start and continue.
    :ivar secret: as the node sends it; :attr:`line` of the secret file stands for it here.
    :ivar old_key: that the old server gave it.
    """

    paths: tuple[str, ...]
    secret: str
    line: str
    tags: tuple[str, ...]
    old_key: str
    prefixes: tuple[str, ...] = ()
    method: str = "POST"
    compresses: bool = False
    has_header: bool = False
    block_size: int = 8192
    secret_name: str = "enroll_secret"


def under(base: str, *words: str) -> tuple[str, ...]:
    """Paths of one server."""
    return tuple(f"{base}/{word}" for word in words)


_PLAIN = ("enroll", "config", "log", "distributed/read", "distributed/write")
ORIGINS = {
    "Fleet": Origin(
        under("/api/osquery", *_PLAIN, "carve/begin", "carve/block"),
        secret="xBcjzRfzdtDrMSJ/CJ7DKj6ULFDBGYi6",
        line="xBcjzRfzdtDrMSJ/CJ7DKj6ULFDBGYi6 team:workstations",
        tags=("team:workstations",),
        old_key="rJuTXxYFPqMDsWQHqnNwGnPX8mA3Yw1B",
        has_header=True,
        block_size=2_000_000,
    ),
    "Fleet, before": Origin(
        under("/api/v1/osquery", *_PLAIN, "carve/begin", "carve/block"),
        secret="old",
        line="old team:servers",
        tags=("team:servers",),
        old_key="IPVV1Rj6ANd6J4ZAnHXY8xBkFAmvbtoL",
    ),
    "osctrl": Origin(
        under(OSCTRL, "enroll", "config", "log", "read", "write", "init", "block"),
        secret="b2e5c5d4a1f0",
        line="b2e5c5d4a1f0 env:prod",
        tags=("env:prod",),
        old_key="4f1cbd3a7c9be2c0b3dbb6d8ee0c9a2a54a1e6b0",
        prefixes=("/5d0a6f3c-9a1e-4f5e-8f0b-6a1f5f3f7e22", OSCTRL),
        compresses=True,
        block_size=5_120_000,
    ),
    "Doorman": Origin(
        under("/v1", *_PLAIN),
        secret="secret:tag1:tag2",
        line="secret:tag1:tag2 tag1 tag2",
        tags=("tag1", "tag2"),
        old_key="81ef4a47-6a5a-4ba8-9d0e-8a1b1b6c7c55",
        method="PUT",
        secret_name="override",
    ),
    "Zentral": Origin(
        under("/public/osquery", *_PLAIN, "carver/start", "carver/continue"),
        secret="uG4zDGR9eZxyVyO1vhZ1nJz0QqkWkHyVYnTn2b0oFv1QLwTpU5PjJX4V3HkV4m0a",
        line="uG4zDGR9eZxyVyO1vhZ1nJz0QqkWkHyVYnTn2b0oFv1QLwTpU5PjJX4V3HkV4m0a configuration:Default",
        tags=("configuration:Default",),
        old_key="tOtFCaTL1ZbQyd5TPQXBmvWzV2kmhyHm",
        prefixes=("/public/osquery",),
    ),
}


@attrs.define
class Node:
    """A node that speaks as the flagfile of its old server has it speak."""

    server: InMemoryServer
    origin: Origin
    key: str

    def say(self, number: int, body: dict[str, Any], packed: bool = False) -> dict[str, Any]:
        """One request; answers with the JSON."""
        headers = {"User-Agent": "osquery/5.12.1", "Content-Type": "application/json"}
        if self.origin.has_header and number:
            headers["Authorization"] = f"NodeKey {self.key}"
        raw = json.dumps(body).encode()
        if packed:
            headers["Content-Encoding"] = "gzip"
            raw = gzip.compress(raw)
        path = self.origin.paths[number]
        answer = self.server.ask(path, raw=raw, headers=headers, method=self.origin.method)[1]
        assert isinstance(answer, dict)
        return answer

    def enroll(self) -> None:
        """As osqueryd does when it was told node_invalid."""
        details = {"system_info": {"hostname": "web-1", "uuid": "u-1", "hardware_serial": "C02"}}
        answer = self.say(
            0,
            {
                self.origin.secret_name: self.origin.secret,
                "host_identifier": "web-1",
                "platform_type": "9",
                "host_details": details,
            },
        )
        self.key = answer["node_key"]


@pytest.fixture(params=ORIGINS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """A node of each origin, whose name in DNS has just moved here."""
    origin = ORIGINS[request.param]
    server = InMemoryServer(tmp_path, route_prefix=origin.prefixes, enroll_secret_name=origin.secret_name, hold=0.0)
    server.secrets.of_file = parse_enroll_secrets(origin.line + "\n")
    yield Node(server, origin, origin.old_key)
    server.stop()


def test_its_old_key_has_it_enroll_again_by_itself(node: Node) -> None:
    """Whatever it asks first with the key of its old server: node_invalid, so that nothing is lost and it enrolls."""
    for number in (1, 2, 3, 4):
        body = {"node_key": node.key, "log_type": "result", "data": [{"name": "x"}], "queries": {}, "statuses": {}}
        answer = node.say(number, body, packed=number == 2 and node.origin.compresses)
        assert answer["node_invalid"] is True
        assert answer["error"]
    assert node.server.operate(LINES)[1] in ([], b"")


def test_it_goes_on_here(node: Node) -> None:
    """With its old secret it has a key and the tags that stand for its team; then all else works under its paths."""
    node.enroll()
    known = node.server.operate("/api/v1/nodes/web-1")[1]
    assert set(node.origin.tags) <= set(known["tags"])
    assert "schedule" in node.say(1, {"node_key": node.key})
    lines = [{"name": "pack/Global/up", "action": "snapshot", "snapshot": [], "hostIdentifier": "web-1"}]
    body = {"node_key": node.key, "log_type": "result", "data": lines}
    assert node.say(2, body, packed=node.origin.compresses) == {}
    found = node.server.operate(LINES)[1]
    assert "pack/Global/up" in json.dumps(found)
    query = node.server.issue("select 1 as one")
    assert node.say(3, {"node_key": node.key})["queries"] == {query.query_id: "select 1 as one"}
    answer = {"queries": {query.query_id: [{"one": "1"}]}, "statuses": {query.query_id: 0}, "node_key": node.key}
    assert node.say(4, answer) == {}
    rows = node.server.operate(f"/api/v1/queries/{query.query_id}/results")[1]
    assert '"one": "1"' in json.dumps(rows)


def test_its_carves_come_here(node: Node) -> None:
    """In blocks of the size in its flagfile; Doorman has none."""
    if len(node.origin.paths) == 5:
        return
    node.enroll()
    size, data = node.origin.block_size, b"x" * (node.origin.block_size + 7)
    body = {"node_key": node.key, "block_count": 2, "block_size": size, "carve_size": len(data)}
    session = node.say(5, body | {"carve_id": "c", "request_id": "r"})["session_id"]
    for number in (0, 1):
        block = base64.b64encode(data[number * size : (number + 1) * size]).decode()
        assert node.say(6, {"session_id": session, "request_id": "r", "block_id": number, "data": block}) == {}
    (found,) = node.server.operate("/api/v1/carves")[1]["carves"]
    assert (found["received_blocks"], found["sha256"]) == (2, hashlib.sha256(data).hexdigest())


def test_the_secret_without_its_tags_is_no_secret(tmp_path: Path) -> None:
    """A line of the file is the secret up to the first blank: Doorman's may have colons in it."""
    secrets = parse_enroll_secrets(ORIGINS["Doorman"].line + "\n")
    assert len(secrets) == 1
    server = InMemoryServer(tmp_path)
    server.secrets.of_file = secrets
    body = {"enroll_secret": "secret", "host_identifier": "h", "host_details": {}}
    assert "node_key" not in server.ask("/v1/enroll", body)[1]
    server.stop()


def test_the_guide_names_the_paths_that_are_tried() -> None:
    """The prefixes and words of docs/moving-nodes.md are those of the nodes here."""
    text = (ROOT / "docs" / "moving-nodes.md").read_text("utf-8")
    assert set(re.findall(r"--route-prefix (/\S+)", text)) >= {*ORIGINS["osctrl"].prefixes, "/public/osquery"}
    row = next(line for line in text.splitlines() if line.startswith("| an environment's `/UUID/enroll`"))
    assert [path.removeprefix(OSCTRL + "/") for path in ORIGINS["osctrl"].paths] == [
        word.removeprefix("/UUID/") for word in re.findall(r"`([^`-]+)`", row)
    ]
    assert ORIGINS["Doorman"].line in text
