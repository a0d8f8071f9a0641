"""The rotated files of a path, their names, and what becomes of them."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs

_BLOCK = 2**18


@attrs.define(eq=False)
class RotatedFiles:
    """
    The rotated files of a path: compresses them and removes the oldest.

    :ivar stop: set to give up soon.
    """

    path: Path
    keep: int
    compress: bool
    tell: Callable[[str], None]
    stop: threading.Event = attrs.field(factory=threading.Event, init=False)

    def files(self) -> list[Path]:
        """All, compressed or not, the oldest first."""
        return sorted(self._matching("(?:[.]gz)?"), key=lambda path: (path.name.removesuffix(".gz"), path.name))

    def tidy(self) -> None:
        """Do what is to be done; blocks.  What a crash left half-done is done again."""
        try:
            for stale in self._matching("[.]gz[.]tmp"):
                if not stale.with_name(stale.name.removesuffix(".gz.tmp")).exists():
                    stale.unlink(missing_ok=True)
            names = list(dict.fromkeys(path.name.removesuffix(".gz") for path in self.files()))
            for name in names[: -self.keep] if self.keep else []:
                for ending in ("", ".gz"):
                    self.path.with_name(name + ending).unlink(missing_ok=True)
            for path in self._matching("") if self.compress else []:
                self._compress(path)
        except OSError as problem:
            self.tell(f"{problem.filename or self.path}: rotated files are left as they are: {problem.strerror}")

    def _matching(self, ending: str) -> list[Path]:
        pattern = re.compile(
            rf"{re.escape(self.path.stem)}-\d{{8}}T\d{{6}}Z(?:_\d+)?{re.escape(self.path.suffix)}{ending}"
        )
        return sorted(path for path in self.path.parent.iterdir() if pattern.fullmatch(path.name))

    def _compress(self, path: Path) -> None:
        done, unfinished = path.with_name(f"{path.name}.gz"), path.with_name(f"{path.name}.gz.tmp")
        with contextlib.suppress(BlockingIOError, FileNotFoundError), path.open("rb") as source:
            # Another process with the same path may be at it.
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
            facts = os.fstat(source.fileno())
            if not path.exists():
                return
            if not done.exists():
                try:
                    with open(unfinished, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as target:
                        os.fchmod(target.fileno(), stat.S_IMODE(facts.st_mode))
                        with contextlib.suppress(PermissionError):
                            os.fchown(target.fileno(), facts.st_uid, facts.st_gid)
                        with gzip.GzipFile("", "wb", 6, target, int(facts.st_mtime)) as packed:
                            while block := source.read(_BLOCK):
                                packed.write(block)
                                if self.stop.is_set():
                                    break
                        target.flush()
                        os.fsync(target.fileno())
                    if self.stop.is_set():
                        unfinished.unlink()
                        return
                    os.utime(unfinished, ns=(facts.st_atime_ns, facts.st_mtime_ns))
                    unfinished.rename(done)
                    sync_folder(path.parent)
                except OSError:
                    unfinished.unlink(missing_ok=True)
                    raise
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Make names in a folder safe."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def free_name(path: Path, now: float) -> Path:
    """A rotated name after all others of the same second; their counter comes behind ``_``, which sorts after a dot."""
    base = f"{path.stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    pattern = re.compile(rf"{re.escape(base)}(?:_(\d+))?{re.escape(path.suffix)}(?:[.]gz)?")
    taken = [int(found[1] or 1) for each in path.parent.iterdir() if (found := pattern.fullmatch(each.name))]
    return path.with_name(f"{base}_{max(taken) + 1:03}{path.suffix}" if taken else base + path.suffix)
