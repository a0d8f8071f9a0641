"""
The compose file: it is one, what it names is there, and its commands work.

There is no container engine where tests run, so the services run as plain processes, by the commands, variables and
files of ``compose.yaml``; what differs is names of hosts, ports and paths, which :class:`Stack` puts others for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from osqtwist.announcement import SAMPLE_CONFIG
from osqtwist.storage.embedded import find_binary
from tests.test_delivery_process import until
from tests.test_twistd import BIN, Server
from tests.test_watching import DASHBOARD, panel_expressions

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "packaging" / "compose"
FILE = FOLDER / "compose.yaml"
PROVISIONING = ROOT / "packaging" / "grafana" / "provisioning"
OURS = ("pki", "osqtwist", "fleet", "token")

EMPTY_HERE = {"Revocation lists: time left", "OCSP", "Store failures", "Alerts"}
"""Panels about what this server has not: lists, responders, trouble, alert rules."""


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return found


# -- what it says


@pytest.mark.slow
def test_it_is_a_compose_file() -> None:
    """By the schema of the specification, which the checker brings with it."""
    done = subprocess.run(
        [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FILE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_names_is_there() -> None:
    """Files, volumes and services."""
    document = yaml.safe_load(FILE.read_text())
    for name, service in document["services"].items():
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            known = (FOLDER / source).exists() if source.startswith(".") else source in document["volumes"]
            assert known, f"{name}: {mount}"
        if build := service.get("build"):
            assert (FOLDER / build["context"] / build["dockerfile"]).exists(), name
        assert set(service.get("depends_on", ())) <= set(document["services"])


def test_it_is_for_this_machine_and_stays_what_it_is() -> None:
    """Nothing is open to other machines; images of others have a version; ours has no right that it does not need."""
    for name, service in services().items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"
        assert "privileged" not in service and "network_mode" not in service
        if name in OURS:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
            assert service.get("user", "") in ("", "0:0") and ("user" in service) == (name == "token")
        else:
            assert re.search(r":v?\d+\.\d+", service["image"]), service["image"]


def test_grafana_is_given_the_dashboard_and_its_data_source() -> None:
    """Paths and addresses in the provisioning files are those of the compose file."""
    grafana = services()["grafana"]
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "osqtwist.yml").read_text())["providers"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
    assert f"../grafana/{DASHBOARD.name}:{home}:ro" in grafana["volumes"]


# -- what it does


@attrs.define
class Stack:
    """
    The services as processes.

    :ivar instead: what stands for hosts, ports and paths of the containers; the first that is found counts.
    """

    folder: Path
    instead: dict[str, str]
    running: dict[str, subprocess.Popen[str]] = attrs.field(factory=dict)

    def filled(self, text: str) -> str:
        for word, other in self.instead.items():
            text = text.replace(word, other)
        return text

    def words(self, name: str) -> list[str]:
        service = services()[name]
        return [self.filled(word) for word in [*service.get("entrypoint", ()), *service["command"]]]

    def begin(self, name: str, program: str = "", **more: str) -> subprocess.Popen[str]:
        """Start a service."""
        said = {key: self.filled(value) for key, value in services()[name].get("environment", {}).items()}
        words = self.words(name)
        if words[0].startswith("-"):
            # The image says which program that is for.
            words.insert(0, name)
        with (self.folder / f"{name}.out").open("w") as out:
            self.running[name] = subprocess.Popen(
                [program or shutil.which(words[0], path=f"{BIN}:{os.environ['PATH']}") or words[0], *words[1:]],
                cwd=self.folder / "data",
                env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | said | more,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        return self.running[name]

    def finish(self, name: str) -> None:
        """Have a service done that ends."""
        assert self.begin(name).wait(40) == 0, (self.folder / f"{name}.out").read_text()

    def mount(self, name: str, target: str) -> Path:
        """A copy of what is mounted at a path, filled in."""
        (source,) = [each.split(":")[0] for each in services()[name]["volumes"] if each.split(":")[1] == target]
        copy = self.folder / Path(target).name
        copy.write_text(self.filled((FOLDER / source).read_text()))
        return copy

    def end(self) -> None:
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait(30)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return numbers


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("c")
    for name in ("data", "watching", "series"):
        (folder / name).mkdir()
    store, nodes, operators, prometheus = free_ports(4)
    made = Stack(
        folder,
        {
            "/var/lib/osqtwist": str(folder / "data"),
            "/run/watching": str(folder / "watching"),
            "/etc/prometheus/": f"{folder}/",
            "/etc/osqtwist/": f"{folder}/",
            "=/prometheus": f"={folder}/series",
            "valkey:6379": f"127.0.0.1:{store}",
            "6379": str(store),
            "ssl:8443": f"ssl:{nodes}:interface=127.0.0.1",
            "osqtwist:8443": f"localhost:{nodes}",
            "ssl:9443": f"ssl:{operators}:interface=127.0.0.1",
            "osqtwist:9443": f"localhost:{operators}",
            "=:9090": f"=127.0.0.1:{prometheus}",
            "15s": "1s",
            # Who may do that, and for whom, is the container's matter.
            "chown 65534:65534": "true",
        },
    )
    try:
        yield made
    finally:
        made.end()


def ask(url: str, path: str, **query: str) -> Any:
    """What Prometheus answers; nothing while it does not answer yet."""
    try:
        with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]
    except (ConnectionError, urllib.error.URLError):
        return None


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_services_work_together(stack: Stack) -> None:
    """
    A real Prometheus scrapes the real server, to which a fleet speaks: every panel of the dashboard has what it shows.

    A file that is spoilt becomes an alert.
    """
    stack.finish("pki")
    stack.begin("valkey", find_binary())
    until(lambda: "Ready to accept" in (stack.folder / "valkey.out").read_text())
    stack.mount("osqtwist", "/etc/osqtwist/osqtwist.toml")
    shutil.copytree(SAMPLE_CONFIG, stack.folder / "config")
    twistd = stack.begin("osqtwist", OSQTWIST_CONFIG=str(stack.folder / "config"))
    server = Server(stack.folder / "data", twistd, stack.folder / "osqtwist.out")
    server.wait_for("serves operators on unix")
    (test, *health) = services()["osqtwist"]["healthcheck"]["test"]
    assert test == "CMD" and server.osqtwist(*health[1:]).returncode == 0
    stack.begin("fleet")
    stack.finish("token")
    stack.mount("prometheus", "/etc/prometheus/osqtwist.rules.yml")
    config = stack.mount("prometheus", "/etc/prometheus/prometheus.yml")
    config.write_text(config.read_text().replace("global:", "global:\n  scrape_timeout: 1s"))
    assert shutil.which("prometheus"), "prometheus is missing: apt-get install prometheus"
    stack.begin("prometheus")
    url = "http://" + next(word.partition("=")[2] for word in stack.words("prometheus") if "listen-address" in word)

    def value_of(expression: str) -> float:
        found = (ask(url, "/api/v1/query", query=expression) or {}).get("result")
        return float(found[0]["value"][1]) if found else -1.0

    words = stack.words("fleet")
    nodes = int(words[words.index("--nodes") + 1])
    until(lambda: value_of("osqtwist_nodes_online") == nodes, 40)
    assert server.osqtwist("query", "run", "select 1 as a").stdout.count("node-000") == nodes
    until(lambda: value_of("osqtwist_query_results_total") == nodes)
    until(lambda: value_of("osqtwist_sink_lines") > 0)
    wanted = {title for title, _ in panel_expressions()} - EMPTY_HERE

    def missing() -> set[str]:
        """Panels that show nothing; what grew has to have been seen twice."""
        shown = set()
        for title, expression in panel_expressions():
            found = ask(url, "/api/v1/query", query=expression)
            assert found is not None, f"{title}: Prometheus does not take {expression}"
            if found["result"]:
                shown.add(title)
        return wanted - shown

    until(lambda: not missing())

    (stack.folder / "config" / "00-base.conf").write_text("{")

    def firing() -> list[dict[str, Any]]:
        found = ask(url, "/api/v1/alerts")["alerts"]
        return [each for each in found if each["state"] == "firing"]

    until(firing, 20)
    (alert,) = firing()
    assert alert["labels"]["alertname"] == "OsqtwistReloadFailed"
    assert alert["annotations"]["summary"].endswith("could not use a file that changed")
