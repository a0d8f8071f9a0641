"""The delivery process for real: twistd, its child, a file sink, kills, pauses, replays, and a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from osqtwist import supervision
from osqtwist.childside import ParentPipe
from osqtwist.figures import Family
from osqtwist.supervision import ChildProcess
from tests.stores import valkey
from tests.test_embedded import is_alive
from tests.test_storage_faults import pause
from tests.test_twistd import Server, Start, refused, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SINK = '[sink.archive]\nkind = "file"\npath = "lines.jsonl"\nlongest_pause = 1.0\n'


def settings(folder: Path, text: str = SINK) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def begin(start: Start, folder: Path, *more: str, text: str = SINK) -> Server:
    return start("--port", "ssl:0", "--settings", str(settings(folder, text)), *more, folder=folder)


def post(server: Server, first: int, count: int = 5) -> None:
    """A node posts numbered lines, and they are acknowledged."""
    lines = [{"name": "n", "number": number} for number in range(first, first + count)]
    assert server.ask("/log", {"node_key": "", "log_type": "result", "data": lines}) == {}


def numbers(folder: Path, file: str = "lines.jsonl") -> list[int]:
    """Those of nodes' lines, in the order of the file; what operators did is in it too."""
    path = folder / file
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line["number"] for line in lines if "number" in line]


