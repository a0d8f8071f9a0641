"""As a service of systemd: sockets that it holds, notification, watchdog, reload, restart; and the unit files."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from osqtwist.settings import gather
from osqtwist.systemd import Notifier, Watchdog
from tests.test_delivery_process import until
from tests.test_revocation_processes import Own
from tests.test_twistd import BIN

UNITS = Path(__file__).parent.parent / "packaging" / "systemd"

# -- what is said


def test_without_systemd_nothing_is_said() -> None:
    """And what it has set is taken out of the environment, so that no child speaks for us."""
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    assert Notifier.take(environment) == Notifier("/nowhere", 30.0)
    assert environment == {"A": "b"}
    assert Notifier.take({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).watchdog == 0
    assert Notifier.take({"WATCHDOG_USEC": "1000000"}) == Notifier()
    for notifier in (Notifier(), Notifier("/nowhere")):
        notifier.ready("x")
        notifier.alive()


class Ear:
    """A socket such as systemd's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.heard: list[str] = []

    def hear(self) -> list[str]:
        """All so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard += self.socket.recv(4096).decode().splitlines()
        return self.heard


@pytest.fixture
def ear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ear]:
    made = Ear(tmp_path_factory.mktemp("n") / "notify")
    yield made
    made.socket.close()


def test_the_watchdog_is_fed_while_calls_of_the_store_end(ear: Ear) -> None:
    """Well or badly; one that never ends lets systemd start us again."""
    clock, calls = Clock(), list[Deferred[None]]()

    async def ping() -> None:
        calls.append(Deferred())
        await calls[-1]

    watchdog = Watchdog(clock, Notifier(str(ear.path), 30.0), ping)
    watchdog.startService()
    assert ear.hear() == []
    calls.pop().callback(None)
    assert ear.hear() == ["WATCHDOG=1"]
    clock.advance(10)
    calls.pop().errback(OSError("away"))
    assert ear.hear() == ["WATCHDOG=1"] * 2
    clock.pump([10] * 6)
    assert ear.hear() == ["WATCHDOG=1"] * 2, "this call hangs, so no other is tried"
    assert len(calls) == 1
    watchdog.stopService()


# -- the unit files


@pytest.mark.slow
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
def test_the_sandbox_is_rated_well(unit: str) -> None:
    """By systemd itself."""
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is not installed: apt-get install systemd")
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", str(UNITS / unit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_units_fit_each_other_and_the_settings() -> None:
    """Names of sockets, folders and files; the settings that come with them can be read."""
    settings = gather({}, {}, str(UNITS / "osqtwist.toml"))
    sockets = {path.name: path.read_text() for path in UNITS.glob("*.socket")}
    names = {re.findall(r"^FileDescriptorName=(.*)$", text, re.M)[0] for text in sockets.values()}
    assert {*settings.port, settings.admin} == {f"systemd:name={name}" for name in names}
    service = (UNITS / "osqtwist.service").read_text()
    assert f"Sockets={' '.join(sorted(sockets, reverse=True))}" in service
    assert f"WorkingDirectory={settings.state}" in service
    for path in UNITS.glob("*.service"):
        (start,) = re.findall(r"^ExecStart=/opt/osqtwist/bin/twistd (.*)$", path.read_text(), re.M)
        assert "--settings /etc/osqtwist/osqtwist.toml" in start


# -- a service


@attrs.define
class Systemd:
    """As much of it as a service sees: it holds the sockets, and listens to what it is told."""

    folder: Path
    own: Own
    ear: Ear
    nodes: socket.socket
    admin: socket.socket
    words: list[str]
    process: subprocess.Popen[str] | None = None
    starts: int = 0

    @property
    def port(self) -> int:
        """Where nodes connect."""
        return int(self.nodes.getsockname()[1])

    def text(self) -> str:
        """The log of the newest process."""
        return (self.folder / f"log-{self.starts}").read_text()

    def begin(self, wait: bool = True) -> None:
        """Start the service."""
        self.starts += 1
        # systemd passes its sockets from descriptor 3 on, and says to whom.
        program = (
            "import fcntl, os, sys\n"
            "a, b = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in sys.argv[1:3])\n"
            "os.dup2(a, 3); os.dup2(b, 4)\n"
            "os.environ['LISTEN_PID'] = os.environ['WATCHDOG_PID'] = str(os.getpid())\n"
            "os.execv(sys.argv[3], sys.argv[3:])\n"
        )
        sockets = (self.nodes.fileno(), self.admin.fileno())
        words = [str(BIN / "twistd"), "-n", "--pidfile=", "osqtwist", *self.words]
        environment = {
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": "nodes:admin",
            "NOTIFY_SOCKET": str(self.ear.path),
            "WATCHDOG_USEC": "1500000",
        }
        with (self.folder / f"log-{self.starts}").open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *(str(each) for each in sockets), *words],
                cwd=self.folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | environment,
                pass_fds=sockets,
            )
        if wait:
            try:
                until(lambda: "READY=1" in self.ear.hear() or self.process.poll() is not None, 40)
            finally:
                assert "READY=1" in self.ear.heard, self.text()

    def end(self) -> None:
        """Stop it in order."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(40) in (0, -signal.SIGTERM)

    def ask(self, path: str, body: Any) -> Any:
        """As a node."""
        certs = self.own.path.parent / "certs"
        context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
        context.load_cert_chain(certs / "node.pem", certs / "node.key")
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=30, context=context)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body).encode())
            return json.loads(connection.getresponse().read())

    def look(self, path: str) -> Any:
        """As an operator."""
        words = ["curl", "-s", "--unix-socket", self.admin.getsockname(), f"http://x/api/v1/{path}"]
        return json.loads(subprocess.run(words, check=True, timeout=10, capture_output=True).stdout)


