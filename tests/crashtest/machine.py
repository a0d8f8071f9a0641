"""What the crash test runs: twistd with its delivery process and private Valkey, and the sinks they write to."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

BIN = Path(sys.executable).parent
SMALL_DISK_MIB = 48
SETTINGS = """
[sink.file]
kind = "file"
path = "{folder}/lines/file.jsonl"
rotate_mib = 1
keep = 0

[sink.small]
kind = "file"
path = "{folder}/small/small.jsonl"
rotate_mib = 1
keep = 0
longest_pause = 1.0

[sink.hook]
kind = "webhook"
url = "http://127.0.0.1:{port}/lines"
timeout = 2.0
longest_pause = 1.0
"""


def free_port() -> int:
    """A port of the loopback address that nobody listens at."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@attrs.define
class Machine:
    """
    One host, in a folder.

    :ivar is_disk_small: whether the folder of the sink ``small`` is a small file system of its own, as root can make.
    """

    folder: Path
    durability: str
    port: int = attrs.field(factory=free_port)
    hook_port: int = attrs.field(factory=free_port)
    starts: int = 0
    is_disk_small: bool = False
    _server: subprocess.Popen[bytes] | None = None
    _receiver: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Folders, settings and the small file system; the server makes its certificates itself."""
        (self.folder / "lines").mkdir()
        small = self.folder / "small"
        small.mkdir()
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MIB}m", "tmpfs", str(small)]
        with contextlib.suppress(OSError):
            self.is_disk_small = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
        (self.folder / "settings.toml").write_text(SETTINGS.format(folder=self.folder, port=self.hook_port))

    def start_server(self) -> None:
        """Start twistd, as systemd would after it ended."""
        self.starts += 1
        words = ["-n", "--pidfile=", "osqtwist", "--port", f"ssl:{self.port}:interface=127.0.0.1"]
        words += ["--settings", "settings.toml", "--durability", self.durability]
        with (self.folder / "twistd.log").open("ab") as log:
            self._server = subprocess.Popen(
                [str(BIN / "twistd"), *words], cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )

    def start_receiver(self) -> None:
        """Start the HTTP receiver."""
        words = ["-m", "tests.crashtest.receiver", str(self.hook_port), str(self.folder / "lines" / "hook.jsonl")]
        self._receiver = subprocess.Popen([sys.executable, *words], cwd=Path(__file__).parent.parent.parent)

    def restart_what_ended(self) -> None:
        """Start server and receiver again if they are gone."""
        if self._server is not None and self._server.poll() is not None:
            self.start_server()
        if self._receiver is not None and self._receiver.poll() is not None:
            self.start_receiver()

    def pid_of(self, part: str) -> int | None:
        """The process of a part: ``worker``, ``delivery``, ``store`` or ``receiver``; ``None`` while there is none."""
        own = {"worker": self._server, "receiver": self._receiver}
        if part in own:
            process = own[part]
            return process.pid if process is not None and process.poll() is None else None
        words = {"delivery": b"osqtwist.delivering", "store": b"valkey"}[part]
        for pid, command in _processes_in(self.folder):
            if words in command:
                return pid
        return None

    def send(self, part: str, number: signal.Signals) -> bool:
        """Send a signal to a part; whether there was one."""
        pid = self.pid_of(part)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True

    def refuse(self, is_refusing: bool) -> None:
        """Have the receiver answer 503, or no longer."""
        mark = self.folder / "lines" / "hook.jsonl.refuse"
        mark.touch() if is_refusing else mark.unlink(missing_ok=True)

    def fill_disk(self, is_full: bool) -> None:
        """Use up the small file system, or give the room back."""
        ballast = self.folder / "small" / "ballast"
        if not is_full:
            ballast.unlink(missing_ok=True)
            return
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            for _ in range(SMALL_DISK_MIB * 16):
                file.write(bytes(65536))
            while True:
                file.write(bytes(1))

    def ask(self, *words: str) -> Any:
        """What an ``osqtwist`` command answers; ``None`` if it fails."""
        command = [str(BIN / "osqtwist"), "--json", *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=30, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def received(self, sink: str) -> Iterator[tuple[str, int]]:
        """Node and number of each line that a sink has, in no order."""
        folder = self.folder / ("small" if sink == "small" else "lines")
        for path in sorted(folder.glob(f"{sink}*.jsonl*")):
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                for line in file:
                    document = json.loads(line)
                    if document.get("name") == "numbered":
                        yield document["hostIdentifier"], int(document["columns"]["number"])

    def troubles(self) -> list[str]:
        """Lines of the server's log that no fault excuses."""
        text = (self.folder / "twistd.log").read_text("utf-8", "replace")
        return [line for line in text.splitlines() if "Traceback" in line or "Unhandled" in line]

    def stop(self) -> int | None:
        """End what runs, in order; answers with the server's exit status."""
        status = None
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            status = self._server.wait(30)
        if self._receiver is not None:
            self._receiver.kill()
            self._receiver.wait(10)
        return status

    def clean(self) -> None:
        """Kill what is left, and give the small file system back."""
        for process in (self._server, self._receiver):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(10)
        deadline = time.monotonic() + 5
        while (left := [pid for pid, _ in _processes_in(self.folder)]) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        if self.is_disk_small:
            subprocess.run(["umount", str(self.folder / "small")], capture_output=True, check=False)


def _processes_in(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Processes that run in a folder, or below it, with their command lines."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            where = (path / "cwd").readlink()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if command and (where == folder or folder in where.parents):
            yield int(path.name), command
