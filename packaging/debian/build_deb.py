"""
Builds a Debian package of this checkout, with everything that it needs of PyPI in a folder of its own.

    python3 packaging/debian/build_deb.py --out dist

Debian's Twisted is older than the one that osqtwist needs, so the package brings its own, under /usr/lib/osqtwist, where no
other program finds it.  It is for the Debian and the architecture that it is built on: compiled packages are for one
version of Python.  The paths are those of docs/packaging.md.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = ROOT / "packaging" / "debian"
HOME = "usr/lib/osqtwist"
EXTRAS = "embedded,otel,s3"

WRAPPER = """\
#!/bin/sh
# Children find the packages by the same variable.
home=$(dirname "$(dirname "$(readlink -f "$0")")")
PYTHONPATH="$home/packages${{PYTHONPATH:+:$PYTHONPATH}}" PYTHONDONTWRITEBYTECODE=1 \\
    exec {python} -P "$home/packages/bin/{program}" "$@"
"""

CONTROL = """\
Package: osqtwist
Version: {version}
Section: admin
Priority: optional
Architecture: {architecture}
Installed-Size: {size}
Depends: python3 (>= {minor}), python3 (<< {next_minor}), adduser
Recommends: valkey-server | redis-server
Maintainer: the osqtwist maintainers <osqtwist@localhost>
Homepage: https://github.com/osqtwist/osqtwist
Description: osquery TLS server for fleets that already have certificates
 osqueryd nodes connect over mutual TLS.  osqtwist enrolls them, serves their
 configuration, takes their logs, asks them distributed queries and collects
 carved files.  Who a node is comes from its certificate, or from a signed node
 key.
"""


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=Path("dist"), help="where the package goes")
    words.add_argument("--python", default="/usr/bin/python3", help="the Python that will run it")
    words.add_argument("--wheel", type=Path, help="a wheel that was built before")
    words.add_argument("--no-deps", action="store_true", help="without the packages that it needs: for a test only")
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = given.wheel or build_wheel(Path(scratch))
        root = Path(scratch) / "root"
        install_packages(root, wheel, given.python, given.no_deps)
        version = wheel.name.split("-")[1]
        lay_out(root)
        compile_packages(root, given.python)
        describe(root, version, given.python)
        print(pack(root, given.out, version))


def run(*words, **more):
    return subprocess.run(list(map(str, words)), check=True, **more)


def say(*words):
    return run(*words, capture_output=True, text=True).stdout.strip()


def build_wheel(folder):
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("osqtwist-*.whl")
    return wheel


def install_packages(root, wheel, python, no_deps):
    packages = root / HOME / "packages"
    words = ["--quiet", "--no-compile", "--target", packages]
    if no_deps:
        run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", *words, wheel)
    else:
        run(sys.executable, "-m", "pip", "--python", python, "install", *words, f"{wheel}[{EXTRAS}]")
    bin_folder = root / HOME / "bin"
    bin_folder.mkdir()
    for program in ("osqtwist", "twistd"):
        path = bin_folder / program
        path.write_text(WRAPPER.format(python=python, program=program))
        path.chmod(0o755)
    if no_deps:
        # Of the packages that it needs; the test has them elsewhere.
        script = "import sys; from twisted.scripts.twistd import run; sys.exit(run())\n"
        (packages / "bin" / "twistd").write_text(script)
    # Twisted keeps a list of plug-ins, which it could not write where it will be.
    borrowed = os.environ.get("PYTHONPATH", "")
    run(bin_folder / "twistd", "--help", stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": borrowed})
    share = packages / "share" / "osqtwist"
    (root / "usr" / "share").mkdir()
    share.rename(root / "usr" / "share" / "osqtwist")


def compile_packages(root, python):
    """Nothing can be written there later.  Without times, so that the package is the same whenever it is built."""
    for path in [*root.rglob("__pycache__")]:
        shutil.rmtree(path)
    home = root / HOME / "packages"
    words = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    words += ["-s", home, "-p", f"/{HOME}/packages"]
    # Some packages bring templates of code, which are none.
    subprocess.run([python, *map(str, words), str(home)], check=False, stdout=subprocess.DEVNULL)


def lay_out(root):
    (root / "usr" / "bin").mkdir()
    (root / "usr" / "bin" / "osqtwist").symlink_to("../lib/osqtwist/bin/osqtwist")
    units = root / "usr" / "lib" / "systemd" / "system"
    units.mkdir(parents=True)
    systemd = ROOT / "packaging" / "systemd"
    for path in sorted([*systemd.glob("*.service"), *systemd.glob("*.socket")]):
        text = path.read_text("utf-8").replace("/opt/osqtwist/bin/", f"/{HOME}/bin/")
        (units / path.name).write_text(text)
    copy(systemd / "osqtwist.sysusers.conf", root / "usr" / "lib" / "sysusers.d" / "osqtwist.conf")
    copy(systemd / "osqtwist.toml", root / "etc" / "osqtwist" / "osqtwist.toml")
    (root / "etc" / "osqtwist" / "config").mkdir()
    documents = root / "usr" / "share" / "doc" / "osqtwist"
    copy(ROOT / "LICENSE", documents / "copyright")
    copy(ROOT / "README.md", documents / "README.md")
    # gzip notes the time; 0 stands for none.
    changes = gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0)
    (documents / "changelog.gz").write_bytes(changes)


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def describe(root, version, python):
    folder = root / "DEBIAN"
    folder.mkdir()
    major, minor = say(python, "-c", "import sys; print(*sys.version_info[:2])").split()
    size = sum(path.lstat().st_size for path in root.rglob("*")) // 1024
    text = CONTROL.format(
        version=version,
        architecture=say("dpkg", "--print-architecture"),
        size=size,
        minor=f"{major}.{minor}",
        next_minor=f"{major}.{int(minor) + 1}",
    )
    (folder / "control").write_text(text)
    files = sorted(path for path in (root / "etc").rglob("*") if path.is_file())
    (folder / "conffiles").write_text("".join(f"/{path.relative_to(root)}\n" for path in files))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / name, folder / name)
        (folder / name).chmod(0o755)


def pack(root, out, version):
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"osqtwist_{version}_{say('dpkg', '--print-architecture')}.deb"
    run("dpkg-deb", "--root-owner-group", "--build", root, target, stdout=subprocess.DEVNULL)
    return target


if __name__ == "__main__":
    main()