@pytest.fixture
def service(ear: Ear, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    folder = tmp_path_factory.mktemp("s")
    own = Own(folder)
    settings = folder / "osqtwist.toml"
    settings.write_text("hold = 2\n")
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as nodes, socket.socket(socket.AF_UNIX) as admin:
        admin.bind(str(folder / "admin.sock"))
        admin.listen(128)
        words = ["--port", "systemd:name=nodes", "--admin", "systemd:name=admin", "--settings", str(settings)]
        made = Systemd(folder, own, ear, nodes, admin, [*words, *own.options])
        yield made
        if made.process and made.process.poll() is None:
            made.process.kill()
            made.process.wait(10)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_service_from_start_to_stop(service: Systemd) -> None:
    """It says that it is ready once it serves, feeds the watchdog, reads files again, and says that it stops."""
    service.begin()
    heard = service.ear.hear
    assert service.ask("/config", {"node_key": ""})["schedule"]
    assert service.look("status")["nodes"] >= 0
    until(lambda: heard().count("WATCHDOG=1") >= 3)
    assert service.process is not None
    (service.folder / "osqtwist.toml").write_text("hold = 3\nlog_budget_mib = 5\n")
    service.process.send_signal(signal.SIGHUP)
    until(lambda: heard().count("READY=1") == 2)
    words = [line.partition("=")[0] for line in heard() if not line.startswith("WATCHDOG")]
    assert words == ["READY", "STATUS", "RELOADING", "MONOTONIC_USEC", "READY", "STATUS"]
    until(lambda: "in force only after a restart: hold, log_budget_mib" in service.text())
    (service.folder / "osqtwist.toml").write_text("hold = 99\n")
    service.process.send_signal(signal.SIGHUP)
    until(lambda: "the settings of now would not start a server: --hold is 99" in service.text())
    service.end()
    assert "STOPPING=1" in heard()
    assert "Traceback" not in service.text()
    assert Path(service.admin.getsockname()).exists(), "the sockets are systemd's"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_process_that_hangs_feeds_no_watchdog(service: Systemd) -> None:
    """Here it is stopped; the store's side is tested with a clock."""
    service.begin()
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)
    service.ear.hear()
    service.ear.heard.clear()
    time.sleep(1.6)
    assert service.ear.hear() == []
    service.process.send_signal(signal.SIGCONT)
    until(lambda: "WATCHDOG=1" in service.ear.hear())


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_restart_refuses_nobody(service: Systemd, workers: str) -> None:
    """Nodes that post and hold reads all the while see no refused connection and lose no answer; two restarts."""
    service.words += ["--workers", workers]
    service.begin()
    assert service.ask("/config", {"node_key": ""})
    stop, failures, slowest = threading.Event(), list[str](), [0.0]
    posted = list[str]()

    def node(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            began = time.monotonic()
            name = f"{number}-{count}"
            is_post = (number + count) % 3
            try:
                if is_post:
                    answer = service.ask("/log", {"node_key": "", "log_type": "result", "data": [{"name": name}]})
                else:
                    answer = service.ask("/distributed/read", {"node_key": ""})
            except Exception as problem:
                failures.append(f"{name}: {problem!r}")
                continue
            slowest[0] = max(slowest[0], time.monotonic() - began)
            if answer != {}:
                failures.append(f"{name}: {answer}")
            elif is_post:
                posted.append(name)

    nodes = [threading.Thread(target=node, args=(number,)) for number in range(6)]
    for each in nodes:
        each.start()
    for _ in range(2):
        time.sleep(1)
        service.end()
        service.ear.hear()
        service.ear.heard.clear()
        service.begin()
    time.sleep(1)
    stop.set()
    for each in nodes:
        each.join(40)
    assert failures == []
    assert len(posted) > 20
    assert slowest[0] < 16, "osquery gives up then"
    words = [str(BIN / "osqtwist"), "--json", "--socket", service.admin.getsockname(), "log", "tail", "--no-follow"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    stored = set(re.findall(r'"name": ?"(\d+-\d+)"', done.stdout.replace("\\", "")))
    assert set(posted) <= stored
    print(f"{len(posted)} posts, slowest answer {slowest[0]:.1f} s")
