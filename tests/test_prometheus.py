"""The real Prometheus: it takes rules and dashboard, scrapes the real server, and an alert fires."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from osqtwist.announcement import SAMPLE_CONFIG
from tests.test_delivery_process import post, until
from tests.test_twistd import Server, Start, start
from tests.test_watching import RULE_TESTS, RULES, panel_expressions

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

CONFIG = RULES.with_name("prometheus.yml")

EMPTY_HERE = {"Revocation lists: time left", "OCSP", "Store failures", "Alerts"}
"""Panels about what this server has not: lists, responders, trouble, alert rules."""


def promtool(*words: str) -> None:
    found = shutil.which("promtool")
    assert found, "promtool is missing: apt-get install prometheus"
    done = subprocess.run([found, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_they_do_what_they_say() -> None:
    """Every alert fires on what it is for, alone; on a day as usual none does."""
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    promtool("test", "rules", str(RULE_TESTS))


@pytest.fixture
def watched(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with a sink, an operators' port and a configuration folder that can be spoilt."""
    folder = tmp_path_factory.mktemp("w")
    shutil.copytree(SAMPLE_CONFIG, folder / "config")
    (folder / "settings.toml").write_text('[sink.lines]\nkind = "file"\npath = "lines.jsonl"\n')
    words = ["--port", "ssl:0", "--admin-port", "ssl:0:interface=127.0.0.1", "--config", "config"]
    return start(*words, "--settings", "settings.toml", folder=folder)


@pytest.fixture
def prometheus(watched: Server, tmp_path: Path) -> Iterator[str]:
    """Prometheus with the configuration of the repository, but for names and haste; gives its URL."""
    number = watched.wait_for(r"serves operators on .* port (\d+)\) too")[1]
    (tmp_path / "token").write_text(watched.osqtwist("token", "add", "prometheus", "--group", "metrics").stdout)
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(RULES)]
    (job,) = config["scrape_configs"]
    job["authorization"]["credentials_file"] = str(tmp_path / "token")
    job["tls_config"]["ca_file"] = str(watched.folder / "certs" / "ca.pem")
    job["static_configs"] = [{"targets": [f"localhost:{number}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", str(tmp_path / "prometheus.yml"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: apt-get install prometheus"
    words = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([program, *words, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def ask(url: str, path: str, **query: str) -> Any:
    """What Prometheus answers; nothing while it does not answer yet."""
    try:
        with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]
    except (ConnectionError, urllib.error.URLError):
        return None


def test_a_real_prometheus_watches_a_real_server(watched: Server, prometheus: str) -> None:
    """It comes in by a token, every panel has what it shows, and a spoilt file becomes an alert with a runbook."""
    assert watched.ask("/enroll", {"host_identifier": "host-1", "platform_type": "9"})["node_key"]
    assert watched.ask("/config", {"node_key": ""})["schedule"]
    post(watched, 0)
    query = watched.json("query", "issue", "select 1 as a")["query_id"]
    assert query in watched.ask("/distributed/read", {"node_key": ""})["queries"]
    body = {"node_key": "", "queries": {query: [{"a": "1"}]}, "statuses": {query: 0}}
    assert watched.ask("/distributed/write", body) == {}

    def value_of(expression: str) -> float:
        found = (ask(prometheus, "/api/v1/query", query=expression) or {}).get("result")
        return float(found[0]["value"][1]) if found else -1.0

    until(lambda: value_of("osqtwist_nodes_online") == 1, 30)
    until(lambda: value_of("osqtwist_sink_up") == 1, 15)
    until(lambda: value_of('count_over_time(up{job="osqtwist"}[1m])') > 3)
    shown = set()
    for title, expression in panel_expressions():
        found = ask(prometheus, "/api/v1/query", query=expression)
        assert found is not None, f"{title}: Prometheus does not take {expression}"
        if found["result"]:
            shown.add(title)
    assert {title for title, _ in panel_expressions()} - shown == EMPTY_HERE

    (watched.folder / "config" / "00-base.conf").write_text("{")

    def firing() -> list[dict[str, Any]]:
        found = ask(prometheus, "/api/v1/alerts")["alerts"]
        return [each for each in found if each["state"] == "firing"]

    until(firing, 20)
    (alert,) = firing()
    assert alert["labels"]["alertname"] == "OsqtwistReloadFailed"
    assert alert["annotations"]["summary"].endswith("could not use a file that changed")
