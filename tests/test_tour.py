"""The tour, run as it stands: each command of docs/tour.md, with the output that it shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.test_twistd import BIN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TOUR = Path(__file__).parent.parent / "docs" / "tour.md"
BLOCK = re.compile(r"(?:<!-- (file|terminal|until)(?:: (\S+))? -->\n)?```(\w*)\n(.*?)```\n", re.S)
PATIENCE = 60.0
DONE = "-- done with status"


@attrs.frozen
class Shown:
    """A command, and what the page shows of its output."""

    command: str
    output: str

    def is_like(self, said: str) -> bool:
        """Whether some output is as it is shown: ``...`` is anything, and blanks are as many as it takes."""
        parts = [re.escape(" ".join(part.split(" "))) for part in _plain(self.output).split("...")]
        return bool(re.fullmatch(".*?".join(parts), _plain(said), re.S))

    def begins(self, said: str) -> bool:
        """The same of output that goes on: whether it has each line by now."""
        wanted = [line for line in _plain(self.output).splitlines() if line != "..."]
        return all(
            re.search(".*?".join(re.escape(part) for part in line.split("...")), _plain(said)) for line in wanted
        )


def _plain(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def shown_in(block: str) -> list[Shown]:
    """The commands of a block."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [Shown(command, "\n".join(output)) for command, output in found]


@attrs.define
class Reader:
    """Somebody who has a folder and terminals, and types."""

    folder: Path
    shell: subprocess.Popen[str]
    terminals: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(text)

    def run(self, shown: Shown, again: bool) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            said, status = self.type(shown.command)
            if shown.is_like(said) and status == 0:
                return
            assert again and time.monotonic() < deadline, f"{shown.command}\nsaid ({status}):\n{said}\n{shown.output}"
            time.sleep(1)

    def type(self, command: str) -> tuple[str, int]:
        assert self.shell.stdin and self.shell.stdout
        self.shell.stdin.write(f"{{ {command}\n}} 2>&1; echo; echo '{DONE}' $?\n")
        self.shell.stdin.flush()
        said: list[str] = []
        for line in self.shell.stdout:
            if line.startswith(DONE):
                return "".join(said), int(line.removeprefix(DONE))
            said.append(line)
        raise AssertionError(f"the shell ended: {''.join(said)}")

    def open_terminal(self, shown: Shown) -> None:
        log = self.folder / f"terminal-{len(self.terminals)}.log"
        with log.open("w") as out:
            words = ["bash", "-c", f"exec {shown.command}"]
            process = subprocess.Popen(words, cwd=self.folder, stdout=out, stderr=out, env=environment())
        self.terminals.append(process)
        deadline = time.monotonic() + PATIENCE
        while not shown.begins(log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, f"{shown.command}\n{log.read_text()}"
            time.sleep(0.1)

    def leave(self) -> None:
        for process in reversed(self.terminals):
            process.terminate()
        for process in self.terminals:
            process.wait(30)
        self.shell.communicate("exit\n", timeout=10)


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OSQTWIST_")}
    return clean | {"PATH": f"{BIN}:{clean['PATH']}", "COLUMNS": "400"}


@pytest.fixture
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if shutil.which("curl") is None:
        pytest.fail("the tour needs curl: apt-get install curl")
    folder = tmp_path_factory.mktemp("t")
    shell = subprocess.Popen(
        ["bash"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    made = Reader(folder, shell)
    yield made
    made.leave()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_tour(reader: Reader) -> None:
    """A reader who types what stands there sees what stands there."""
    text = TOUR.read_text("utf-8").replace("8443", str(free_port()))
    simulate = "osqtwist simulate"
    text = text.replace(simulate, f"{simulate} --server localhost:{re.findall(r'localhost:([0-9]+)', text)[0]}")
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```") / 2
    for what, name, language, body in blocks:
        if what == "file":
            reader.write(name, body)
            continue
        assert language == "console"
        for shown in shown_in(body):
            if what == "terminal":
                reader.open_terminal(shown)
            else:
                reader.run(shown, again=what == "until")
    # Within two seconds of the entry in the trail, which is made before anything is done.
    said, _ = reader.type("osqtwist --json audit list")
    (revoked,) = [each["at"] for each in json.loads(said) if each["action"].endswith("kiosk-7/revoke")]
    assert -0.1 < (reader.folder / "held.json").stat().st_mtime - revoked < 2
    assert "Traceback" not in (reader.folder / "terminal-0.log").read_text()
