"""A scene: osqtwist as twistd runs it, with a fleet before it; started, measured from ``/proc``, killed, ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from bench.servers import BIN, Certificates

_TICK = os.sysconf("SC_CLK_TCK")
_MOST_FILES = 65536
# What twistd does, after --hold may be more than osquery would wait for.
_UNCAPPED = """
import osqtwist.settings
osqtwist.settings.MAX_HOLD = 3600.0
from twisted.scripts.twistd import run
run()
"""


def processes(root: int) -> list[int]:
    """A process and all that came of it."""
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def cpu(pid: int, *, reaped: bool = False) -> float:
    """Seconds of CPU of a process; with those of its children that ended, if asked."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11 : 15 if reaped else 13])) / _TICK


def resident(pid: int) -> int:
    """Bytes of memory of a process: its proportional share of what it shares with others (Pss)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Pss of {pid}")


class Fleet:
    """
    A running ``bench.fleet``.

    :ivar lines: its progress so far, each with ``server_cpu`` if the scene is still there.
    """

    def __init__(self, scene: Scene, words: list[str]) -> None:
        self.scene = scene
        self.lines: list[dict[str, Any]] = []
        self.report: dict[str, Any] = {}
        self._news: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.fleet", *words], stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            said = json.loads(line)
            # Here, at once: whoever waits for news may be late.
            if "report" not in said:
                said["server_cpu"], said["store_cpu"] = self.scene.cpu(), self.scene.store_cpu()
            self._news.put(said)
        if self._process.stdout:
            self._process.stdout.close()
        self._news.put(None)

    def news(self, within: float = 60.0) -> dict[str, Any] | None:
        """The next line of progress, or nothing once it has ended."""
        said = self._news.get(timeout=within)
        if said is None:
            return None
        if "report" in said:
            self.report = said["report"]
            return self.news(within)
        self.lines.append(said)
        return said

    def until(self, is_so: Any, within: float) -> dict[str, Any]:
        """The first progress of which something is so."""
        end = time.monotonic() + within
        while (line := self.news()) is not None:
            if is_so(line):
                return line
            if time.monotonic() > end:
                raise RuntimeError(f"not within {within:.0f} s: {line}")
        raise RuntimeError("the fleet has ended")

    def end(self) -> dict[str, Any]:
        """End it; answers with its report."""
        if self._process.poll() is None and not self.report:
            self._process.send_signal(signal.SIGTERM)
        while self.news() is not None:
            pass
        self._process.wait(30)
        return self.report

    def wait(self) -> dict[str, Any]:
        """Have it end by itself; answers with its report."""
        while self.news() is not None:
            pass
        self._process.wait(30)
        return self.report

    def kill(self) -> None:
        """End it without a report, if it is still there."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)


