"""What ``twistd osqtwist`` takes; :mod:`osqtwist.launch` makes a server of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from osqtwist.launch import EXPECTED, make_server
from osqtwist.ports import allow_many_connections
from osqtwist.settings import HELP, LISTS, Settings, default_of, gather
from osqtwist.statefolder import Owner
from osqtwist.steadytime import steady
from osqtwist.systemd import Notifier


class Options(usage.Options):
    """The options of ``twistd osqtwist``; each is also a setting of the file and the environment."""

    synopsis = "[options]"
    longdesc = (
        "An osquery TLS server.  Without --cert, --key and --client-ca it makes a development PKI in certs/; "
        "without --redis it starts a private Valkey in the state folder."
    )

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.settings_file = ""
        super().__init__()

    def parseArgs(self, *arguments: str) -> None:
        """There are no arguments, only options."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is not an option")

    def parseOptions(self, options: Any = None) -> None:
        """Parse, or end with one sentence: twistd would print its whole help first."""
        try:
            super().parseOptions(options)
        except usage.UsageError as problem:
            _give_up(str(problem))

    def opt_settings(self, path: str) -> None:
        """FILE  a settings file (TOML)."""
        # twistd may go to another folder.
        self.settings_file = os.path.abspath(path)  # noqa: PTH100


def _add_option(name: str) -> None:
    placeholder, meaning = HELP[name]

    def take(self: Options, value: str) -> None:
        if name in LISTS:
            self.given.setdefault(name, []).append(value)
        else:
            self.given[name] = value

    default = default_of(name)
    take.__doc__ = f"{placeholder}  {meaning}" + (f" [default: {default}]" if default else "")
    setattr(Options, f"opt_{name}", take)


for _name in HELP:
    _add_option(_name)


def makeService(options: Options) -> IService:
    """The service that twistd runs."""
    from twisted.internet import reactor  # noqa: PLC0415 - the one place where the reactor comes from

    allow_many_connections()
    notifier = Notifier.take(os.environ)

    def read() -> Settings:
        return gather(options.given, os.environ, options.settings_file)

    try:
        return make_server(steady(reactor), read(), owner_of(options), notifier=notifier, again=read)
    except EXPECTED as problem:
        _give_up(str(problem))
    raise AssertionError


def owner_of(options: Options) -> Owner:
    """The user that twistd will shed its rights to, if it does."""
    twistd: Mapping[str, Any] = getattr(options, "parent", None) or {}
    return Owner(twistd.get("uid"), twistd.get("gid")) if os.getuid() == 0 else Owner()


def _give_up(sentence: str) -> None:
    raise SystemExit(f"osqtwist: {sentence}")
