"""
What the documents show is done: every block of commands, against one running server with five simulated nodes.

Each document's blocks run in order, in one folder, as they stand there.  Before a block there may be something to be
prepared (:data:`BEFORE`), and for some words of it something else to be put (:meth:`Scene.filled`).  Lines of
``twistd osqtwist`` are parsed only, by ``test_documented_commands.py``; docs/pki.md is run by
``test_certificate_authority.py``, docs/tour.md by a test of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from tests.documentedcommands import DOCUMENTS, ROOT, Block, Step, blocks, fits
from tests.test_twistd import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

BIN = Path(sys.executable).parent
ELSEWHERE = {"docs/pki.md", "docs/tour.md"}
RUN = [name for path in DOCUMENTS if (name := str(path.relative_to(ROOT))) not in ELSEWHERE and blocks(path)]
SETTINGS = """
approve_nodes = "name:web-* or name:evil-* or name:lab-*"
[alert.usb]
when = "name:usb_devices and action:added"
[live]
approval_hours = 1
"""
LAYER = '{"schedule": {"heartbeat": {"query": "SELECT * FROM uptime", "interval": 60, "snapshot": true}}}'
STATUS = {"osqtwist config diff": {1}, "osqtwist config import": {0, 4}}
"""Exit statuses other than 0 that the document speaks of."""
ENDLESS = ("osqtwist simulate", "osqtwist log tail", "osqtwist query follow")
"""What goes on until it is broken off; that it goes on is enough, once it has printed what is shown."""


@attrs.define
class Scene:
    """A running server, its nodes, and the folder in which commands run."""

    server: Server
    folder: Path
    operators_port: int = 0
    running: list[subprocess.Popen[str]] = attrs.field(factory=list)

    @property
    def fleet(self) -> str:
        """Where simulated nodes find certificates and secret."""
        folder = self.server.folder
        return f"--certs {folder / 'certs'} --enroll-secret-path {folder / 'state' / 'enroll-secret'}"

    def filled(self, command: str) -> str:
        """The command with what stands for something that is known only now."""
        for word, find in FOR.items():
            if word in command:
                command = command.replace(word, find(self))
        return command.replace(".venv/bin/", "")

    def write(self, files: dict[str, str]) -> None:
        """Put files into the folder."""
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)

    def begin(self, command: str) -> subprocess.Popen[str]:
        """Start a command in a shell."""
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OSQTWIST_STATE": str(self.server.folder / "state"),
            "COLUMNS": "200",
            "PYTHONPATH": str(ROOT / "examples" / "api-client"),
            **{f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        with (self.folder / f"output-{len(self.running)}").open("w") as output:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def output(self) -> str:
        """What the newest command has printed."""
        return (self.folder / f"output-{len(self.running) - 1}").read_text("utf-8", "replace")

    def do(self, step: Step, place: str) -> None:
        """One command: it ends well, and has printed what is shown."""
        command = self.filled(step.command)
        process = self.begin(command)
        begun = time.monotonic()
        goes_on = step.command.removeprefix(".venv/bin/").startswith(ENDLESS)
        while process.poll() is None and time.monotonic() < begun + 40:
            has_begun = self.output() if step.shown else time.monotonic() > begun + 3
            if goes_on and has_begun and fits(step.shown, self.output()):
                break
            time.sleep(0.05)
        said = f"{place}: {command}\n{self.output()}"
        assert fits(step.shown, self.output()), said
        if goes_on:
            assert process.poll() is None, said
            if "simulate" not in command:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(20)
                assert "Traceback" not in self.output(), said
        else:
            wanted = next((codes for words, codes in STATUS.items() if command.startswith(words)), {0})
            assert process.poll() in wanted, said

    def enroll(self, name: str, secret: str) -> None:
        """A node asks to be let in, with a secret and no certificate."""
        host = {"system_info": {"hostname": name, "uuid": name}}
        order = {"enroll_secret": secret, "host_identifier": name, "platform_type": "9", "host_details": host}
        self.server.ask("/enroll", order, node=None)

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Until it is so."""
        deadline = time.monotonic() + 20
        while not what():
            assert time.monotonic() < deadline, what
            time.sleep(0.2)


# -- what stands for what is known only when it is run


def newest(*words: str, key: str) -> Callable[[Scene], str]:
    """The id in the first row that a command lists."""
    return lambda scene: str(scene.server.json(*words)[0][key])


FOR: dict[str, Callable[[Scene], str]] = {
    "QUERY": newest("query", "list", key="query_id"),
    "3f2a90c1d2e4": newest("alert", "silences", key="silence_id"),
    "4be1c09a2d": newest("deny", "list", key="denial_id"),
    "https://osquery.example.com:9443": lambda scene: f"https://localhost:{scene.operators_port}",
    "/etc/osquery/": lambda scene: "etc-osquery/",
    "/usr/share/osquery/": lambda scene: "share-osquery/",
    "/etc/osqtwist/": lambda scene: "etc-osqtwist/",
    "simulate --nodes 5": lambda scene: f"simulate --nodes 5 --server localhost:{scene.server.port} {scene.fleet}",
}


# -- what is there before a block, by its first command


def nodes_wait(scene: Scene) -> None:
    """Three nodes with the server's own secret, and one with that of the block before."""
    own = (scene.server.folder / "state" / "enroll-secret").read_text("utf-8").strip()
    for name in ("web-1", "web-2", "evil-1"):
        scene.enroll(name, own)
    scene.enroll("lab-1", (scene.folder / "enroll-secret").read_text("utf-8").strip())


