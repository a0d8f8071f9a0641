"""The sinks ``file`` and ``stdout``: whole lines, each once, through full disks, crashes and rotation."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.task import Clock, deferLater

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, SinkUnavailable
from osqtwist.sinks.appendedfile import AppendedFile, _opened
from osqtwist.sinks.file import FileKind, FileSettings, FileSink
from osqtwist.sinks.singlefile import SingleFile
from osqtwist.sinks.stdout import StdoutKind, StdoutSettings, StdoutSink
from tests.sinkcontract import CONTRACT, Promise, an_event, name_of, some_events

NEW_YEAR = 1798761600.0
"""2027-01-01T00:00:00Z."""
LIMIT = 2**20


class TimedReactor(Clock):
    """The time of a Clock, and the threads of the real reactor."""

    def getThreadPool(self) -> Any:
        return reactor.getThreadPool()  # type: ignore[attr-defined]

    def callFromThread(self, *work: Any, **more: Any) -> None:
        reactor.callFromThread(*work, **more)  # type: ignore[attr-defined]


def at(seconds: float) -> TimedReactor:
    timed = TimedReactor()
    timed.advance(seconds)
    return timed


def file_sink(path: Path, clock: Any = reactor, **settings: Any) -> FileSink:
    return FileKind().make(clock, "archive", FileSettings(path=str(path), **settings))


def lines_of(path: Path) -> list[bytes]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert not data or data.endswith(b"\n"), f"{path.name} has a torn line"
    return data.splitlines()


def documents(events: Sequence[LogEvent]) -> list[bytes]:
    return [event.document for event in events]


def stamped(count: int, first: int = 0) -> list[LogEvent]:
    """Events whose documents say which events they are."""
    return [with_stamp(event) for event in some_events(count, first)]


def with_stamp(event: LogEvent, **more: Any) -> LogEvent:
    line = json.loads(event.document) | more
    line["osqtwist"]["event_id"] = event.event_id
    return attrs.evolve(event, document=json.dumps(line, separators=(",", ":")).encode())


def large_events(count: int, size: int, first: int = 0) -> list[LogEvent]:
    return [an_event(first + number, columns={"text": "x" * size}) for number in range(count)]


async def tidied(sink: FileSink) -> None:
    """Wait for compression and removal."""
    while sink._tidying is not None:
        await deferLater(reactor, 0.002)


def rotated_names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if each != path)


@attrs.define
class FileDestination:
    """A file, taken away with its folder."""

    path: Path

    def make(self) -> FileSink:
        return file_sink(self.path)

    async def received(self) -> Sequence[bytes]:
        return lines_of(self.path)

    async def take_away(self) -> None:
        self.path.parent.rename(self.path.parent.with_name("away"))

    async def give_back(self) -> None:
        self.path.parent.with_name("away").rename(self.path.parent)


@attrs.define
class PipeDestination:
    """A named pipe, taken away with its reader."""

    path: Path
    writer: int = -1
    reader: int = -1
    found: bytes = b""

    def make(self) -> StdoutSink:
        return StdoutSink(reactor, "stdout", self.writer)

    async def received(self) -> Sequence[bytes]:
        self.read()
        assert not self.found or self.found.endswith(b"\n")
        return self.found.splitlines()

    async def take_away(self) -> None:
        self.read()
        os.close(self.reader)

    async def give_back(self) -> None:
        self.reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> None:
        while select.select([self.reader], [], [], 0)[0] and (data := os.read(self.reader, 2**16)):
            self.found += data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder / "results.jsonl"


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[PipeDestination]:
    destination = PipeDestination(tmp_path / "pipe")
    os.mkfifo(destination.path)
    destination.reader = os.open(destination.path, os.O_RDONLY | os.O_NONBLOCK)
    destination.writer = os.open(destination.path, os.O_WRONLY)
    try:
        yield destination
    finally:
        os.close(destination.reader)
        os.close(destination.writer)


@pytest.fixture
def full_disk(path: Path) -> Iterator[Callable[[], None]]:
    """A folder that takes a MiB, and a function that makes room: a small disk, or a limit where none can be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={LIMIT}", "tmpfs", str(path.parent)]
    try:
        is_mounted = subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        is_mounted = False
    if is_mounted:
        try:
            yield lambda: subprocess.run(
                ["mount", "-o", f"remount,size={8 * LIMIT}", str(path.parent)], check=True, timeout=10
            )
        finally:
            subprocess.run(["umount", "-l", str(path.parent)], check=True, timeout=10)
    else:
        with_limit = limited()
        yield next(with_limit)
        next(with_limit, None)


