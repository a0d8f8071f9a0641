"""The keys that sign node keys: rotated with an overlap, in every process, and nobody is told to enroll again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from osqtwist.figures import SummedFigures
from osqtwist.interfaces import NoSuchThing
from osqtwist.metrics import Metrics
from osqtwist.nodekey import InvalidNodeKey, NodeKeys
from osqtwist.reloading import CHECK_INTERVAL
from osqtwist.signingkeys import MOST_KEYS, SETTLES, BadKeyChange, SigningKeyBook, SigningKeysFile
from osqtwist.statefolder import SIGNING_KEYS, StateFolder
from tests.harness import START, InMemoryServer

NODE = "a" * 20


class Process(SigningKeysFile):
    """What one process has of the keys."""

    @classmethod
    def begin(cls, folder: Path, clock: Clock) -> Process:
        state = StateFolder(folder)
        keys = NodeKeys(state.signing_keys())
        made = cls(clock, folder / SIGNING_KEYS, state, keys)
        made.startService()
        return made

    def accepts(self, key: str) -> bool:
        try:
            return self.keys.verify(key).node_id == NODE
        except InvalidNodeKey:
            return False


@attrs.define
class Machine:
    """Two processes on one folder; the file has the time of the clock."""

    folder: Path
    clock: Clock
    one: Process
    two: Process
    book: SigningKeyBook

    def touched(self) -> None:
        now = int(self.clock.seconds() * 1e9)
        os.utime(self.folder / SIGNING_KEYS, ns=(now, now))

    def rotate(self) -> Any:
        self.book.rotate()
        self.touched()
        self.one.reload()
        return self.book.rows()

    def pass_(self, seconds: float) -> None:
        self.clock.pump([0.5] * int(seconds * 2))


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    clock = Clock()
    clock.rightNow = START
    StateFolder(tmp_path).prepare()
    StateFolder(tmp_path).signing_keys()
    os.utime(tmp_path / SIGNING_KEYS, (START - 1000, START - 1000))
    one, two = Process.begin(tmp_path, clock), Process.begin(tmp_path, clock)
    metrics = Metrics()
    metrics.signing_key_requests.labels(key=one.keys.signing.key_id).inc(7)
    yield Machine(tmp_path, clock, one, two, SigningKeyBook(one, SummedFigures(metrics.registry)))
    one.stopService()
    two.stopService()
    assert not clock.getDelayedCalls()


def states(rows: Any) -> list[str]:
    return [row["state"] for row in rows]


def test_at_no_moment_is_a_key_issued_that_another_process_refuses(machine: Machine) -> None:
    """Nor one refused that was issued before: whichever process looks at the file when."""
    issued = [machine.one.keys.issue(NODE, START)]
    rows = machine.rotate()
    assert states(rows) == ["signs soon", "signs"]
    assert [row["requests"] for row in rows] == [0, 7]
    for _ in range(40):
        issued += [process.keys.issue(NODE, START) for process in (machine.one, machine.two)]
        assert all(process.accepts(key) for process in (machine.one, machine.two) for key in issued)
        machine.pass_(0.5)
    assert states(machine.book.rows()) == ["signs", "accepted"]
    assert machine.two.keys.signing == machine.one.keys.signing != machine.one.keys.signing_keys[1]
    assert len({key.split(".")[1] for key in issued}) == 2


def test_a_process_that_begins_meanwhile_waits_too(machine: Machine) -> None:
    """It goes by the time of the file, not by its own."""
    machine.rotate()
    late = Process.begin(machine.folder, machine.clock)
    assert machine.two.accepts(late.keys.issue(NODE, START))
    machine.pass_(SETTLES)
    assert late.keys.signing == machine.one.keys.signing
    late.stopService()


def test_a_retired_key_is_refused_by_every_process(machine: Machine) -> None:
    """From its next look; its nodes enroll again. The one that signs stays."""
    old = machine.one.keys.issue(NODE, START)
    (row,) = machine.book.rows()
    with pytest.raises(BadKeyChange, match="signs; rotate first"):
        machine.book.retire(row["key"])
    machine.rotate()
    with pytest.raises(BadKeyChange, match="signs; rotate first"):
        machine.book.retire(row["key"])
    with pytest.raises(BadKeyChange, match="wait"):
        machine.book.rotate()
    machine.pass_(SETTLES)
    with pytest.raises(NoSuchThing):
        machine.book.retire("ffffff")
    assert states(machine.book.retire(row["key"])) == ["signs"]
    machine.pass_(CHECK_INTERVAL)
    assert not machine.one.accepts(old) and not machine.two.accepts(old)
    assert machine.two.accepts(machine.one.keys.issue(NODE, START))
    assert (machine.folder / SIGNING_KEYS).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("spoiled", [b"", b"rubbish", b"\xff", None])
def test_a_file_that_is_spoiled_changes_nothing(machine: Machine, spoiled: bytes | None) -> None:
    """Nor is one made anew that is gone: every node would have to enroll again."""
    key = machine.one.keys.issue(NODE, START)
    path = machine.folder / SIGNING_KEYS
    if spoiled is None:
        path.unlink()
    else:
        path.write_bytes(spoiled)
    with capturedLogs() as events:
        machine.pass_(CHECK_INTERVAL)
    assert machine.one.accepts(key) and machine.two.accepts(key)
    assert len(events) == 2 and all("stay as they were" in event["log_format"] for event in events)
    assert path.exists() == (spoiled is not None)


def test_there_are_not_so_many_keys(machine: Machine) -> None:
    """Each is one more to look through."""
    for _ in range(MOST_KEYS - 1):
        machine.rotate()
        machine.pass_(SETTLES)
    with pytest.raises(BadKeyChange, match="retire some"):
        machine.book.rotate()


def test_a_folder_that_cannot_be_written_to_is_told_of(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys stay; nobody is left without."""
    monkeypatch.setattr(os, "open", lambda *args, **more: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BadKeyChange, match="No space left"):
        machine.book.rotate()
    assert len(machine.book.rows()) == 1


def test_requests_are_counted_by_signing_key(tmp_path: Path) -> None:
    """So that it can be seen when nobody comes with an old one any more."""
    server = InMemoryServer(tmp_path)
    key = server.enroll()
    server.ask("/config", {"node_key": key})
    found = server.metrics.registry.get_sample_value("osqtwist_signing_key_requests_total", {"key": key.split(".")[1]})
    assert found == 1
    assert server.operate("/api/v1/signing-keys") == (200, {"signing_keys": []})
    assert server.operate("/api/v1/signing-keys/rotate", method="POST")[0] == 409
    server.stop()
