"""The real promtool takes the rules and the configuration, and the rules do what they say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_compose import FOLDER
from tests.test_watching import RULE_TESTS, RULES, panel_expressions

pytestmark = pytest.mark.slow


def promtool(*words: str) -> None:
    found = shutil.which("promtool")
    assert found, "promtool is missing: apt-get install prometheus"
    done = subprocess.run([found, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_on_what_it_is_for_alone() -> None:
    """And none does on a day as usual."""
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    promtool("test", "rules", str(RULE_TESTS))


def test_what_the_dashboard_asks_is_promql(tmp_path: Path) -> None:
    """As rules that are recorded, since promtool reads rules."""
    rules = "".join(
        f"  - {{record: 'panel:{number}', expr: {expression!r}}}\n"
        for number, (_, expression) in enumerate(panel_expressions())
    )
    (tmp_path / "panels.yml").write_text(f"groups:\n- name: panels\n  rules:\n{rules}")
    promtool("check", "rules", "--lint=none", str(tmp_path / "panels.yml"))


def test_the_configurations_are_configurations(tmp_path: Path) -> None:
    """That of an installation and that of the compose file, with files in the place of those that they name."""
    for path in (RULES.with_name("prometheus.yml"), FOLDER / "prometheus.yml"):
        text = path.read_text()
        for name in (
            "/etc/prometheus/osqtwist.token",
            "/etc/prometheus/osqtwist-ca.pem",
            "/run/watching/token",
            "/run/watching/ca.pem",
        ):
            (tmp_path / Path(name).name).write_text("")
            text = text.replace(name, str(tmp_path / Path(name).name))
        shutil.copy(RULES, tmp_path)
        (tmp_path / "prometheus.yml").write_text(text)
        promtool("check", "config", str(tmp_path / "prometheus.yml"))