@pytest.fixture
def file_limit() -> Iterator[Callable[[], None]]:
    """No file becomes larger than a MiB, until the function is called; Python ignores SIGXFSZ, so it is an error."""
    yield from limited()


def limited() -> Iterator[Callable[[], None]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_a_file_keeps_the_contract(promise: Promise, path: Path) -> None:
    """The contract of all sinks."""
    await promise(FileDestination(path))


@pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_a_stream_keeps_the_contract(promise: Promise, pipe: PipeDestination) -> None:
    """The contract of all sinks."""
    await promise(pipe)


def test_kinds_and_sinks_provide_their_interfaces(path: Path) -> None:
    """What the settings file names can be made into what delivery calls."""
    for kind in (FileKind(), StdoutKind()):
        assert ISinkKind.providedBy(kind)
    assert ILogSink.providedBy(file_sink(path))
    assert ILogSink.providedBy(StdoutKind().make(reactor, "out", StdoutSettings()))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({}, "path"),
        ({"path": "/var/log/"}, "path"),
        ({"path": "/var/log/results.gz"}, "path"),
        ({"path": "x", "rotate_mib": -1.0}, "rotate_mib"),
        ({"path": "x", "rotate_hours": float("nan")}, "rotate_hours"),
        ({"path": "x", "keep": -1}, "keep"),
        ({"path": "x", "fsync_seconds": 0.0}, "fsync_seconds"),
        ({"path": "x", "mode": "0440"}, "mode"),
        ({"path": "x", "mode": "rw-"}, "mode"),
        ({"path": "x", "group": "no such group"}, "group"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_key(settings: dict[str, Any], key: str) -> None:
    """One sentence that begins with the key."""
    with pytest.raises(BadSinkSetting, match=f"^{key} is "):
        FileKind().make(reactor, "archive", FileSettings(**settings))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"fsync": "sometimes"}, FileSettings)


@pytest.mark.parametrize("trouble", ["full_disk", "file_limit"])
@pytest_twisted.ensureDeferred
async def test_a_delivery_that_does_not_fit_is_taken_back(
    trouble: str, path: Path, request: pytest.FixtureRequest
) -> None:
    """A full disk leaves neither half a line nor half a delivery, and with room again every line is there once."""
    make_room = request.getfixturevalue(trouble)
    sink = file_sink(path, rotate_mib=0.0)
    await sink.open()
    try:
        first, second = large_events(6, 100_000), large_events(6, 100_000, 6)
        assert await sink.deliver(first) == Outcome()
        for _ in range(2):
            with pytest.raises(SinkUnavailable) as caught:
                await sink.deliver(second)
            assert str(caught.value) in {
                f"{path}: {os.strerror(number)}" for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
            }
            assert lines_of(path) == documents(first)
        make_room()
        assert await sink.deliver(second) == Outcome()
    finally:
        await sink.close()
    assert lines_of(path) == documents([*first, *second])


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_made_safe_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync nobody knows what is on the disk, so the lines are written anew."""
    sink = file_sink(path)
    await sink.open()

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    try:
        # A disk that fails on demand is not to be had.
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(SinkUnavailable, match=f"{path.name}: Input/output error$"):
                await sink.deliver(some_events(2))
        assert lines_of(path) == []
        assert await sink.deliver(some_events(2)) == Outcome()
    finally:
        await sink.close()
    assert lines_of(path) == documents(some_events(2))


@pytest_twisted.ensureDeferred
async def test_fsync_is_made_when_the_settings_say(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each delivery fires, some seconds after the first, or not at all."""
    synced: list[int] = []
    real = os.fsync
    # Nothing but a power cut would show it.
    monkeypatch.setattr(os, "fsync", lambda fd: (real(fd), synced.append(os.fstat(fd).st_size)))
    for fsync, at_once, later in (("always", 2, 2), ("interval", 0, 1), ("never", 0, 0)):
        clock = at(NEW_YEAR)
        sink = file_sink(path, clock, fsync=fsync, fsync_seconds=3.0, rotate_hours=0.0)
        await sink.open()
        synced.clear()
        await sink.deliver(some_events(1))
        await sink.deliver(some_events(1))
        assert len(synced) == at_once, fsync
        clock.advance(3.0)
        # Whatever the timer started comes before this.
        await sink._threads.run(5.0, lambda: None) if fsync == "interval" else None
        assert len(synced) == later, fsync
        await sink.close()
        assert not clock.getDelayedCalls()
    assert synced == []


