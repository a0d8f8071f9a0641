"""A server with all that it needs, in a folder: its store, the network to it, disks that can be filled."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import attrs
import treq
from treq.client import HTTPClient
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from osqtwist.adminclient import Door
from osqtwist.simulator.certificates import CertificateSource
from osqtwist.simulator.transport import Server
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import BlockingRedis, RedisPlace
from tests.crashtest.machine import free_port
from tests.faults.programs import (
    BIN,
    Missing,
    Program,
    Relay,
    Sentinels,
    SmallDisk,
    Store,
    processes_of,
    wait_until,
)

Kind = Literal["outside", "private", "sentinel", "clock"]
HOLD = 6.0
SETTINGS = """
[sink.file]
kind = "file"
path = "{folder}/lines/file.jsonl"
rotate_mib = 64
keep = 0
longest_pause = 1.0
"""
CONFIG = {
    "options": {"disable_distributed": False, "distributed_interval": 1},
    "schedule": {"heartbeat": {"query": "select 1", "interval": 60}},
}
_FAKETIME = "faketime/libfaketime.so.1"
_RELOADABLE = ("server.pem", "server.key", "ca.pem")


@attrs.define
class Stage:
    """
    One host; :meth:`begin` builds it up, :meth:`clean` takes everything away again.

    :ivar kind: ``outside``: a store beyond a network, and two workers; ``private``: the server's own Valkey, and no
        worker beside it; ``sentinel``: a store that can fail over; ``clock``: as ``outside``, and the clock can be set.
    """

    reactor: Any
    kind: Kind
    folder: Path = attrs.field(factory=lambda: Path(tempfile.mkdtemp(prefix="fm-", dir="/tmp")))
    port: int = attrs.field(factory=free_port)
    disks: dict[str, SmallDisk] = attrs.field(factory=dict)
    store: Store | None = None
    replica: Store | None = None
    sentinels: Sentinels | None = None
    relay: Relay | None = None
    starts: int = 0
    server: Program = attrs.field(init=False)
    certificates: CertificateSource = attrs.field(init=False)
    _good_files: dict[str, bytes] = attrs.field(factory=dict, init=False)

    async def begin(self) -> None:
        """
        Start everything; fires when nodes are served.

        :raise Missing: the stage takes something that is not there.
        """
        disks = {"carves": "state/carves", "lines": "lines"}
        disks["store"] = "state/store" if self.kind == "private" else "outside"
        for name, where in disks.items():
            self.disks[name] = SmallDisk(self.folder / where)
            self.disks[name].mount()
        (self.folder / "state").chmod(0o700)
        (self.folder / "settings.toml").write_text(SETTINGS.format(folder=self.folder))
        (self.folder / "config").mkdir()
        (self.folder / "config" / "all.conf").write_text(json.dumps(CONFIG))
        words = [str(BIN / "twistd"), "-n", "--pidfile=", "osqtwist", "--settings", "settings.toml"]
        words += ["--port", f"ssl:{self.port}:interface=127.0.0.1", "--config", "config", "--hold", str(HOLD)]
        words += ["--carve-min-free-mib", "1", "--workers", "1" if self.kind == "private" else "2"]
        if self.kind != "private":
            words += ["--redis", self._begin_store()]
        self.server = Program(words, self.folder, self._environment(), "twistd.log")
        await self.start_server()
        self.certificates = CertificateSource.of(self.folder / "certs")
        self._good_files = {name: (self.folder / "certs" / name).read_bytes() for name in _RELOADABLE}

    def _begin_store(self) -> str:
        self.store = Store(self.folder / "outside" / "one")
        self.store.start()
        if self.kind != "sentinel":
            self.relay = Relay(self.store.port)
            self.relay.start()
            return f"redis://127.0.0.1:{self.relay.port}"
        self.replica = Store(self.folder / "outside" / "two", more=["--replicaof", "127.0.0.1", str(self.store.port)])
        self.replica.start()
        self.sentinels = Sentinels(self.folder / "outside" / "sentinel", self.store.port)
        self.sentinels.program.start()
        wait_until(self.sentinels.knows_a_replica, "a sentinel that knows the replica", 40)
        return f"sentinel://127.0.0.1:{self.sentinels.port}/main"

    def _environment(self) -> dict[str, str]:
        if self.kind != "clock":
            return {}
        found = [path / _FAKETIME for path in Path("/usr/lib").glob("*-linux-gnu") if (path / _FAKETIME).exists()]
        if not found:
            raise Missing("libfaketime: install the Debian package faketime")
        self.set_clock(0)
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    # -- the server

    async def start_server(self) -> None:
        """Start twistd, and wait until it serves."""
        self.starts += 1
        before = len(self.log())
        self.server.start()
        if not await self.until(lambda: "serves operators" in self.log()[before:] or not self.server.pid, 40):
            raise AssertionError(f"the server does not start:\n{self.log()[-3000:]}")
        if not self.server.pid:
            raise AssertionError(f"the server did not start:\n{self.log()[-3000:]}")

    async def keep_up(self) -> None:
        """Start the server again if it ended, as systemd would."""
        if not self.server.pid:
            await self.start_server()

    def log(self) -> str:
        """The server's whole log."""
        path = self.folder / "twistd.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def pid_of(self, part: str) -> int:
        """A process: ``server``, ``worker``, ``delivery``, ``private store``; 0 while there is none."""
        if part == "server":
            return self.server.pid
        words = {"worker": b"osqtwist.worker", "delivery": b"osqtwist.delivering", "private store": b"valkey"}[part]
        return next((pid for pid, command in processes_of(self.folder) if words in command), 0)

    def pids_of_workers(self) -> list[int]:
        """Every process that serves nodes."""
        found = [pid for pid, command in processes_of(self.folder) if b"osqtwist.worker" in command]
        return found or [self.server.pid]

    def send(self, part: str, number: signal.Signals) -> None:
        """Send a signal to a part that has to be there."""
        pid = self.pid_of(part)
        if not pid:
            raise AssertionError(f"there is no {part} to disturb")
        os.kill(pid, number)

    # -- what is around it

    def set_clock(self, seconds: int) -> None:
        """Have the clock show so many seconds more than it is, or fewer."""
        (self.folder / "clock.new").write_text(f"{seconds:+d}\n")
        (self.folder / "clock.new").replace(self.folder / "clock")

    def spoil_certificates(self) -> None:
        """Put rubbish into the files of TLS."""
        for name in _RELOADABLE:
            (self.folder / "certs" / name).write_bytes(b"this is no certificate\n")

    def mend_certificates(self) -> None:
        """Put back what was there."""
        for name, content in self._good_files.items():
            (self.folder / "certs" / name).write_bytes(content)

    # -- asking it

    @property
    def nodes_server(self) -> Server:
        """Where nodes go."""
        return Server("localhost", self.port, "127.0.0.1")

    @property
    def ca_file(self) -> str:
        """What nodes trust; a copy, as the other may be spoilt."""
        kept = self.folder / "trusted.pem"
        if not kept.exists():
            shutil.copyfile(self.folder / "certs" / "ca.pem", kept)
        return str(kept)

    @property
    def enroll_secret(self) -> str:
        """What nodes enroll by."""
        return (self.folder / "state" / "enroll-secret").read_text().split()[0]

    async def ask(self, method: str, path: str, body: Any = None, seconds: float = 30.0) -> tuple[int, bytes]:
        """Status and body of an operator's request; status 0 if nobody answers."""
        http = HTTPClient(Door(self.folder / "state" / "admin.sock").agent(self.reactor))
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        try:
            response = await http.request(method, f"http://admin{path}", data=data, headers=headers, timeout=seconds)
            content = await treq.content(response)
        except Exception as problem:
            return 0, str(problem).encode()
        return response.code, content

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer, which has to be good."""
        code, content = await self.ask(method, path, body)
        if not 200 <= code < 300:
            raise AssertionError(f"{method} {path}: {code} {content[:300]!r}")
        return json.loads(content)

    async def metrics(self) -> dict[str, float]:
        """Every sample as Prometheus would read it; empty if nobody answers."""
        code, content = await self.ask("GET", "/metrics")
        found = {}
        if code == 200:
            for line in content.decode().splitlines():
                if not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    found[name] = float(value)
        return found

    async def until(self, is_so: Any, seconds: float, step: float = 0.1) -> bool:
        """Wait for something; answers with whether it came to be."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = is_so()
            if hasattr(found, "__await__"):
                found = await found
            if found:
                return True
            await deferLater(self.reactor, step)
        return False

    async def in_thread(self, work: Any, *arguments: Any) -> Any:
        """Do something that blocks while nodes go on."""
        return await deferToThread(work, *arguments)

    def ask_store(self, *words: str) -> Any:
        """What the store says to a command; blocks."""
        path = str(self.folder / "state" / "store" / "valkey.sock")
        place = self.store.place if self.store else RedisPlace("unix", (), path, Login())
        with BlockingRedis.to(place) as talk:
            return talk.ask(*words)

    def lines(self) -> list[dict[str, Any]]:
        """What the file sink has."""
        found = []
        for path in sorted((self.folder / "lines").glob("file*.jsonl*")):
            for line in path.read_bytes().splitlines():
                # While the disk is full, the last line may be half of one.
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def troubles(self) -> list[str]:
        """Lines of the log that no fault excuses."""
        found = re.findall(r"^.*(?:Traceback|Unhandled|incident [0-9a-f]{12}).*$", self.log(), re.MULTILINE)
        return [str(line) for line in found]

    async def clean(self, keep: bool = False) -> None:
        """End everything in order as far as possible; the folder goes unless it is kept."""
        with contextlib.suppress(AttributeError):
            self.server.signal(signal.SIGCONT)
            self.server.signal(signal.SIGTERM)
            await self.until(lambda: not self.server.pid, 20)
            self.server.kill()
        if self.relay:
            self.relay.stop()
        for program in (self.sentinels, self.replica, self.store):
            if program:
                program.program.kill()
        for pid, _ in list(processes_of(self.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        await deferLater(self.reactor, 0.2)
        for disk in reversed(list(self.disks.values())):
            disk.unmount()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