@attrs.define
class Scene:
    """
    A server and the folder that it lives in.

    :ivar options: those of the server beside what every scene has.
    """

    folder: Path
    port: int
    options: list[str]
    uncapped: bool = False
    inherited: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that twistd became."""
        if self.process is None:
            raise RuntimeError("the server does not run")
        return self.process.pid

    def start(self) -> None:
        """Start the server; returns when it serves."""
        certs = self.folder / "certs"
        words = [sys.executable, "-c", _UNCAPPED] if self.uncapped else [str(BIN / "twistd")]
        port = "systemd:index=0" if self.inherited else f"ssl:{self.port}:interface=127.0.0.1"
        words += ["-n", "--pidfile=", "osqtwist", "--port", port]
        words += ["--cert", str(certs / "server.pem"), "--key", str(certs / "server.key")]
        words += ["--client-ca", str(certs / "ca.pem"), "--client-auth", "required", "--request-log", "no"]
        words += ["--enroll-secret-path", "secret", "--node-log-kib", "0", *self.options]
        descriptors: tuple[int, ...] = ()
        if self.inherited:
            # systemd's convention: descriptors from 3 on, and the pid of the process that they are for.
            script = 'exec 3<&"$1"; shift; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=nodes; exec "$@"'
            words = ["bash", "-c", script, "bash", str(self.inherited.fileno()), *words]
            descriptors = (self.inherited.fileno(),)
        out = self.folder / "out"
        with out.open("ab") as file:
            mark = file.tell()
            self.process = subprocess.Popen(
                words,
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
            )
        _raise_limit(self.process.pid)
        deadline = time.monotonic() + 40
        while b"serves operators" not in out.read_bytes()[mark:]:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{out.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill everything of the server but the store, as a crash would."""
        store = self.store_pids()
        for pid in processes(self.pid):
            if pid not in store:
                os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait(10)
        self.process = None

    def stop(self) -> None:
        """End the server in order."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def pids(self) -> list[int]:
        """The server's processes: main, workers, delivery and store."""
        return processes(self.pid) if self.process else []

    def store_pids(self) -> list[int]:
        """The store's among them."""
        return [pid for pid in self.pids() if "valkey" in _program(pid)]

    def node_pids(self) -> list[int]:
        """Those that serve nodes."""
        workers = [pid for pid in self.pids() if "osqtwist.worker" in _program(pid)]
        return workers or [self.pid]

    def cpu(self) -> float:
        """Seconds of CPU of all of them so far."""
        return sum(cpu(pid) for pid in self.pids())

    def store_cpu(self) -> float:
        """Of the store alone."""
        return sum(cpu(pid) for pid in self.store_pids())

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """What the operators' API answers."""
        connection = http.client.HTTPConnection("admin", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.folder / "state" / "admin.sock"))
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse().read()
        return json.loads(answer) if answer[:1] in (b"{", b"[") else answer

    def store(self, *command: str) -> Any:
        """What the private Valkey answers to a command."""
        import hiredis

        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(30)
            raw.connect(str(self.folder / "state" / "store" / "valkey.sock"))
            raw.sendall(hiredis.pack_command(command))
            reader = hiredis.Reader()
            while (answer := reader.gets()) is False:
                reader.feed(raw.recv(1 << 20))
        return answer

    def commands(self) -> dict[str, int]:
        """How often each command was called in the store, by clients; those that scripts call are not told apart."""
        text = self.store("INFO", "commandstats").decode()
        pairs = (line.removeprefix("cmdstat_").split(":calls=") for line in text.splitlines() if ":calls=" in line)
        return {name: int(rest.split(",")[0]) for name, rest in pairs}

    def fleet(self, nodes: int, mix: str, **options: Any) -> Fleet:
        """Start a fleet before the server: the options of ``bench.fleet``, with underscores."""
        certs = self.folder / "certs"
        words = ["--url", f"https://localhost:{self.port}", "--nodes", str(nodes), "--mix", mix, "--progress", "0.5"]
        words += [
            "--ca",
            str(certs / "ca.pem"),
            "--ca-key",
            str(certs / "ca.key"),
            *([] if "seconds" in options else ["--seconds", "0"]),
        ]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return Fleet(self, words)


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def _raise_limit(pid: int) -> None:
    # Before it starts anything: its children inherit it.
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(hard, _MOST_FILES), max(hard, _MOST_FILES)))


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def scene(*options: str, keys: str = "P-256", uncapped: bool = False, shared_socket: bool = False) -> Iterator[Scene]:
    """
    A server that runs.

    :param uncapped: let ``--hold`` be longer than osquery would wait, so that more reads are held at one time than
        this machine could make connections for.
    :param shared_socket: give all workers one listening socket, as systemd does.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osqtb-")))
        Certificates.mint(folder / "certs", keys)
        (folder / "secret").write_text("bench-secret\n")
        made = Scene(folder, free_port(), list(options), uncapped)
        if shared_socket:
            made.inherited = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
            made.port = made.inherited.getsockname()[1]
        made.start()
        try:
            yield made
        finally:
            made.stop()