@pytest_twisted.ensureDeferred
async def test_a_file_that_others_moved_is_made_safe_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that were acknowledged but not yet safe are not forgotten with the file."""
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (real(fd), synced.append(os.fstat(fd).st_ino)))
    sink = file_sink(path, fsync="interval")
    await sink.open()
    await sink.deliver(some_events(1))
    moved = path.rename(path.with_name("moved"))
    await sink.deliver(some_events(1))
    assert moved.stat().st_ino in synced
    await sink.close()


@pytest.mark.parametrize("torn", [b'{"name":"to', b"\0" * 5000, b"x" * 200_000])
@pytest.mark.parametrize("whole", [0, 3])
@pytest_twisted.ensureDeferred
async def test_what_a_power_cut_left_of_a_line_is_cut_off(torn: bytes, whole: int, path: Path) -> None:
    """The line was never acknowledged, so it comes again; those before it stay."""
    before = b"".join(document + b"\n" for document in documents(some_events(whole)))
    path.write_bytes(before + torn)
    sink = file_sink(path)
    await sink.open()
    try:
        assert path.read_bytes() == before
        # The same when another process dies in the middle of a line.
        with path.open("ab") as other:
            other.write(torn)
        await sink.deliver(some_events(2, 10))
    finally:
        await sink.close()
    assert lines_of(path) == documents([*some_events(whole), *some_events(2, 10)])


@pytest_twisted.ensureDeferred
async def test_a_delivery_that_comes_again_after_a_crash_is_not_repeated(path: Path) -> None:
    """Of lines that are in the file only the missing ones are written, and an id is only looked for once."""
    first = file_sink(path)
    await first.open()
    await first.deliver(stamped(5))
    await first.close()
    second = file_sink(path)
    await second.open()
    try:
        assert await second.deliver(stamped(8)) == Outcome()
        assert lines_of(path) == documents(stamped(8))
        # An operator who has them sent again gets them.
        assert await second.deliver(stamped(2)) == Outcome()
        assert lines_of(path) == documents([*stamped(8), *stamped(2)])
    finally:
        await second.close()


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_gone_is_written_anew(path: Path) -> None:
    """Somebody deleted it and has its lines delivered again: that they were there once does not count."""
    first = file_sink(path)
    await first.open()
    await first.deliver(stamped(5))
    await first.close()
    second = file_sink(path)
    await second.open()
    try:
        path.unlink()
        assert await second.deliver(stamped(5)) == Outcome()
        assert lines_of(path) == documents(stamped(5))
    finally:
        await second.close()


@pytest.mark.parametrize("why", ["not wanted", "no ids", "too late", "too many", "said by a node"])
@pytest_twisted.ensureDeferred
async def test_lines_are_repeated_when_it_is_not_certain_that_they_are_there(
    why: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left out for lack of ids, long after the start, or because a node wrote the id of another's line."""
    events = some_events(3) if why == "no ids" else stamped(3)
    if why == "said by a node":
        there = [
            with_stamp(an_event(9 + number), event_id=event.event_id, columns={"event_id": event.event_id, "s": "{"})
            for number, event in enumerate(events)
        ]
    else:
        there = list(events)
    path.write_bytes(b"not JSON\n" + b"".join(document + b"\n" for document in documents(there)))
    if why == "too many":
        monkeypatch.setattr("osqtwist.sinks.appendedfile._REPEATS_EVENTS", 2)
    clock = at(NEW_YEAR)
    sink = file_sink(path, clock, skip_repeats=why != "not wanted", rotate_hours=0.0)
    await sink.open()
    try:
        clock.advance(301 if why == "too late" else 1)
        await sink.deliver(events)
    finally:
        await sink.close()
    assert lines_of(path)[1:] == documents([*there, *events])