def an_operator(scene: Scene) -> None:
    """A certificate of the operators' CA, and the CA of the server's."""
    subprocess.run(
        [BIN / "osqtwist", "pki", "operator", "alice", "--role", "viewer", "--dir", "operators", "--out", scene.folder],
        cwd=scene.server.folder,
        check=True,
        capture_output=True,
        timeout=30,
    )
    (scene.folder / "ca.pem").write_bytes((scene.server.folder / "certs" / "ca.pem").read_bytes())


def a_token(scene: Scene) -> None:
    """An operator's token, and the CA of the server's certificate."""
    done = scene.server.osqtwist("token", "add", "client", "--role", "operator")
    scene.write({"operator.token": done.stdout})
    (scene.folder / "ca.pem").write_bytes((scene.server.folder / "certs" / "ca.pem").read_bytes())


def a_repository(scene: Scene) -> None:
    """For what is exported."""
    subprocess.run(["git", "init", "-q", scene.folder / "fleet-state"], check=True, timeout=30)


def two_configurations(scene: Scene) -> None:
    """What is served, and what somebody changed in a checkout."""

    def layer(interval: int, **more: object) -> str:
        modules = {"query": "SELECT name FROM kernel_modules", "interval": interval}
        return json.dumps({"packs": {"hygiene": {"queries": {"kernel_modules": modules}}}, **more})

    scene.write(
        {
            "etc-osqtwist/config/20-linux.conf": layer(3600),
            "checkout/config/20-linux.conf": layer(600, options={"custom_x": 1}),
        }
    )


def other_servers_files(scene: Scene) -> None:
    """A repository of Fleet, and osquery's own files."""
    query = "apiVersion: v1\nkind: query\nspec: {name: up, query: SELECT * FROM uptime, interval: 60}\n"
    scene.write(
        {
            "fleet-repository/queries.yml": query,
            "etc-osquery/osquery.conf": '{"schedule": {"up": {"query": "SELECT * FROM uptime", "interval": 60}}}',
            "share-osquery/packs/it.conf": '{"queries": {"os": {"query": "SELECT * FROM os_version", "interval": 60}}}',
        }
    )


def a_change_of_the_configuration(scene: Scene) -> None:
    """A version on its first canaries."""
    config = scene.server.folder / "config"
    (config / "layer.conf").write_text(LAYER.replace("60", "61"))
    scene.wait_for(lambda: scene.server.json("rollout", "status")["phase"] == "rolling")


def a_node_of_production(scene: Scene) -> None:
    """The tag that a target names."""
    assert scene.server.osqtwist("node", "tag", "node-00001.sim", "prod").returncode == 0


BEFORE: dict[str, Callable[[Scene], None]] = {
    "osqtwist node pending": nodes_wait,
    "osqtwist export": a_repository,
    "python -m osqtwist_client": a_token,
    "osqtwist --server https://osquery.example.com:9443": an_operator,
    "osqtwist config diff": two_configurations,
    "osqtwist config import": other_servers_files,
    "osqtwist rollout status": a_change_of_the_configuration,
    "osqtwist query run": a_node_of_production,
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A server with alert rules, roll-outs and a TLS port for operators, and five nodes."""
    folder, work = tmp_path_factory.mktemp("s"), tmp_path_factory.mktemp("w")
    found = Scene(Server(folder, None, folder / "log"), work)  # type: ignore[arg-type]
    (folder / "config").mkdir()
    (folder / "config" / "layer.conf").write_text(LAYER)
    (folder / "config" / "rollout.toml").write_text("steps = [50, 100]\n")
    (folder / "settings.toml").write_text(SETTINGS)
    pki = ["osqtwist", "pki", "init", "operators", "--name", "operators"]
    subprocess.run([BIN / pki[0], *pki[1:]], cwd=folder, check=True, capture_output=True, timeout=30)
    words = ["--port", "ssl:0", "--settings", "settings.toml", "--config", "config"]
    words += ["--admin-port", "ssl:0:interface=127.0.0.1", "--admin-ca", "operators/ca.pem"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [BIN / "twistd", "-n", "--pidfile=", "osqtwist", *words], cwd=folder, stdout=log, stderr=log, text=True
        )
    found.server.process = process
    try:
        found.server.wait_for("serves operators on unix")
        found.server.port = int(found.server.wait_for(r"serves nodes on .* port (\d+)\)")[1])
        found.operators_port = int(found.server.wait_for(r"serves operators on .* port (\d+)\) too")[1])
        yield found
    finally:
        for each in found.running:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        for each in [*found.running, process]:
            each.wait(20)


def test_the_server_says_what_the_readme_shows(scene: Scene) -> None:
    """make run starts it as this test does; what it prints is in its log here, but for the pages without TLS."""
    (block,) = [each for each in blocks(ROOT / "README.md") if each.steps[0].command == "make run"]
    of_pages = ("  pages", "Open this in a browser", "  http://")
    shown = tuple(line for line in block.steps[0].shown if not line.startswith(of_pages))
    # It says so a moment after it says where it serves.
    scene.wait_for(lambda: fits(shown, scene.server.text()))


@pytest.mark.parametrize("name", RUN)
def test_what_a_document_shows_is_done(scene: Scene, name: str) -> None:
    """Every command of every block that is not marked."""
    if name != "README.md" and not scene.running:
        scene.do(Step("osqtwist simulate --nodes 5", ("5 nodes",)), "scene")
    for block in blocks(ROOT / name):
        if not block.why_not:
            run(scene, block)


def run(scene: Scene, block: Block) -> None:
    """One block."""
    for begin, prepare in BEFORE.items():
        if block.steps[0].command.startswith(begin):
            prepare(scene)
    for step in block.steps:
        if step.command != "make run" and not step.command.startswith("twistd "):
            scene.do(step, block.place)
