"""The Fleet page and a node's page, rendered in memory: what they cost the store, and what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from osqtwist.history import Sampling
from tests.harness import InMemoryServer
from tests.test_signing_in import Door

# A server for each, with many nodes.
pytestmark = pytest.mark.slow


def calls_for(path: str, nodes: int, folder: Path) -> list[str]:
    """What a page asks the store, of so many nodes."""
    server = InMemoryServer(folder)
    for number in range(nodes):
        server.enroll(f"host-{number}")
    server.turn(3)
    door = Door(server)
    door.sign_in()
    for outage in server.outages.values():
        outage.calls.clear()
    assert door.ask("GET", path)[0] == 200
    found = [f"{name}.{call}" for name, outage in server.outages.items() for call in outage.calls]
    server.stop()
    return found


def test_the_fleet_page_costs_the_same_for_any_fleet(tmp_path: Path) -> None:
    """It asks indexes and sums; of nodes it reads those five whose certificates end first."""
    few, many = (calls_for("/", count, tmp_path) for count in (2, 60))
    assert few == many
    assert sum("get_many" in call for call in many) <= 2


def test_what_needs_a_look_is_said(tmp_path: Path) -> None:
    """And led to; when nothing does, that is said."""
    server = InMemoryServer(tmp_path, approve_nodes="*")
    door = Door(server)
    door.sign_in()
    text = door.ask("GET", "/")[2]
    assert "Nothing needs a look" in text
    assert "the first point comes within half a minute" in text
    server.ask("/enroll", {"enroll_secret": "open-sesame", "host_identifier": "host-1", "platform_type": "9"})
    sampling = Sampling(server.reactor, server.stores, server.inventory, server.sinks, "me")
    sampling.startService()
    server.turn(10)
    server.turn(10)
    text = door.ask("GET", "/")[2]
    assert 'href="/credentials"' in text
    assert "Nodes that wait for approval: 1." in text
    assert 'aria-label="Nodes. online: 0 now, from 0 to 0' in text
    sampling.stopService()
    server.stop()


@pytest.mark.parametrize("hostile", ['"><script>alert(1)</script>', "{{ 7 * 7 }}", "\udc80", "a\x00b", "../../etc"])
def test_what_a_node_says_stays_text_on_its_page(hostile: str, tmp_path: Path) -> None:
    """Its host identifier, its details, its log lines."""
    server = InMemoryServer(tmp_path)
    said = hostile.encode("utf-8", "replace").decode()
    key = server.enroll(said)
    server.ask("/log", {"node_key": key, "log_type": "status", "data": [{"severity": "2", "message": said}]})
    server.turn(3)
    door = Door(server)
    door.sign_in()
    (node,) = server.operate("/api/v1/nodes")[1]["nodes"]
    code, _, text = door.ask("GET", f"/nodes/{node['node']}")
    assert code == 200, text
    assert "<script>alert" not in text and ">49<" not in text
    assert "error" in text
    server.stop()