@pytest_twisted.ensureDeferred
async def test_only_the_end_of_a_large_file_is_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening costs the same however large the file is."""
    events = stamped(20)
    path.write_bytes(b"".join(document + b"\n" for document in documents(events)))
    monkeypatch.setattr("osqtwist.sinks.appendedfile._REPEATS_BYTES", 3 * len(events[-1].document) + 10)
    sink = file_sink(path)
    await sink.open()
    try:
        await sink.deliver(events)
    finally:
        await sink.close()
    assert lines_of(path) == documents([*events, *events[:-3]])


@pytest_twisted.ensureDeferred
async def test_a_file_is_rotated_before_it_becomes_too_large(path: Path) -> None:
    """Rotated files sort by age even within a second, hold whole deliveries, and only the last ones are kept."""
    clock = at(NEW_YEAR)
    sink = file_sink(path, clock, rotate_mib=0.01, keep=12, compress=False, rotate_hours=0.0)
    await sink.open()
    try:
        for number in range(16):
            await sink.deliver(large_events(1, 6000, number))
            await tidied(sink)
    finally:
        await sink.close()
    names = rotated_names(path)
    base = "results-20270101T000000Z"
    assert names == [f"{base}_{number:03}.jsonl" for number in range(4, 16)]
    found = [line for name in names for line in lines_of(path.with_name(name))] + lines_of(path)
    assert found == documents(large_events(13, 6000, 3))


@pytest_twisted.ensureDeferred
async def test_rotated_files_are_compressed(path: Path) -> None:
    """A gzip file takes the place of each, with its mode and time, and nothing else stays."""
    clock = at(NEW_YEAR)
    sink = file_sink(path, clock, rotate_mib=0.01, mode="0604", rotate_hours=0.0)
    await sink.open()
    try:
        for number in range(3):
            await sink.deliver(large_events(1, 8000, number))
            clock.advance(1)
            await tidied(sink)
    finally:
        await sink.close()
    assert rotated_names(path) == ["results-20270101T000001Z.jsonl.gz", "results-20270101T000002Z.jsonl.gz"]
    for number, name in enumerate(rotated_names(path)):
        assert lines_of(path.with_name(name)) == documents(large_events(1, 8000, number))
        assert path.with_name(name).stat().st_mode & 0o777 == 0o604


@pytest_twisted.ensureDeferred
async def test_a_file_is_rotated_at_the_hour(path: Path) -> None:
    """The first delivery of a day goes to a new file, also after a restart; an empty file stays."""
    path.touch()
    clock = at(NEW_YEAR - 30)
    for number in range(4):
        sink = file_sink(path, clock, compress=False)
        await sink.open()
        await sink.deliver(some_events(1, number))
        await sink.close()
        os.utime(path, (clock.seconds(), clock.seconds()))
        clock.advance(20)
    assert rotated_names(path) == ["results-20270101T000010Z.jsonl"]
    assert lines_of(path) == documents(some_events(2, 2))


@pytest_twisted.ensureDeferred
async def test_mending_a_file_does_not_put_off_its_rotation(path: Path) -> None:
    """The lines of yesterday are yesterday's, also after a crash at midnight."""
    path.write_bytes(b'{"yesterday":1}\n{"torn')
    midnight = time.time() // 86400 * 86400
    os.utime(path, (midnight - 5, midnight - 5))
    sink = file_sink(path, at(midnight + 5), compress=False)
    await sink.open()
    await sink.deliver(some_events(1))
    await sink.close()
    assert lines_of(path) == documents(some_events(1))
    (rotated,) = rotated_names(path)
    assert rotated.endswith("T000005Z.jsonl")
    assert lines_of(path.with_name(rotated)) == [b'{"yesterday":1}']


