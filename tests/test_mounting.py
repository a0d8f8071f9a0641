"""The node API as a part of another application's tree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource

from osqtwist.assembly import body_limits
from osqtwist.mounting import mount_nodes
from osqtwist.passedheaders import TrustedProxy
from osqtwist.settings import BadSetting, Settings
from osqtwist.web.mounted import MountedNodes
from tests.harness import InMemoryServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    """A server whose client goes through a tree in which its API is at /some/where."""
    made = InMemoryServer(tmp_path)
    made.mounted = MountedNodes(  # type: ignore[attr-defined]
        made.api.app().resource(), body_limits(made.settings), frozenset((b"/carver/continue",))
    )
    root, some = Resource(), Resource()
    root.putChild(b"some", some)
    some.putChild(b"where", made.mounted)  # type: ignore[attr-defined]
    made.client = StubTreq(root)
    made.certificate = "node-1"
    yield made
    made.stop()


def opened(server: Any) -> Any:
    server.mounted.is_open = True
    return server.mounted


def test_before_and_after_nodes_keep_what_they_have(server: InMemoryServer) -> None:
    """503 with an error, never an answer that osquery takes for success; on carve blocks that is what is no JSON."""
    line = {"node_key": "", "log_type": "result", "data": [{"a": "1"}]}
    for _ in range(2):
        code, answer = server.ask("/some/where/log", line)
        assert (code, set(answer)) == (503, {"error"})
        code, _, content = server.finish(server.begin("/some/where/carver/continue", {}))
        assert code == 503
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(content)
        assert opened(server)
        assert server.ask("/some/where/log", line) == (200, {})
        opened(server).is_open = False


def test_paths_are_those_below_the_resource(server: InMemoryServer) -> None:
    """Aliases too; what is not a route is an error."""
    opened(server)
    assert server.ask("/some/where/v1/config", {"node_key": ""})[0] == 200
    assert server.ask("/some/where/nonsense", {"node_key": ""}) == (404, {"error": "there is no such route"})
    code, _, _ = server.finish(server.begin("/config", {"node_key": ""}))
    assert code == 404


def test_a_body_over_its_limit_is_refused(server: InMemoryServer) -> None:
    """By the path below the resource, whatever the host lets through."""
    opened(server)
    large = b" " * (2**20) + b'{"node_key": ""}'
    code, _, content = server.finish(server.begin("/some/where/config", raw=large))
    assert (code, set(json.loads(content))) == (413, {"error"})
    assert server.ask("/some/where/log", raw=large) == (200, {})


def test_requests_under_way_are_counted(server: InMemoryServer) -> None:
    """A stop waits for them; a held read is one until it is answered or its node gone."""
    mounted = opened(server)
    for end in ("answered", "gone"):
        asking: Deferred[Any] = server.begin("/some/where/distributed/read", {"node_key": ""})
        asking.addErrback(lambda _: None)
        server.turn()
        assert mounted.under_way == 1
        if end == "answered":
            server.turn(10)
            assert json.loads(server.finish(asking)[2]) == {}
        else:
            asking.cancel()
            server.turn()
        assert mounted.under_way == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"workers": 2}, "--workers 2 is for twistd"),
        ({"role": "delivery", "redis": "redis://localhost"}, "--role delivery is for twistd"),
        ({"trusted_proxy": TrustedProxy(peers=("127.0.0.1",))}, r"\[trusted_proxy\] is for twistd"),
        ({"proxy_protocol": ("127.0.0.1",)}, "--proxy-protocol is for twistd"),
    ],
)
def test_what_needs_a_process_of_its_own_is_refused(settings: dict[str, Any], sentence: str) -> None:
    """Before anything is made."""
    with pytest.raises(BadSetting, match=sentence):
        mount_nodes(None, Settings(**settings))
