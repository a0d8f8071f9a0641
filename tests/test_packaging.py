"""The package: wheel and editable installs, in environments of their own, both give twistd its plug-in."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parent.parent
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv = ['twistd', *sys.argv[1:]]; run()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    (found,) = folder.glob("osqtwist-*.whl")
    return found


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path, *install: str) -> Path:
    """A new environment with osqtwist in it; everything that it needs is borrowed from this one."""
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    # Of a folder that is named in a .pth file, the .pth files in it are not read: an editable install there stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, "--no-build-isolation", *install], folder)
    return python


def assert_the_plugin_is_found(python: Path, folder: Path, home: str) -> None:
    assert "osquery TLS server" in run([str(python), "-c", TWISTD, "--help"], folder)
    assert "--client-ca" in run([str(python), "-c", TWISTD, "osqtwist", "--help"], folder)
    assert home in run([str(python), "-c", "import osqtwist; print(osqtwist.__file__)"], folder)
    assert "simulate" in run([str(python.parent / "osqtwist"), "--help"], folder)


def test_a_wheel_brings_the_plugin(wheel: Path, tmp_path: Path) -> None:
    """Installed from a wheel, away from the checkout."""
    python = environment(tmp_path, str(wheel))
    assert_the_plugin_is_found(python, tmp_path, str(tmp_path))


def test_an_editable_install_brings_the_plugin(tmp_path: Path) -> None:
    """Installed in place."""
    python = environment(tmp_path, "--editable", str(ROOT))
    assert_the_plugin_is_found(python, tmp_path, str(ROOT / "osqtwist"))


def test_what_is_in_the_wheel(wheel: Path) -> None:
    """The sample, the type marker and the plug-in; no __init__ that hides Twisted, no test, no key."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"twisted/plugins/osqtwist_plugin.py", "osqtwist/py.typed", "osqtwist/sample_config/00-base.conf"} <= names
    assert not {"twisted/__init__.py", "twisted/plugins/__init__.py"} & names
    assert not [name for name in names if name.startswith(("tests/", "certs/", "state/", "bench/"))]
    assert not [name for name in names if name.endswith((".key", ".pem", "dropin.cache"))]