@pytest_twisted.ensureDeferred
async def test_files_of_others_are_left_alone(path: Path) -> None:
    """Only what has the name of a rotated file of this path is compressed or removed."""
    mine = ["results-20260101T000000Z.jsonl", "results-20260102T000000Z.jsonl.gz", "results-20260103T000000Z.jsonl"]
    others = [
        "results-20260101T000000Z.log",
        "results-more-20260101T000000Z.jsonl",
        "results-20260101.jsonl",
        "results.jsonl.1",
    ]
    for name in (*mine, *others):
        path.with_name(name).write_bytes(b"{}\n")
    sink = file_sink(path, keep=1)
    await sink.open()
    await tidied(sink)
    await sink.close()
    assert rotated_names(path) == sorted([*others, "results-20260103T000000Z.jsonl.gz"])


@pytest_twisted.ensureDeferred
async def test_a_compression_that_was_cut_short_is_made_again(path: Path) -> None:
    """What a crash left is finished after the next start: a beginning, a file there twice, a stray beginning."""
    first, second, third = (f"results-2026010{number}T000000Z.jsonl" for number in (1, 2, 3))
    path.with_name(first).write_bytes(b'{"first":1}\n')
    path.with_name(first + ".gz.tmp").write_bytes(b"half a gzip file" * 100)
    path.with_name(second).write_bytes(b'{"second":2}\n')
    path.with_name(second + ".gz").write_bytes(gzip.compress(b'{"second":2}\n'))
    path.with_name(third + ".gz.tmp").write_bytes(b"stray")
    sink = file_sink(path)
    await sink.open()
    await tidied(sink)
    await sink.close()
    assert rotated_names(path) == [f"{first}.gz", f"{second}.gz"]
    assert lines_of(path.with_name(f"{first}.gz")) == [b'{"first":1}']


@pytest_twisted.ensureDeferred
async def test_closing_does_not_wait_for_a_compression(path: Path) -> None:
    """It is given up, without a trace, and the rotated file stays as it is."""
    rotated = path.with_name("results-20260101T000000Z.jsonl")
    rotated.write_bytes(os.urandom(2**20) * 32 + b"\n")
    sink = file_sink(path)
    await sink.open()
    began = time.monotonic()
    await sink.close()
    assert time.monotonic() - began < 0.5
    assert rotated_names(path) == [rotated.name]


@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_rotated_grows(path: Path) -> None:
    """Lines go on being written: a rotation that fails is no reason to lose any."""
    path = path.with_name("n" * 240 + ".jsonl")
    sink = file_sink(path, rotate_mib=0.001)
    await sink.open()
    try:
        for number in range(3):
            assert await sink.deliver(large_events(1, 1000, number)) == Outcome()
    finally:
        await sink.close()
    assert lines_of(path) == documents(large_events(3, 1000))


@pytest.mark.parametrize("what", ["moved", "removed", "replaced", "emptied"])
@pytest_twisted.ensureDeferred
async def test_a_file_that_others_rotate_is_followed(what: str, path: Path) -> None:
    """What comes after logrotate has moved, removed, replaced or emptied the file is in the file of that path."""
    sink = file_sink(path)
    await sink.open()
    try:
        await sink.deliver(some_events(2))
        if what == "emptied":
            os.truncate(path, 0)
        elif what == "removed":
            path.unlink()
        else:
            path.rename(path.with_name("moved"))
        if what == "replaced":
            path.write_bytes(b"{}\n")
        await sink.deliver(some_events(2, 2))
    finally:
        await sink.close()
    assert lines_of(path) == [b"{}"] * (what == "replaced") + documents(some_events(2, 2))


