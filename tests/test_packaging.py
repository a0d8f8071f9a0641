"""The package: wheel and editable installs, in environments of their own, both give twistd its plug-in."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from osqtwist import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parent.parent
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv = ['twistd', *sys.argv[1:]]; run()"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, built from this checkout."""
    folder = tmp_path_factory.mktemp("built")
    run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("osqtwist-*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (found,) = built.glob("osqtwist-*.tar.gz")
    return found


def run(words: list[str], folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=env)
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
    assert not [name for name in names if name.startswith(("tests/", "certs/", "state/", "bench/", "packaging/"))]
    assert not [name for name in names if name.endswith((".key", ".pem", "dropin.cache"))]


def test_what_is_in_the_sdist(sdist: Path) -> None:
    """What the tests, the documents and a package of a distribution need; nothing that a checkout gathers."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "docs/operating.md", "tests/conftest.py"}
    assert wanted | {"examples/sqlite-sink/pyproject.toml", "packaging/prometheus/osqtwist.rules.yml"} <= names
    assert not [name for name in names if re.match(r"(certs|state|build|\.venv|\.ci)/", name)]
    assert not [name for name in names if name.endswith((".key", ".pem", ".pyc", "dropin.cache"))]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """To the byte, whenever and wherever it is built: times in it are fixed."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    run([sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)], source)
    assert digest(tmp_path / wheel.name) == digest(wheel)
    assert digest(tmp_path / sdist.name) == digest(sdist)


def test_what_the_container_copies_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """Nothing that the package is made of is missing there."""
    (tmp_path / "src").mkdir()
    text = (ROOT / "packaging" / "container" / "Containerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        for source in sources.split():
            target = tmp_path / "src" / source
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
            else:
                shutil.copyfile(ROOT / source, target)
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], tmp_path / "src")
    assert digest(tmp_path / wheel.name) == digest(wheel)


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode("utf-8"))


def test_what_pypi_shows(wheel: Path, built: Path) -> None:
    """It takes both and renders the description, whose links lead out of it; licence, version and URLs are there."""
    run([sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(built.iterdir()))], ROOT)
    said = metadata(wheel)
    assert (said["Version"], said["License-Expression"], said["Requires-Python"]) == (__version__, "MIT", ">=3.11")
    assert {url.partition(",")[0] for url in said.get_all("Project-URL", [])} >= {"Homepage", "Changelog", "Issues"}
    links = re.findall(r"\]\(([^)]+)\)", str(said.get_payload()))
    assert f"https://github.com/osqtwist/osqtwist/blob/v{__version__}/docs/operating.md#certificates" in links
    assert not [link for link in links if not link.startswith(("https://", "#"))]


def test_the_version_is_the_newest_of_the_changes(tmp_path: Path) -> None:
    """One place says it; the command, the metadata and the list of changes repeat it."""
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)[0]
    assert newest == __version__
    assert __version__ in run([str(Path(sys.executable).parent / "osqtwist"), "--version"], tmp_path)


def test_a_debian_package_runs_from_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    """Its own folder of packages, the command, twistd with the plug-in, units that start that one."""
    borrowed = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    words = ["--no-deps", "--wheel", str(wheel), "--python", sys.executable, "--out", str(tmp_path)]
    script = ROOT / "packaging" / "debian" / "build_deb.py"
    package = run([sys.executable, str(script), *words], tmp_path, borrowed).split()[-1]
    root = tmp_path / "root"
    run(["dpkg-deb", "--extract", package, str(root)], tmp_path)
    home = root / "usr" / "lib" / "osqtwist"
    assert __version__ in run([str(root / "usr" / "bin" / "osqtwist"), "--version"], tmp_path, borrowed)
    assert "--client-ca" in run([str(home / "bin" / "twistd"), "osqtwist", "--help"], tmp_path, borrowed)
    unit = (root / "usr" / "lib" / "systemd" / "system" / "osqtwist.service").read_text()
    assert "\nExecStart=/usr/lib/osqtwist/bin/twistd --nodaemon" in unit and "/opt/" not in unit
    assert (root / "usr" / "share" / "osqtwist" / "prometheus" / "osqtwist.rules.yml").exists()
    said = run(["dpkg-deb", "--info", package], tmp_path)
    assert f" Version: {__version__}\n" in said and " Depends: python3 (>= 3." in said
    assert run(["dpkg-deb", "--info", package, "conffiles"], tmp_path) == "/etc/osqtwist/osqtwist.toml\n"
    for name in ("postinst", "prerm", "postrm"):
        run(["sh", "-n", str(script.with_name(name))], tmp_path)
