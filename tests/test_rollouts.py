"""Roll-outs of the configuration: plans, versions, who gets what, when it stops, and what operators do."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor

from osqtwist.canaryhealth import Health, ProblemCount, StatusLine, news, trouble_of, troubles, verdict
from osqtwist.confdiff import Folder
from osqtwist.configfiles import read_content, unpacked
from osqtwist.configfolder import FilesOnDisk, check_folder
from osqtwist.layers import BadConfiguration, Layer
from osqtwist.rollout import BadRollout, HistoryEntry, Rollout, VersionInfo, VersionRef, first
from osqtwist.rolloutinterfaces import MOST_ENTRIES, MOST_NAMES, MOST_PROBLEMS, MOST_VERSIONS, NodeTrouble
from osqtwist.rolloutplan import Limits, Plan, parse_plan
from osqtwist.storage.memory import MemoryStores
from osqtwist.targeting import NodeFacts, Target
from tests.stores import RealValkey, valkey

NODES = [NodeFacts(f"{number:020x}", f"node-{number}") for number in range(400)]
V1, V2, V3 = (VersionRef(number, f"{number:016x}") for number in (1, 2, 3))
PLAN = Plan(steps=(5, 25, 100), wait=600, patience=3600)

# -- plans


def test_a_plan_is_read() -> None:
    """Durations with a unit or in seconds, limits as nodes or shares; what is not said has its default."""
    text = 'steps = [1, 10]\nwait = "90s"\ntarget = "tag:a"\n[stop]\nerrors = "2%"\nmissing = 5\nmissing_after = "1h"'
    limits = Limits(errors="2%", missing=5, missing_after=3600.0)
    assert parse_plan(text) == Plan(steps=(1, 10), wait=90.0, target="tag:a", stop=limits)
    assert parse_plan("") == Plan()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("steps = []", "steps"),
        ("steps = [10, 5]", "steps"),
        ("steps = [0, 5]", "steps"),
        ("steps = [5, 101]", "steps"),
        ('wait = "soon"', "wait"),
        ("wait = 0", "wait"),
        ('patience = "31d"', "patience"),
        ('target = "nonsense:x"', "target"),
        ("colour = 1", "colour"),
        ('[stop]\nerrors = "many"', "errors"),
        ('[stop]\nerrors = "0%"', "errors"),
        ("[stop]\ndenylisted = -1", "denylisted"),
        ("[stop]\nnodes = -1", "nodes"),
        ('[stop]\nmissing_after = "5s"', "missing_after"),
        ("steps = [", ""),
    ],
)
def test_a_plan_that_cannot_be(text: str, word: str, tmp_path: Path) -> None:
    """Is refused with the file's name and the key's, also by the check of a folder."""
    with pytest.raises(BadConfiguration, match=rf"rollout\.toml: .*{word}"):
        parse_plan(text)
    (tmp_path / "00.conf").write_text("{}")
    (tmp_path / "rollout.toml").write_text(text)
    (problem,) = check_folder(tmp_path)
    assert (problem.file, problem.severity) == ("rollout.toml", "error")


def test_the_plans_of_the_manual_are_plans() -> None:
    """And the one that says the default does."""
    manual = (Path(__file__).parent.parent / "docs" / "rollouts.md").read_text("utf-8")
    found = [parse_plan(text) for text in re.findall(r"```\n# rollout\.toml\n(.*?)```", manual, re.S)]
    assert found[0] == Plan()
    assert [each.target for each in found[1:]] == ["tag:group:web", "tag:canary and not platform:windows"]


# -- who gets what


def under_way(step: int = 0, trial: VersionRef = V2, plan: Plan = PLAN) -> Rollout:
    return Rollout(in_force=V1, wanted=trial, trial=trial, phase="rolling", plan=plan, step=step, run=1)


def canaries(rollout: Rollout) -> set[str]:
    target = rollout.canaries
    return {facts.node_id for facts in NODES if target and target.matches(facts)}


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=6, unique=True), st.text("0123456789abcdef", min_size=16))
def test_a_canary_stays_one(steps: list[float], digest: str) -> None:
    """As the share grows, whoever has the version keeps it; at 100 % everybody has it."""
    plan = Plan(steps=tuple(sorted(steps)))
    groups = [canaries(under_way(step, VersionRef(2, digest), plan)) for step in range(len(steps))]
    assert all(one <= other for one, other in pairwise(groups))
    assert plan.steps[-1] < 100 or len(groups[-1]) == len(NODES)


def test_each_version_has_canaries_of_its_own() -> None:
    """About as many as it should, and not always the same ones."""
    one, other = canaries(under_way(1)), canaries(under_way(1, V3))
    assert 70 < len(one) < 130
    assert len(one & other) < 50


def test_canaries_are_of_the_target() -> None:
    """A share of its nodes, also at 100 %."""
    plan = Plan(steps=(50, 100), target="name:node-1*")
    meant = {facts.node_id for facts in NODES if facts.name.startswith("node-1")}
    assert canaries(under_way(0, plan=plan)) < meant
    assert canaries(under_way(1, plan=plan)) == meant


CHANGES = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 4), st.booleans(), st.booleans()),
    st.tuples(st.just("advance"), st.integers(0, 5), st.integers(0, 2), st.just(0)),
    st.tuples(st.sampled_from(["pause", "resume", "stop", "finish"]), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("back"), st.integers(1, 4), st.just(0), st.just(0)),
)


@given(st.lists(CHANGES, max_size=40))
def test_whatever_happens_things_make_sense(changes: list[Any]) -> None:
    """Canaries there are only while something is under way; each change is counted, and can be written and read."""
    now, current = 1000.0, first(V1, 1000.0)
    for what, number, flag, more in changes:
        now += 300
        ref, before, changed = VersionRef(number, f"{number:016x}"), current, None
        try:
            if what == "submit":
                changed = current.submitted(ref, PLAN if flag else None, more, now)
                assert changed is None or changed.wanted == ref
                assert flag or (changed or current).in_force == ref, "without a plan it is in force at once"
            elif what == "advance":
                changed = current.advanced(Health(canaries=number, errors=flag * 2), now)
                assert changed is None or before.is_under_way
            elif what == "back":
                changed = current.rolled_back(ref, "me", now)
                assert (changed.in_force, changed.phase, changed.trial) == (ref, "pinned", None)
            else:
                changed = {
                    "pause": before.paused,
                    "stop": before.stopped,
                    "finish": before.finished,
                    "resume": partial(before.resumed, PLAN),
                }[what]("me", now)
        except BadRollout:
            continue
        current = changed or current
        assert current.revision == before.revision + (changed is not None)
        assert current.is_under_way == (current.canaries is not None) == (current.percent > 0)
        assert (current.trial is None) == (current.phase in ("in force", "pinned"))
        assert current.trial != current.in_force
        assert msgspec.json.decode(msgspec.json.encode(current), type=Rollout) == current
        assert HistoryEntry.of(current).what


def test_steps_follow_one_another() -> None:
    """Each lasts as long as it should; after the last one the version is in force."""
    current = first(V1, 0.0).submitted(V2, PLAN, True, 0.0)
    seen = []
    for now in range(0, 3000, 60):
        assert current
        seen.append((current.percent, current.in_force.number))
        current = current.advanced(Health(canaries=5), float(now)) or current
    assert list(dict.fromkeys(seen)) == [(5, 1), (25, 1), (100, 1), (0, 2)]
    assert seen.count((25, 1)) == 10
    assert current and (current.phase, current.trial) == ("in force", None)


def test_a_step_waits_for_canaries() -> None:
    """But not for ever."""
    current = first(V1, 0.0).submitted(V2, PLAN, True, 0.0)
    assert current
    assert current.advanced(Health(), 3599.0) is None
    assert current.waits(Health(), 1000.0).startswith("1 canaries")
    found = current.advanced(Health(), 3600.0)
    assert found and found.percent == 25


def test_a_pause_does_not_count() -> None:
    """The step goes on from where it was; a canary that suffers stops the roll-out all the same."""
    current = first(V1, 0.0).submitted(V2, PLAN, True, 0.0)
    assert current
    current = current.paused("me", 500.0)
    assert current.advanced(Health(canaries=5), 5000.0) is None
    stopped = current.advanced(Health(canaries=5, denylisted=1), 5000.0)
    assert stopped and (stopped.phase, stopped.percent) == ("stopped", 0)
    current = current.resumed(PLAN, "me", 10_000.0)
    assert current.advanced(Health(canaries=5), 10_099.0) is None
    moved = current.advanced(Health(canaries=5), 10_100.0)
    assert moved and moved.percent == 25


# -- how canaries are


@pytest.mark.parametrize(
    ("severity", "message", "found"),
    [
        (2, "Error executing scheduled query a_b: no column x12", "Error executing scheduled query a_b: no column x#"),
        ("1", "Scheduled query may have failed: pack_a_b", "denylisted: pack_a_b"),
        (1, "The caller does not want denied queries, skipping denied scheduled query: q", "denylisted: q"),
        (1, "Cannot set unknown or invalid flag: x", "Cannot set unknown or invalid flag: x"),
        (1, 'Error parsing the "p" pack JSON', 'Error parsing the "p" pack JSON'),
        (0, "Error executing scheduled query a: b", None),
        (0, "Executing scheduled query a: Error executing scheduled query", None),
        (2, "Could not enroll", None),
    ],
)  # fmt: skip
def test_lines_that_speak_of_the_configuration(severity: int | str, message: str, found: str | None) -> None:
    """Of warnings and errors those that name a query or a part of the configuration."""
    line = {"severity": severity, "message": message, "unixTime": "1790000000", "hostIdentifier": "h"}
    said = troubles([msgspec.Raw(json.dumps(line).encode()), msgspec.Raw(b'{"severity": [')])
    assert [each.problem for each in said] == ([found] if found else [])
    assert all(each.at == 1790000000.0 for each in said)


@given(st.builds(StatusLine, st.integers() | st.text(), st.text(), st.floats() | st.text()))
def test_no_line_is_too_strange(line: StatusLine) -> None:
    """Whatever a node says, its time is a number."""
    found = trouble_of(line)
    assert found is None or found.at == found.at


@pytest.mark.parametrize(
    ("limits", "health", "stops"),
    [
        (Limits(), Health(10, errors=2), False),
        (Limits(), Health(10, errors=3), True),
        (Limits(), Health(10, denylisted=1), True),
        (Limits(errors=0), Health(10, errors=10), False),
        (Limits(errors="10%"), Health(100, errors=9), False),
        (Limits(errors="10%"), Health(100, errors=10), True),
        (Limits(errors="10%", nodes=20), Health(10, errors=10), False),
        (Limits(), Health(10, missing=10), False),
        (Limits(missing=2), Health(10, missing=2), True),
    ],
)
def test_when_it_is_too_much(limits: Limits, health: Health, stops: bool) -> None:
    """A number of nodes, or a share of those that got it."""
    assert bool(verdict(limits, health)) == stops


def test_the_verdict_gives_an_example() -> None:
    """The problem that most have, and some who have it."""
    problem = ProblemCount("error", "p", "no such table: x", 3, 0, ("a", "b"))
    assert verdict(Limits(), Health(7, errors=3, problems=(problem,))) == (
        "3 of 7 canaries have a new error: no such table: x (a, b)"
    )


@pytest.mark.parametrize(
    ("canaries", "others", "ratio", "is_new"),
    [(1, 0, 0.05, True), (1, 1, 0.05, True), (3, 20, 0.05, False), (5, 20, 0.05, True), (4, 1, 1.0, False)],
)
def test_what_all_nodes_have_condemns_no_canary(canaries: int, others: int, ratio: float, is_new: bool) -> None:
    """Twice as many as to be expected from the others, and a few more, is chance."""
    assert ProblemCount("error", "p", "p", canaries, others).is_new(ratio) is is_new


@pytest.mark.parametrize(
    ("text", "is_old"),
    [
        ("Cannot set unknown or invalid flag: a", True),
        ("The CLI only flag --b set via config file will be ignored", True),
        ("Cannot set unknown or invalid flag: c", False),
        ("Cannot set unknown or invalid flag: ab", False),
        ("Discovery query failed (select 1 from x): no such table: x", True),
        (f"Discovery query failed (select '{'x' * 500}'"[:200], True),
        ("Discovery query failed (select 2): no", False),
        ("Error executing scheduled query pack_p_q: no such table: x", False),
    ],
)
def test_what_osquery_says_again_is_no_news(text: str, is_old: bool) -> None:
    """Of options and discovery queries that are there already it complains anew, whatever else changes."""
    pack = {"discovery": ["select 1 from x", f"select '{'x' * 500}'"], "options": {"b": 1}, "queries": {"q": {}}}
    layers = [Layer("a", Target(), {"options": {"a": 1}, "packs": {"p": pack, "none": None}}), Layer("b", Target(), {})]
    problem = ProblemCount("error", text, text, 9, 0)
    assert news([problem], Folder(layers)) == (() if is_old else (problem,))


# -- versions


def test_what_is_kept_of_a_folder_is_that_folder(tmp_path: Path) -> None:
    """Layers, packs by whatever path, and tags; its digest is that of the files, whatever else is there."""
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "p.yaml").write_text("queries: {q: {query: select 1, interval: 60}}")
    (tmp_path / "00.conf").write_text('{"packs": {"p": "packs/../packs/p.yaml"}, "options": {"a": "ä"}}')
    (tmp_path / "10.yaml").write_text("osqtwist: {target: {tags: [t]}}\noptions: {b: 1}")
    (tmp_path / "tags.toml").write_text('[[tag_rules]]\ntag = "t"\nwhere = "name:x"')
    content = read_content(FilesOnDisk(tmp_path))
    again = unpacked(content.packed())
    assert (again.folder, again.digest, again.files) == (content.folder, content.digest, content.files)
    assert sorted(content.files) == ["00.conf", "10.yaml", "packs/p.yaml", "tags.toml"]
    (tmp_path / "README").write_text("x")
    (tmp_path / "rollout.toml").write_text("steps = [1]")
    assert read_content(FilesOnDisk(tmp_path)).digest == content.digest
    (tmp_path / "packs" / "p.yaml").write_text("queries: {}")
    assert read_content(FilesOnDisk(tmp_path)).digest != content.digest


@pytest.mark.parametrize("data", [b"", b"x", b"x\x9c\xab\x00\x00", read_content])
def test_what_cannot_be_read_back_is_one_sentence(data: Any, tmp_path: Path) -> None:
    """And so is what cannot be served any more."""
    if not isinstance(data, bytes):
        (tmp_path / "00.conf").write_text('{"packs": {"p": "x.pack"}}')
        (tmp_path / "x.pack").write_text("{}")
        content = read_content(FilesOnDisk(tmp_path))
        del content.files["x.pack"]  # type: ignore[attr-defined]
        data = content.packed()
    with pytest.raises(BadConfiguration):
        unpacked(data)


# -- stores


@pytest.fixture(scope="module")
def running() -> Iterator[RealValkey]:
    with valkey() as started:
        yield started


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest, running: RealValkey) -> AsyncIterator[Any]:
    """An IRolloutStore, in memory and for real."""
    clock: Any = reactor
    stores: Any = MemoryStores(clock) if request.param == "memory" else running.stores(reactor)
    await stores.ready()
    yield stores.rollouts
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_only_what_was_seen_is_changed(store: Any) -> None:
    """Of two that change the same, one does; the history has each change, the newest first."""
    assert await store.current() is None
    assert await store.change(first(V1, 5.0), None) is True
    assert await store.change(first(V2, 5.0), None) is False
    seen = await store.current()
    assert seen == first(V1, 5.0)
    begun = seen.submitted(V2, PLAN, True, 6.0)
    assert await store.change(begun, seen) is True
    assert await store.change(seen.rolled_back(V3, "me", 7.0), seen) is False
    assert await store.current() == begun
    assert [(each.version, each.what) for each in await store.history(10)] == [(2, "begun"), (1, "in force")]
    for _ in range(MOST_ENTRIES):
        seen = await store.current()
        assert await store.change(msgspec.structs.replace(seen, revision=seen.revision + 1), seen)
    assert len(await store.history(1000)) == MOST_ENTRIES


def info(digest: str) -> VersionInfo:
    return VersionInfo(number=0, digest=digest, noted_at=1.0, folder='h"NUMBER":/etc', files=1, bytes=3)


@pytest_twisted.ensureDeferred
async def test_versions_are_kept_up_to_a_bound(store: Any) -> None:
    """By number, each digest once; the oldest go that are not needed."""
    one = await store.keep(info("a"), b"\x00\xffa", [])
    assert one == msgspec.structs.replace(info("a"), number=1)
    assert await store.keep(info("a"), b"other", []) == one
    assert (await store.data(1), await store.data(2)) == (b"\x00\xffa", None)
    for number in range(2, MOST_VERSIONS + 3):
        await store.keep(info(f"d{number}"), b"x", [1])
    assert [each.number for each in await store.versions()] == [*range(MOST_VERSIONS + 2, 3, -1), 1]
    assert (await store.keep(info("d2"), b"x", [])).number == MOST_VERSIONS + 3, "what is gone is new again"
    large = b"x" * (6 * 2**20)
    for name in ("l1", "l2", "l3"):
        newest = await store.keep(info(name), large, [1])
    assert [each.digest for each in await store.versions()][:2] == ["l3", "l2"]
    assert {each.number for each in await store.versions()} <= {1, newest.number, newest.number - 1}


@pytest_twisted.ensureDeferred
async def test_what_a_folder_said_is_noted(store: Any) -> None:
    """Of each folder the last."""
    assert await store.folder_said("h:/etc") == ""
    for digest in ("a", "b"):
        await store.note_folder("h:/etc", digest)
    assert (await store.folder_said("h:/etc"), await store.folder_said("i:/etc")) == ("b", "")


def said(node: str, at: float, problem: str = "p 1", kind: Any = "error") -> NodeTrouble:
    return NodeTrouble(node, f"name of {node}", kind, problem, f"text of {problem}", at)


@pytest_twisted.ensureDeferred
async def test_trouble_is_counted_by_nodes(store: Any) -> None:
    """Of canaries once they have the version, each once; whatever others say, and they before, is the others'."""
    assert await store.watch(7, {"a": 100.0, "b": 100.0}, []) is True
    assert await store.canaries(7) == 2
    assert await store.problems(7) == []
    await store.watch(
        7, {"a": 200.0, "c": 100.5}, [said("a", 100.0), said("a", 150.0), said("b", 90.0), said("x", 1e9)]
    )
    await store.watch(
        7, {}, [said("c", 101.0), said("c", 101.0, "q", "denylisted"), said("a", 101.0, "q", "denylisted")]
    )
    assert await store.problems(7) == [
        ProblemCount("error", "p 1", "text of p 1", 2, 2, ("name of a", "name of c")),
        ProblemCount("denylisted", "q", "text of q", 2, 0, ("name of c", "name of a")),
    ]
    assert await store.distinct(7, ["p 1"]) == 2
    assert await store.distinct(7, ["p 1", "q", "none"]) == 2
    assert await store.distinct(7, []) == 0
    assert (await store.canaries(8), await store.problems(8)) == (0, [])
    found, place = await store.served_before(7, 100.2, "", 100)
    assert (found, place) == ({"a": 100.0, "b": 100.0}, "")


@pytest_twisted.ensureDeferred
async def test_what_is_noted_of_canaries_is_bounded(store: Any) -> None:
    """So many are watched, and of others nothing is noted; so many problems are told apart, and so many names kept."""
    object.__setattr__(store, "most_watched", 50)
    nodes = [f"n{number}" for number in range(60)]
    assert await store.watch(1, dict.fromkeys(nodes[:40], 1.0), []) is True
    assert await store.watch(1, dict.fromkeys(nodes, 1.0), []) is False
    assert await store.canaries(1) == 50
    await store.watch(1, {}, [said(node, 5.0) for node in nodes])
    (problem,) = await store.problems(1)
    assert (problem.canaries, problem.others, len(problem.names)) == (50, 0, MOST_NAMES)
    await store.watch(1, {}, [said("n1", 5.0, f"x {number}") for number in range(2 * MOST_PROBLEMS)])
    found = await store.problems(1)
    assert len(found) == MOST_PROBLEMS + 1
    assert [each.canaries for each in found if each.problem == "other problems: error"] == [1]