@pytest_twisted.ensureDeferred
async def test_a_link_is_followed_and_stays(path: Path) -> None:
    """The file that a link names is rotated where it is, not the link."""
    real = path.parent.parent / "real.jsonl"
    path.symlink_to(real)
    clock = at(NEW_YEAR)
    sink = file_sink(path, clock, rotate_mib=0.001, compress=False, rotate_hours=0.0)
    await sink.open()
    try:
        for number in range(2):
            await sink.deliver(large_events(1, 1000, number))
    finally:
        await sink.close()
    assert path.is_symlink()
    assert lines_of(real) == documents(large_events(1, 1000, 1))
    assert lines_of(real.with_name("real-20270101T000000Z.jsonl")) == documents(large_events(1, 1000))


@pytest_twisted.ensureDeferred
async def test_sinks_may_share_a_path(path: Path) -> None:
    """Each line of each is there once and whole, through all rotations."""
    sinks = [file_sink(path, rotate_mib=0.01, keep=0, fsync="never") for _ in range(3)]

    async def fill(sink: FileSink, first: int) -> None:
        await sink.open()
        for number in range(20):
            assert await sink.deliver(large_events(2, 700, first + 2 * number)) == Outcome()

    await gatherResults([Deferred.fromCoroutine(fill(sink, 100 * at)) for at, sink in enumerate(sinks)])
    for sink in sinks:
        await tidied(sink)
        await sink.close()
    found = [line for name in (*rotated_names(path), path.name) for line in lines_of(path.with_name(name))]
    wanted = [document for first in (0, 100, 200) for document in documents(large_events(40, 700, first))]
    assert len(rotated_names(path)) > 5
    assert sorted(found) == sorted(wanted)


def test_a_file_that_goes_while_it_is_opened_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process rotates it between two looks; a fake os.open, for no test could be as quick."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    real_open = os.open

    def open_late(name: str, flags: int, mode: int = 0o777) -> int:
        if not flags & os.O_CREAT:
            path.unlink()
        return real_open(name, flags, mode)

    monkeypatch.setattr(os, "open", open_late)
    fd, is_new = _opened(str(path))
    os.close(fd)
    assert is_new
    assert path.exists()