def until(is_so: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def children(pid: int) -> dict[int, str]:
    """Processes whose parent is this one, with what they were started as."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found[int(path.parent.name)] = (path.parent / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
    return found


def delivery_of(server: Server) -> int:
    """Its delivery process, once it runs: a child that was just killed or forked has no such words yet."""

    deadline = time.monotonic() + 20.0
    while True:
        running = [pid for pid, words in children(server.process.pid).items() if "osqtwist.delivering" in words]
        if len(running) == 1:
            return running[0]
        assert time.monotonic() < deadline, f"delivery processes: {running}"
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def test_lines_reach_the_file_with_the_proven_identity(start: Start, folder: Path) -> None:
    """From a node's post to a line on the disk; the commands say how far it is."""
    server = begin(start, folder)
    post(server, 0)
    until(lambda: len(numbers(folder)) == 5)
    document = json.loads((folder / "lines.jsonl").read_text().splitlines()[0])
    assert document["osqtwist"]["identity"] == "node-1.example.com"
    until(lambda: server.json("sink", "list")[0]["lines"] == 5, 15)
    (row,) = server.json("sink", "list")
    assert (row["sink"], row["kind"], row["state"], row["lag_lines"]) == ("archive", "file", "running", 0)
    assert server.json("status")["sinks"]["archive"]["lag_lines"] == 0
    assert "archive" in server.osqtwist("sink", "list").stdout
    pid = delivery_of(server)
    assert server.stop() == 0
    assert not is_alive(pid)


def test_a_killed_delivery_process_comes_back(start: Start, folder: Path) -> None:
    """kill -9, three times, with posts in between: every line once, since the file knows what it has."""
    server = begin(start, folder)
    for round_ in range(3):
        post(server, round_ * 10, 10)
        os.kill(delivery_of(server), signal.SIGKILL)
        time.sleep(0.2)
    until(lambda: len(set(numbers(folder))) == 30)
    assert sorted(numbers(folder)) == list(range(30))
    assert "delivery ended" in server.text()


def test_a_killed_server_takes_its_delivery_process_along(start: Start, folder: Path) -> None:
    """The child notices, and the next server's goes on where it was."""
    first = begin(start, folder)
    post(first, 0)
    child = delivery_of(first)
    first.process.kill()
    first.process.wait(10)
    until(lambda: not is_alive(child))
    second = begin(start, folder)
    post(second, 5)
    until(lambda: len(set(numbers(folder))) == 10)
    assert sorted(set(numbers(folder))) == list(range(10))


def test_operators_pause_replay_and_forget(start: Start, folder: Path) -> None:
    """By the command, while lines come."""
    server = begin(start, folder)
    post(server, 0)
    until(lambda: len(numbers(folder)) == 5)
    assert server.json("sink", "pause", "archive") == {"sink": "archive", "paused": True}
    time.sleep(0.3)
    post(server, 5)
    time.sleep(1.0)
    assert len(numbers(folder)) == 5
    assert server.json("sink", "list")[0]["state"] == "paused"
    assert server.json("sink", "list")[0]["lag_lines"] >= 5  # What operators do is told to sinks too.
    server.json("sink", "resume", "archive")
    until(lambda: len(numbers(folder)) == 10)
    (folder / "lines.jsonl").unlink()
    assert server.json("sink", "replay", "archive", "--since", "1h")["lines"] >= 10
    until(lambda: numbers(folder) == list(range(10)))
    assert server.osqtwist("sink", "replay", "archive").returncode == 2
    assert "there is no sink 'nobody'" in server.osqtwist("sink", "pause", "nobody").stderr
    assert "is not a time" in server.osqtwist("sink", "replay", "archive", "--since", "soon").stderr


def test_a_sink_that_cannot_write_says_why_and_goes_on_by_itself(start: Start, folder: Path) -> None:
    """Nodes notice nothing; once it is mended, everything arrives."""
    server = begin(start, folder, text=SINK.replace("lines.jsonl", "missing/lines.jsonl"))
    post(server, 0)
    until(lambda: [row["state"] for row in server.json("sink", "list")] == ["waiting"], 15)
    (row,) = server.json("sink", "list")
    assert "there is no folder" in row["trouble"]
    assert "missing" in row["trouble"]
    assert row["lag_lines"] == 5
    (folder / "missing").mkdir()
    until(lambda: numbers(folder, "missing/lines.jsonl") == list(range(5)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[sink.a]\nkind = "file"\n', "[sink.a]: path is missing"),
        ('[sink.a]\nkind = "paper"\n', "[sink.a]: kind is 'paper'; it must be one of"),
        ('[sink.a]\nkind = "file"\npath = "x"\nwhen = "nme:x"\n', "[sink.a]: when: column 1: there is no key 'nme'"),
        ("sink = 5\n", "sink in"),
    ],
)
def test_a_bad_block_is_one_sentence(start: Start, folder: Path, text: str, expected: str) -> None:
    """Before anything is served."""
    server = start("--port", "ssl:0", "--settings", str(settings(folder, text)), folder=folder, wait=False)
    assert expected in refused(server)


def test_a_durability_that_cannot_be_had_is_one_sentence(start: Start, folder: Path) -> None:
    """With the private Valkey there is no replica; fsync works."""
    server = start("--durability", "replica", folder=folder, wait=False)
    assert "--durability replica needs --redis" in refused(server)
    other = begin(start, folder, "--durability", "fsync")
    post(other, 0)
    until(lambda: len(numbers(folder)) == 5)


def test_delivery_in_processes_of_its_own(start: Start, folder: Path, tmp_path_factory: Any) -> None:
    """The server serves nodes only; two delivery processes elsewhere share the sink, and one may die."""
    with valkey() as store:
        url = f"unix:{store.place.path}"
        server = begin(start, folder, "--role", "nodes", "--redis", url)
        assert not [words for words in children(server.process.pid).values() if "delivering" in words]
        shared = folder / "lines.jsonl"
        others = []
        for _ in range(2):
            place = tmp_path_factory.mktemp("d")
            text = SINK.replace('"lines.jsonl"', json.dumps(str(shared)))
            words = ("--role", "delivery", "--redis", url, "--settings", str(settings(place, text)))
            others.append(start(*words, folder=place, wait=False))
            others[-1].wait_for("delivers to archive as")
        for first in range(0, 50, 5):
            post(server, first)
        until(lambda: len(numbers(folder)) == 50)
        assert sorted(numbers(folder)) == list(range(50))
        others[0].process.kill()
        others[0].process.wait(10)
        post(server, 50)
        until(lambda: sorted(set(numbers(folder))) == list(range(55)))
        assert others[1].stop() == 0


def test_standard_output_is_the_servers_own(start: Start, folder: Path) -> None:
    """A stdout sink writes there, though its process is a child; the log of the child goes to the log."""
    server = begin(start, folder, text='[sink.out]\nkind = "stdout"\n')
    post(server, 0)
    until(lambda: server.text().count('\n{"') >= 5)
    lines = [json.loads(line) for line in server.text().splitlines() if line.startswith("{")]
    assert [line["number"] for line in lines] == list(range(5))
    assert "delivery: delivers to out" in server.text()


# -- the supervisor of the child


@pytest.fixture
def said() -> Iterator[list[str]]:
    texts: list[str] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace", "") == "osqtwist.supervision.ChildProcess":
            texts.append(f"{event['log_level'].name} " + str(event["log_format"]).format(**event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


async def until_said(texts: list[str], pattern: str) -> None:
    for _ in range(200):
        if any(re.search(pattern, text) for text in texts):
            return
        await pause(0.02)
    raise AssertionError(f"no {pattern!r} in {texts}")


def child(*script: str) -> ChildProcess:
    return ChildProcess(reactor, "child", ["/bin/sh", "-c", "; ".join(script)], lambda: b"secret instructions")


@pytest_twisted.ensureDeferred
async def test_a_child_reads_its_instructions_and_speaks_into_the_log(said: list[str]) -> None:
    """JSON with its level, anything else as an error; when the parent wants it gone, its input ends."""
    running = child(
        "read length",
        "line=$(head -c $length)",
        '[ "$line" = \'secret instructions\' ] && echo \'{"type":"said","level":"warn","text":"got it"}\' >&3',
        "echo plain >&3",
        "cat",
    )
    running.startService()
    await until_said(said, "^warn child: got it")
    await until_said(said, "^error child: plain")
    pid = running.pid
    await running.stopService()
    assert not is_alive(pid)


@pytest_twisted.ensureDeferred
async def test_a_child_that_dies_is_started_again_with_growing_pauses(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not once its service has stopped."""
    monkeypatch.setattr(supervision, "_LONGEST_PAUSE", 0.1)
    running = child("exit 3")
    running._pause = 0.05
    events: list[str] = []
    running.on_event = events.append
    running.startService()
    await until_said(said, r"ended \(.*exit code 3.*\); it is started again in 0\.1 s")
    await running.stopService()
    count = len(events)
    await pause(0.3)
    assert len(events) == count
    assert events[:3] == ["started", "died", "started"]


@pytest_twisted.ensureDeferred
async def test_a_child_that_does_not_stop_is_killed(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In bounded time."""
    monkeypatch.setattr(supervision, "STOP_SECONDS", 0.2)
    running = child("trap '' TERM HUP", "exec sleep 60")
    running.startService()
    await pause(0.1)
    pid = running.pid
    await running.stopService()
    assert not is_alive(pid)
    assert any("did not stop" in text for text in said)


@pytest_twisted.ensureDeferred
async def test_a_child_that_hangs_is_killed_and_started_again(said: list[str]) -> None:
    """One that sends figures is heard of; one that sends none any more is taken for hung."""
    figures = '{"type":"figures","families":[["m","counter",[["m_total",{"a":"b"},2.0]]]]}'
    running = child(f"for n in 1 2 3; do echo '{figures}' >&3; sleep 0.2; done", "exec sleep 60")
    running.longest_silence = 0.4
    running._pause = 0.05
    found: list[Any] = []
    running.on_figures = found.append
    running.startService()
    await until_said(said, r"child was not heard of for 0\.4 s and is killed")
    await until_said(said, r"child ended \(.*signal 9.*\); it is started again")
    await running.stopService()
    assert found[:3] == [[Family("m", "counter", [("m_total", {"a": "b"}, 2.0)])]] * 3


def test_a_child_does_not_wait_for_its_parent() -> None:
    """What does not fit into the pipe is dropped, and counted; what is half in it is finished first."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    pipe = ParentPipe(writing)
    for number in range(1000):
        pipe({"log_format": "{text}", "text": f"{number} " + "x" * 1000, "log_level": LogLevel.info, "log_time": 0.0})
    first = os.read(reading, 10**6)
    for number in (1000, 1001):
        pipe({"log_format": "{text}", "text": f"{number} ", "log_level": LogLevel.info, "log_time": 0.0})
    os.close(writing)
    lines = (first + os.read(reading, 10**6)).splitlines()
    os.close(reading)
    texts = [json.loads(line)["text"] for line in lines]
    kept = [int(text.split()[0]) for text in texts if "dropped" not in text]
    assert 10 < len(kept) < 100
    assert kept == [*range(len(kept) - 2), 1000, 1001]
    (dropped,) = [text for text in texts if "dropped" in text]
    assert dropped.startswith(f"{1002 - len(kept)} lines")
