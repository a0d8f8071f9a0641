"""Reading things again: on SIGHUP, and when a file changes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.enrollsecret import EnrollSecrets, parse_enroll_secrets
from osqtwist.settings import BadSetting, Settings
from osqtwist.steadyloop import steady_loop
from osqtwist.systemd import Notifier

CHECK_INTERVAL = 2.0
"""Seconds between two looks at a file."""


@attrs.define(eq=False)
class HangUp(Service):
    """
    Calls everything in :attr:`reloads` when the process gets SIGHUP.

    :ivar notifier: is told when that begins and ends.
    """

    reactor: Any
    reloads: Sequence[Callable[[], object]]
    notifier: Notifier = Notifier()
    _log = Logger()

    def startService(self) -> None:
        """Take SIGHUP over."""
        super().startService()
        signal.signal(signal.SIGHUP, self._received)

    def stopService(self) -> None:
        """Let it go."""
        super().stopService()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        self._log.info("SIGHUP: certificates, configuration and enroll secrets are read again")
        self.notifier.reloading()
        for reload in self.reloads:
            reload()
        self.notifier.ready("serves nodes")


@attrs.define
class SettingsInForce:
    """
    Says which settings have changed since the start, and count from the next one on.

    What settings name (certificates, lists, configuration, enroll secrets) is read again while the server runs; they
    themselves are not, since processes would disagree while some of them have the new ones.

    :ivar again: gathers them as the start did; raises :exc:`osqtwist.settings.BadSetting`.
    """

    settings: Settings
    again: Callable[[], Settings]
    _log = Logger()

    def compare(self) -> None:
        """Look again, and say what there is to say."""
        try:
            now = self.again()
        except BadSetting as problem:
            self._log.error("the settings of now would not start a server: {problem}", problem=problem)
            return
        if changed := changed_settings(self.settings, now):
            self._log.warn("in force only after a restart: {changed}", changed=", ".join(changed))


def changed_settings(before: Settings, now: Settings) -> list[str]:
    """The settings that differ, as a settings file has them."""
    return [name for name in Settings.__struct_fields__ if getattr(before, name) != getattr(now, name)]


@attrs.define(eq=False)
class WatchedFile(Service):
    """Reads a file again when it changes; what reading means, whoever is derived from this says."""

    clock: IReactorTime
    path: Path
    _seen: tuple[int, int, int] | None = attrs.field(default=None, init=False)
    _loop: LoopingCall | None = attrs.field(default=None, init=False)

    def reload(self) -> None:
        """Read the file again."""
        raise NotImplementedError

    def startService(self) -> None:
        """Begin to watch the file."""
        super().startService()
        self._seen = self._signature()
        self._loop = steady_loop(self.clock, str(self.path), self.check)
        self._loop.start(CHECK_INTERVAL, now=False)

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()

    def check(self) -> None:
        """Read the file again if it changed."""
        signature = self._signature()
        if signature != self._seen:
            self._seen = signature
            self.reload()

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


@attrs.define(eq=False)
class SecretsFile(WatchedFile):
    """
    Keeps enroll secrets as their file says.  A file that cannot be understood changes nothing but the log.

    :ivar good: what was in the file when it was last good.
    """

    secrets: EnrollSecrets
    good: str = attrs.field(default="", repr=False)
    _log = Logger()

    def reload(self) -> None:
        """Read the file again."""
        try:
            text = self.path.read_text("utf-8")
            self.secrets.of_file = parse_enroll_secrets(text)
        except (OSError, ValueError) as problem:
            self._log.error("enroll secrets stay as they were: {path}: {problem}", path=str(self.path), problem=problem)
        else:
            self.good = text
            self._log.info("{count} enroll secrets in force", count=len(self.secrets.of_file))
