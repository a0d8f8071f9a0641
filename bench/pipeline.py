"""osqtwist with one sink, and what each of its processes uses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from bench import servers
from bench.servers import BIN, Certificates, cpu_of

ROOT = Path(__file__).parent.parent
PARTS = ("server", "store", "delivery")


@attrs.frozen
class Pipeline:
    """
    A running server with its private Valkey and its delivery process.

    :ivar pids: the processes of each of :data:`PARTS`.
    """

    folder: Path
    port: int
    certificates: Certificates
    pids: dict[str, list[int]]

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far, by part."""
        return {part: sum(map(cpu_of, pids)) for part, pids in self.pids.items()}

    def rss(self) -> dict[str, int]:
        """Resident KiB now, by part."""
        return {part: sum(map(_rss_of, pids)) for part, pids in self.pids.items()}

    def operate(self, *words: str) -> None:
        """Run an ``osqtwist`` command."""
        subprocess.run([str(BIN / "osqtwist"), *words], cwd=self.folder, check=True, timeout=30, capture_output=True)

    def load(self, **order: Any) -> LoadProcess:
        """Have log lines posted; see :func:`bench.logload.post_all`."""
        files = {"ca": "ca.pem", "cert": "node.pem", "key": "node.key"}
        paths = {name: self.certificates.path(file) for name, file in files.items()}
        return LoadProcess({"port": self.port, "first": 0, "rate": 0, "keep": False, **paths, **order})


class LoadProcess:
    """A process that posts as it was ordered to."""

    def __init__(self, order: dict[str, Any]) -> None:
        words = [sys.executable, "-m", "bench.logload"]
        self._process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order))
        self._process.stdin.close()
        self._process.stdin = None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def result(self, seconds: float) -> dict[str, Any]:
        """
        What it found.

        :raise RuntimeError: it failed, or a post was not acknowledged.
        """
        said = self._process.communicate(timeout=seconds)[0]
        if self._process.returncode:
            raise RuntimeError(f"the load ended with {self._process.returncode}")
        result: dict[str, Any] = json.loads(said)
        if result["failed"]:
            raise RuntimeError(f"{result['failed']} posts failed: {result['failures']}")
        return result

    def end(self) -> None:
        """End it, if it has not ended."""
        if self.is_running:
            self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def pipeline(folder: Path, certificates: Certificates, sink: str, options: Sequence[str] = ()) -> Iterator[Pipeline]:
    """
    Start one.

    :param sink: the keys of its sink, as TOML.
    :param options: more options of the server.
    """
    folder.mkdir()
    (folder / "settings.toml").write_text(f"[sink.bench]\n{sink}")
    words = ["--settings", "settings.toml", "--node-log-kib", "0", *options]
    pids: dict[str, list[int]] = {part: [] for part in PARTS}
    try:
        with servers.osqtwist(folder, certificates, options=words, ready="delivers to bench") as measured:
            for pid in measured.pids + measured.beside:
                pids[_part_of(_words_of(pid))].append(pid)
            yield Pipeline(folder, measured.port, certificates, pids)
    finally:
        # All end with the server, unless it had to be killed: then its Valkey, in a session of its own, may be left.
        for pid in pids["store"]:
            with contextlib.suppress(OSError):
                if folder in Path(f"/proc/{pid}/cwd").readlink().parents:
                    os.kill(pid, signal.SIGKILL)


def _part_of(words: bytes) -> str:
    return "delivery" if b"osqtwist.delivering" in words else "store" if b"valkey" in words else "server"


def _words_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _rss_of(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0