@pytest_twisted.ensureDeferred
async def test_a_delivery_waits_for_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever: then the sink is unavailable, and says why."""
    sink = file_sink(path)
    await sink.open()
    try:
        with path.open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            under_way = Deferred.fromCoroutine(sink.deliver(some_events(1)))
            await deferLater(reactor, 0.05)
            assert not under_way.called
            assert lines_of(path) == []
            fcntl.flock(other, fcntl.LOCK_UN)
            assert await under_way == Outcome()
            monkeypatch.setattr("osqtwist.sinks.appendedfile._LONGEST_LOCK", 0.03)
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(SinkUnavailable, match=r"held its lock for 0\.03 s$"):
                await sink.deliver(some_events(1, 1))
        assert await sink.deliver(some_events(1, 1)) == Outcome()
    finally:
        await sink.close()
    assert lines_of(path) == documents(some_events(2))


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_rotated_while_a_delivery_waits_is_not_written_to(path: Path) -> None:
    """The lock was waited for on what the path no longer names."""
    sink = file_sink(path)
    await sink.open()
    try:
        with path.open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            under_way = Deferred.fromCoroutine(sink.deliver(some_events(1)))
            await deferLater(reactor, 0.03)
            path.rename(path.with_name("moved"))
        assert await under_way == Outcome()
    finally:
        await sink.close()
    assert lines_of(path.with_name("moved")) == []
    assert lines_of(path) == documents(some_events(1))


@pytest_twisted.ensureDeferred
async def test_closing_does_not_wait_for_the_lock(path: Path) -> None:
    """A stop is quick, whoever has the file."""
    sink = file_sink(path)
    await sink.open()
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        under_way = Deferred.fromCoroutine(sink.deliver(some_events(1)))
        await deferLater(reactor, 0.01)
        began = time.monotonic()
        await sink.close()
        assert time.monotonic() - began < 1
    with pytest.raises(SinkUnavailable):
        await under_way


@pytest_twisted.ensureDeferred
async def test_a_new_file_has_the_mode_and_the_group(path: Path) -> None:
    """Whatever the umask; a file that is there keeps its mode."""
    group = os.getgroups()[-1] if os.getgroups() else os.getgid()
    umask = os.umask(0o077)
    try:
        for mode in ("0664", "0600"):
            sink = file_sink(path, mode=mode, group=str(group))
            await sink.open()
            await sink.close()
            assert path.stat().st_mode & 0o777 == 0o664
            assert path.stat().st_gid == group
    finally:
        os.umask(umask)


@pytest_twisted.ensureDeferred
async def test_a_path_that_is_no_file_is_refused(path: Path) -> None:
    """Folders, pipes and devices are neither written to nor waited for, and least of all renamed."""
    folder, fifo, device = path.with_name("folder"), path.with_name("fifo"), Path("/dev/null")
    folder.mkdir()
    os.mkfifo(fifo)
    for wrong, reason in (
        (folder, "Is a directory"),
        (fifo, "it is not a regular file"),
        (device, "it is not a regular file"),
        (path.with_name("missing") / "x.jsonl", f"there is no folder {path.parent}/missing"),
        (path.with_name("n" * 300), "File name too long"),
    ):
        sink = file_sink(wrong)
        with pytest.raises(SinkUnavailable) as caught:
            await sink.open()
        assert str(caught.value) == f"{wrong}: {reason}"
        await sink.close()


@pytest_twisted.ensureDeferred
async def test_work_that_hangs_is_not_waited_for_and_not_overtaken() -> None:
    """A file system that hangs costs one thread, not the pool, and what it still does comes before what follows."""
    clock = at(NEW_YEAR)
    single = SingleFile(clock)
    go_on = threading.Event()
    done: list[str] = []

    def hang() -> None:
        go_on.wait(10)
        done.append("first")

    first = Deferred.fromCoroutine(single.run(30.0, hang))
    second = Deferred.fromCoroutine(single.run(30.0, lambda: done.append("second")))
    clock.advance(30.0)
    for late in (first, second):
        with pytest.raises(TimeoutError):
            await late
    third = Deferred.fromCoroutine(single.run(30.0, lambda: done.append("third")))
    go_on.set()
    await third
    assert done == ["first", "third"]
    assert not clock.getDelayedCalls()


def test_the_file_itself_needs_no_reactor(path: Path) -> None:
    """Rotation answers with whether there is something to tidy up."""
    said: list[str] = []
    file = AppendedFile(path, FileSettings(path=str(path), rotate_mib=0.001), -1, said.append)
    assert [file.append(large_events(1, 800, number), time.time()) for number in range(3)] == [False, True, True]
    file.close()
    assert said == []


@pytest_twisted.ensureDeferred
async def test_a_stream_that_nobody_reads_gets_its_line_finished(pipe: PipeDestination) -> None:
    """A delivery gives up in time; what it left of a line is completed first, so that none is ever torn."""
    sink = StdoutSink(reactor, "stdout", pipe.writer, longest=0.1)
    await sink.open()
    large = large_events(1, 150_000)
    with pytest.raises(SinkUnavailable, match=r"^stdout: nobody has read it for 0\.1 s$"):
        await sink.deliver(large)
    # Still nobody reads: the rest is kept.
    with pytest.raises(SinkUnavailable):
        await sink.deliver(large)
    sink.longest = 10.0
    again = Deferred.fromCoroutine(sink.deliver([*large, *some_events(3)]))
    while not again.called:
        pipe.read()
        await deferLater(reactor, 0.002)
    assert await again == Outcome()
    await sink.close()
    assert await pipe.received() == documents([*large, *large, *some_events(3)])


@pytest_twisted.ensureDeferred
async def test_a_new_reader_gets_whole_lines(pipe: PipeDestination) -> None:
    """What the reader before has not read of a line is of no use to the next one."""
    sink = StdoutSink(reactor, "stdout", pipe.writer, longest=0.05)
    await sink.open()
    with pytest.raises(SinkUnavailable):
        await sink.deliver(large_events(1, 150_000))
    await pipe.take_away()
    with pytest.raises(SinkUnavailable, match=r"^stdout: Broken pipe$"):
        await sink.deliver(some_events(1))
    await pipe.give_back()
    pipe.found = b""
    await sink.deliver(some_events(1))
    await sink.close()
    assert await pipe.received() == documents(some_events(1))


@pytest.mark.parametrize("blocking", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_slow_reader_gets_everything(blocking: bool, pipe: PipeDestination) -> None:
    """More than the pipe holds, whether or not its writers block; the sink leaves that as it is."""
    os.set_blocking(pipe.writer, blocking)
    sink = pipe.make()
    await sink.open()
    events = [*some_events(500), *large_events(2, 70_000, 500), *some_events(500, 502)]
    under_way = Deferred.fromCoroutine(sink.deliver(events))
    while not under_way.called:
        pipe.read()
        await deferLater(reactor, 0.001)
    assert await under_way == Outcome()
    await sink.close()
    assert await pipe.received() == documents(events)
    assert os.get_blocking(pipe.writer) is blocking


@pytest_twisted.ensureDeferred
async def test_a_stream_that_leads_nowhere_is_refused() -> None:
    """twistd in the background has /dev/null for standard output, where lines would be lost without a word."""
    null = os.open("/dev/null", os.O_WRONLY)
    try:
        with pytest.raises(SinkUnavailable, match=r"is /dev/null.*--nodaemon"):
            await StdoutSink(reactor, "stdout", null).open()
    finally:
        os.close(null)
    closed = os.dup(0)
    os.close(closed)
    with pytest.raises(SinkUnavailable, match=r"^stderr: Bad file descriptor$"):
        await StdoutSink(reactor, "stderr", closed).open()


@pytest_twisted.ensureDeferred
async def test_a_stream_to_a_full_disk_is_unavailable() -> None:
    """As when standard output is a file."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = StdoutSink(reactor, "stdout", full)
        await sink.open()
        with pytest.raises(SinkUnavailable, match=r"^stdout: No space left on device$"):
            await sink.deliver(some_events(1))
    finally:
        os.close(full)


