"""What a server says when it is ready: where everything is, and the flagfile that works with it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
from twisted.logger import Logger

from osqtwist.flags import NodeFiles, existing
from osqtwist.nodeplatforms import PLATFORMS
from osqtwist.pki import DevelopmentPKI
from osqtwist.ports import BoundPort
from osqtwist.settings import Settings

SAMPLE_CONFIG = Path(__file__).parent / "sample_config"

_log = Logger()


def _command(name: str) -> str:
    """A command of this installation as one types it here."""
    path = Path(sys.executable).parent / name
    if shutil.which(name) == str(path) or not path.exists():
        return name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def has_terminal() -> bool:
    """Whether somebody reads what is printed."""
    return sys.__stdout__ is not None and sys.__stdout__.isatty()


def _to_the_pages(link: str) -> str:
    command = f"{_command('osqtwist')} sign-in"
    if not link:
        return f"To see the pages, open the link that this prints: {command}\n"
    return f"Open this in a browser (it signs you in, once; {command} prints another):\n\n  {link}\n"


def node_files(development: DevelopmentPKI | None, secret_path: Path | None, has_certificates: bool) -> NodeFiles:
    """
    The files that a flagfile names: those of the development PKI, or where osquery's packages keep them.

    :param has_certificates: whether nodes show certificates.
    """
    secret = existing(secret_path) if secret_path else ""
    if development is None:
        # A real node has its own.
        files = NodeFiles("-", "-", "-", "-" if secret_path else "").on(PLATFORMS["linux"])
    else:
        ca, node = development.certificate("ca"), development.certificate("node")
        files = NodeFiles(existing(ca), existing(node), existing(development.key("node")), secret)
    return files if has_certificates else attrs.evolve(files, client_cert="", client_key="")


def announce(
    settings: Settings,
    ports: Sequence[BoundPort],
    development: DevelopmentPKI | None,
    secret_path: Path | None,
    flags: str,
    operators: BoundPort | None = None,
    pages: str = "",
    admin_socket: str = "",
    link: str = "",
) -> None:
    """Say it in the log, and on the terminal if there is one."""
    for port in ports:
        _log.info("osqtwist serves nodes on {port}", port=str(port))
    if operators:
        _log.info("osqtwist serves operators on {port} too", port=str(operators))
        _log.info("the operators' pages are at {pages}", pages=pages)
    _log.info("osqtwist serves operators on unix:{path}", path=admin_socket or str(settings.admin_socket.absolute()))
    if development is None:
        return
    _log.warn("these are DEVELOPMENT certificates: whoever reads {key} can be any node", key=development.key("ca"))
    text = (
        "\n"
        f"  certificates  {development.folder}   DEVELOPMENT ONLY: whoever reads ca.key can be any node\n"
        f"  enroll secret {secret_path}\n"
        f"  state         {Path(settings.state).absolute()}\n"
        f"  config        {Path(settings.config).absolute() if settings.config else SAMPLE_CONFIG}\n"
        f"  pages         {pages}\n"
        f"\n{_to_the_pages(link)}\n"
        "\n"
        "An osqueryd flagfile that works with this server (osqtwist flags prints it again):\n\n" + flags
    )
    # twistd turns what is printed into log lines; this is for eyes and for copying.
    if has_terminal():
        print(text, file=sys.__stdout__, flush=True)
    else:
        _log.info("{text}", text=text)
