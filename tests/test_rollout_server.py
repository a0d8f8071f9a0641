"""A roll-out for real: one twistd, two workers, nodes over TLS, and a restart in the middle."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.test_delivery_process import until
from tests.test_twistd import Server, Start, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NODES = 24


def write(folder: Path, version: int, plan: str) -> None:
    layer = {"options": {"custom_version": version}, "schedule": {"q": {"query": "select 1", "interval": 60}}}
    (folder / "rollout.toml").write_text(plan)
    (folder / "00.conf").write_text(json.dumps(layer))


def enroll(server: Server) -> dict[str, str]:
    """Node keys by name."""
    secret = (server.folder / "state" / "enroll-secret").read_text().split()[0]
    keys = {}
    for number in range(NODES):
        name = f"host-{number}"
        body = {"enroll_secret": secret, "host_identifier": name, "platform_type": "9", "host_details": {}}
        keys[name] = server.ask("/enroll", body, node=None)["node_key"]
    return keys


def versions(server: Server, keys: dict[str, str]) -> dict[str, int]:
    """Which version each node is answered with now; each request comes to some worker."""
    return {
        name: server.ask("/config", {"node_key": key}, node=None)["options"]["custom_version"]
        for name, key in keys.items()
    }


def test_a_rollout_stops_itself_and_survives_a_restart(start: Start, tmp_path: Path) -> None:
    """Canaries on whichever worker say that a query fails: they get the old version back; the next version goes out."""
    folder = tmp_path / "config"
    folder.mkdir()
    write(folder, 1, 'steps = [40]\nwait = "10m"')
    words = ["--port", "ssl:0", "--workers", "2", "--config", str(folder)]
    server = start(*words)
    keys = enroll(server)
    assert set(versions(server, keys).values()) == {1}
    until(lambda: server.json("rollout", "status")["phase"] == "in force")

    write(folder, 2, 'steps = [40]\nwait = "10m"')
    until(lambda: server.json("rollout", "status")["phase"] == "rolling", 15)
    until(lambda: 2 in versions(server, keys).values())
    seen = versions(server, keys)
    canaries = [name for name, version in seen.items() if version == 2]
    assert 2 < len(canaries) < NODES
    assert versions(server, keys) == seen, "whichever worker is asked"
    why = server.json("config", "show", canaries[0])["why"]["version"]
    assert (why["version"], why["canary"]) == (2, True)
    until(lambda: server.json("rollout", "status")["health"]["canaries"] == len(canaries), 10)
    line = {"hostIdentifier": "x", "severity": 2, "message": "Error executing scheduled query q: no such table: y"}
    for name in canaries[:3]:
        data = [line | {"unixTime": int(time.time()) + 1, "n": name}]
        body = {"node_key": keys[name], "log_type": "status", "data": data}
        assert server.ask("/log", body, node=None) == {}
    until(lambda: server.json("rollout", "status")["phase"] == "stopped", 15)
    until(lambda: set(versions(server, keys).values()) == {1}, 5)
    assert "3 of" in server.json("rollout", "status")["last"]["why"]
    assert "version 2: stopped" in server.text()
    assert any(each["action"] == "rollout stopped" for each in server.json("audit", "list"))

    write(folder, 3, 'steps = [30, 100]\nwait = "10s"')
    until(lambda: server.json("rollout", "status")["phase"] == "rolling", 15)
    until(lambda: 3 in versions(server, keys).values())
    seen = versions(server, keys)
    assert set(seen.values()) == {1, 3}
    assert server.json("rollout", "pause")["phase"] == "paused"
    assert server.stop() == 0
    server = start(*words, folder=server.folder)
    assert versions(server, keys) == seen
    assert server.json("rollout", "status")["step"] == 1
    assert server.json("rollout", "resume")["phase"] == "rolling"
    until(lambda: set(versions(server, keys).values()) == {3}, 60)
    until(lambda: server.json("rollout", "status")["phase"] == "in force", 60)
    done = server.osqtwist("rollout", "diff", "1", "3")
    assert (done.returncode, "option custom_version" in done.stdout) == (1, True)
    assert "stopped" in server.osqtwist("rollout", "history").stdout
    assert server.osqtwist("rollout", "show", "1", "--into", "kept").returncode == 0
    assert '"custom_version": 1' in (server.folder / "kept" / "00.conf").read_text()
    assert server.json("rollout", "rollback", "1")["phase"] == "pinned"
    until(lambda: set(versions(server, keys).values()) == {1}, 5)
    assert "Traceback" not in server.text()