CHILD = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from osqtwist.sinks.{module} import {kind}Kind
from tests.test_sink_file import stamped

async def run():
    sink = {kind}Kind().make(reactor, "it", {kind}Kind.settings({settings}))
    await sink.open()
    for number in range({deliveries}):
        await sink.deliver(stamped(50, 50 * number))
        print("took", number, file=sys.stderr, flush=True)
    await sink.close()
    reactor.stop()

Deferred.fromCoroutine(run()).addErrback(lambda failure: (failure.printTraceback(), reactor.stop()))
reactor.run()
"""


def child(**words: Any) -> list[str]:
    return [sys.executable, "-c", CHILD.format(**words)]


@pytest.mark.slow
def test_standard_output_of_a_process_gets_the_lines() -> None:
    """Nothing but the lines, all of them."""
    command = child(module="stdout", kind="Stdout", settings="", deliveries=4)
    ran = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert ran.stdout.splitlines() == documents(stamped(200))


@pytest.fixture
def killed(path: Path) -> int:
    """A path that a process wrote to until it was killed; answers with the last delivery that was acknowledged."""
    settings = f"path={str(path)!r}, rotate_mib=0.1, keep=0"
    command = child(module="file", kind="File", settings=settings, deliveries=100_000)
    taken = -1
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            assert line.startswith(b"took"), line + process.stderr.read()
            taken = int(line.split()[1])
            if taken == 60:
                process.kill()
    return taken


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_kill_9_loses_and_repeats_nothing(path: Path, killed: int) -> None:
    """What was not acknowledged comes again; afterwards each line is there once, in whichever file."""
    sink = file_sink(path, rotate_mib=0.1, keep=0)
    await sink.open()
    await sink.deliver(stamped(50, 50 * (killed + 1)))
    await tidied(sink)
    await sink.close()
    found = [line for name in (*rotated_names(path), path.name) for line in lines_of(path.with_name(name))]
    assert found == documents(stamped(50 * (killed + 2)))
