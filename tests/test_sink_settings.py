"""The [sink.NAME] blocks: what they may say, and one sentence that names block and key where they say nonsense."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from zope.interface.verify import verifyObject

from osqtwist.settings import BadSetting, gather
from osqtwist.sinkinterfaces import BadSinkSetting, ISinkKind
from osqtwist.sinks.kinds import OUR_KINDS, kind_named
from osqtwist.sinksettings import DeliveryKeys, read_sinks
from tests.memorysink import MemoryKind


@pytest.mark.parametrize("kind", OUR_KINDS)
def test_every_kind_is_one(kind: str) -> None:
    """It provides the contract under its own name, and its settings have keys of their own."""
    found = kind_named(kind)
    verifyObject(ISinkKind, found)
    assert found.kind == kind
    own = {field.name for field in msgspec.structs.fields(found.settings)}
    shared = {field.name for field in msgspec.structs.fields(DeliveryKeys)}
    from osqtwist.routing import RouteSettings

    assert not own & (shared | {field.name for field in msgspec.structs.fields(RouteSettings)})


def test_a_block_is_read(tmp_path: Any) -> None:
    """Keys of delivery, of routing and of the kind stand side by side."""
    block = {"kind": "file", "path": "x.jsonl", "when": "log_type:result", "sample": 0.5, "lines": 10, "mib": 0.5}
    (plan,) = read_sinks({"archive": block | {"start": "next", "longest_pause": 5}})
    assert plan.name == "archive"
    assert plan.settings.path == "x.jsonl"
    assert plan.route.settings.sample == 0.5
    assert (plan.keys.limits().lines, plan.keys.limits().bytes, plan.keys.start) == (10, 2**19, "next")
    assert plan.keys.limits().longest_pause == 5


@pytest.mark.parametrize(
    ("name", "block", "problem"),
    [
        ("a", {"path": "x"}, r"\[sink\.a\]: kind is missing"),
        ("A b", {"kind": "file"}, r"\[sink\.A b\]: a sink's name"),
        ("a", {"kind": "fil"}, "kind is 'fil'; it must be one of elastic, email, file"),
        ("a", {"kind": "file", "pth": "x"}, "pth is not a key of a file sink, which has .*path"),
        ("a", {"kind": "file", "path": 5}, "path: Expected `str`, got `int`"),
        ("a", {"kind": "file", "path": "x", "when": "nme:x"}, "when: column 1: there is no key 'nme'; there is name"),
        ("a", {"kind": "file", "path": "x", "sample": 2}, "sample is 2"),
        ("a", {"kind": "file", "path": "x", "lines": 0}, "lines is 0; it must be at least 1"),
        ("a", {"kind": "file", "path": "x", "first_pause": 9, "longest_pause": 3}, "longest_pause is 3"),
        ("a", {"kind": "file", "path": "x", "start": "now"}, "start: Invalid enum value 'now'"),
        ("a", "file", "kind is missing"),
    ],
)
def test_nonsense_names_block_and_key(name: str, block: Any, problem: str) -> None:
    """One sentence."""
    with pytest.raises(BadSinkSetting, match=problem) as caught:
        read_sinks({name: block})
    assert "\n" not in str(caught.value)


def test_a_plugin_adds_a_kind() -> None:
    """By the name it gives itself; something else under that name is refused."""
    assert kind_named("memory", [MemoryKind()]).settings.__name__ == "MemorySettings"
    with pytest.raises(BadSinkSetting, match="memory"):
        kind_named("nonsense", [MemoryKind()])

    class Wrong:
        kind = "wrong"

    with pytest.raises(BadSinkSetting, match="not ISinkKind"):
        kind_named("wrong", [Wrong()])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"role": "delivery"}, "--role delivery needs --redis"),
        ({"role": "delivery", "redis": "redis://localhost"}, r"at least one \[sink.NAME\] or \[alert.NAME\] block"),
        ({"role": "worker"}, "--role is 'worker'; it must be one of all, nodes, delivery"),
        ({"durability": "none"}, "--durability is 'none'; it must be one of append, fsync"),
        ({"node_log_kib": "-1"}, "--node-log-kib is -1; it must be at least 0"),
    ],
)
def test_settings_of_delivery(options: dict[str, str], problem: str) -> None:
    """One sentence for each that cannot be."""
    with pytest.raises(BadSetting, match=problem):
        gather(options, {})
