"""The processes of a stage, one class each: started, disturbed and ended from outside, without a reactor."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage.embedded import find_binary
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import BlockingRedis, RedisPlace, check_redis
from tests.crashtest.machine import free_port

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


class Missing(Exception):
    """Something that a fault takes is not on this machine; the text says what."""


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for something that has to come, with the reactor standing still."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come in {seconds:g} s")
        time.sleep(0.02)


@attrs.define
class Program:
    """
    A process.

    :ivar words: how it is started; again after it was killed.
    """

    words: list[str]
    folder: Path
    environment: Mapping[str, str] = attrs.field(factory=dict)
    output: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        out: Any = (self.folder / self.output).open("ab") if self.output else subprocess.DEVNULL
        self.process = subprocess.Popen(
            self.words,
            cwd=self.folder,
            env=os.environ | dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        if self.output:
            out.close()

    @property
    def pid(self) -> int:
        """Its process, or 0."""
        return self.process.pid if self.process is not None and self.process.poll() is None else 0

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.pid:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut would, and wait for that."""
        if self.process is not None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait(20)


@attrs.define
class Store:
    """A Valkey on a TCP port of its own, with an append-only file."""

    folder: Path
    port: int = attrs.field(factory=free_port)
    more: list[str] = attrs.field(factory=list)
    program: Program = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [find_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        words += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", "--enable-debug-command"]
        words += ["local", "--repl-diskless-sync-delay", "0", *self.more]
        self.program = Program(words, self.folder, output="log")

    @property
    def place(self) -> RedisPlace:
        """Where it listens."""
        return RedisPlace("redis", (("127.0.0.1", self.port),), "", Login())

    def start(self) -> None:
        """Start it; returns when it answers."""
        self.program.start()
        wait_until(self.answers, "an answer of the store")

    def answers(self) -> bool:
        """Whether it does."""
        try:
            check_redis(self.place)
        except StoreUnavailable:
            return False
        return True

    def ask(self, *words: str) -> Any:
        """What it says to a command."""
        with BlockingRedis.to(self.place) as talk:
            return talk.ask(*words)

    def empty(self) -> None:
        """Delete its data; while it does not run."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)


@attrs.define
class Sentinels:
    """One that watches a master and decides alone."""

    folder: Path
    master: int
    port: int = attrs.field(factory=free_port)
    program: Program = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        sentinel = shutil.which("redis-sentinel")
        if sentinel is None:
            raise Missing("redis-sentinel: install the Debian package redis-sentinel")
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\nprotected-mode no\ndir {self.folder}\n"
            f"sentinel monitor main 127.0.0.1 {self.master} 1\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
        )
        self.program = Program([sentinel, str(configuration)], self.folder, output="log")

    def knows_a_replica(self) -> bool:
        """Whether it has seen one that could take over."""
        place = RedisPlace("redis", (("127.0.0.1", self.port),), "", Login())
        try:
            with BlockingRedis.to(place) as talk:
                return bool(talk.ask("SENTINEL", "replicas", "main"))
        except (OSError, StoreUnavailable):
            return False


@attrs.define
class Relay:
    """The network between the server and its store."""

    target: int
    port: int = attrs.field(factory=free_port)
    process: Any = None

    def start(self) -> None:
        """Begin to carry."""
        words = [sys.executable, "-m", "tests.faults.relay", str(self.port), str(self.target)]
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def tell(self, word: str) -> None:
        """Change the network; returns when it is so."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def stop(self) -> None:
        """End."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process.stdin.close()
            self.process.stdout.close()


@attrs.define
class SmallDisk:
    """
    A file system of a few MiB that can be filled to the last byte; takes the right to mount.

    :ivar trouble: why it is an ordinary folder instead.
    """

    folder: Path
    mib: int = 24
    trouble: str = "it was not mounted"

    @property
    def is_mounted(self) -> bool:
        """Whether it can be filled."""
        return not self.trouble

    def mount(self) -> None:
        """Make it, or a folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={self.mib}m,mode=0700", "tmpfs", str(self.folder)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            self.trouble = done.stderr.strip() or "mount failed" if done.returncode else ""
        except OSError as problem:
            self.trouble = str(problem)

    def fill(self, is_full: bool) -> None:
        """
        Use it up, or give the room back.

        :raise Missing: it would be everybody's disk.
        """
        if not self.is_mounted:
            raise Missing(f"the right to mount a small file system (be root, outside a sandbox): {self.trouble}")
        ballast = self.folder / "ballast"
        if not is_full:
            ballast.unlink(missing_ok=True)
            return
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            for _ in range(self.mib * 16):
                file.write(bytes(65536))
            while True:
                file.write(bytes(1))

    def unmount(self) -> None:
        """Take it away."""
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)


def processes_of(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Processes that run in a folder, or below it, with their command lines."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            where = (path / "cwd").readlink()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if command and (where == folder or folder in where.parents):
            yield int(path.name), command
