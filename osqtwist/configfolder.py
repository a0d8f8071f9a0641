"""The config folder: its files on disk, read again when something in it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.configfiles import Content, FileSource, KeptFiles, is_layer, read_content, read_layers
from osqtwist.layers import BadConfiguration, Layer, Problem
from osqtwist.querycheck import check_queries
from osqtwist.rolledconfiguration import RolledConfiguration
from osqtwist.rolloutplan import PLAN_FILE, Plan, parse_plan
from osqtwist.steadyloop import steady_loop
from osqtwist.tagging import FILE, Tagging, parse_tagging

CHECK_INTERVAL = 2.0
"""Seconds between two looks at the folder."""


@attrs.frozen
class FilesOnDisk:
    """A config folder; a :class:`osqtwist.configfiles.FileSource`."""

    folder: Path

    def layers(self) -> Iterable[str]:
        """See :class:`osqtwist.configfiles.FileSource`."""
        try:
            names = sorted(path.name for path in self.folder.iterdir() if is_layer(path.name))
        except OSError as problem:
            raise BadConfiguration([Problem(str(self.folder), "", f"--config: {problem.strerror}")]) from None
        if not names:
            raise BadConfiguration([Problem(str(self.folder), "", "--config: it holds no .conf, .json or .yaml file")])
        return names

    def text(self, name: str) -> str:
        """See :class:`osqtwist.configfiles.FileSource`."""
        try:
            return (self.folder / name).read_text("utf-8")
        except OSError as problem:
            raise BadConfiguration([Problem(name, "", problem.strerror or "cannot be read")]) from None
        except UnicodeDecodeError:
            raise BadConfiguration([Problem(name, "", "it is not UTF-8")]) from None

    def has(self, name: str) -> bool:
        """See :class:`osqtwist.configfiles.FileSource`."""
        return (self.folder / name).exists()

    def pack(self, layer: str, name: str, spoken: str) -> str:
        """See :class:`osqtwist.configfiles.FileSource`; the file is inside the folder, wherever links lead."""
        target = (self.folder / spoken).resolve()
        if not target.is_relative_to(self.folder.resolve()):
            raise BadConfiguration([Problem(layer, f"packs.{name}", f"{spoken} is outside the config folder")])
        if not target.is_file():
            raise BadConfiguration([Problem(layer, f"packs.{name}", f"there is no file {spoken}")])
        return self.text(spoken)


def read_folder(folder: Path) -> tuple[list[Layer], list[Problem]]:
    """
    The layers of a folder, in the order of their names, and what is only worth a warning.

    :raise BadConfiguration: something in it must not be served; all problems are in it.
    """
    return read_layers(FilesOnDisk(folder))


def read_tagging(folder: Path) -> Tagging:
    """
    The tag rules and tag queries of a folder; it may have none.

    :raise BadConfiguration: they must not be served.
    """
    files = FilesOnDisk(folder)
    return parse_tagging(files.text(FILE)) if files.has(FILE) else Tagging()


def read_plan(folder: Path) -> Plan | None:
    """
    How changes of a folder are rolled out; nothing if it does not say.

    :raise BadConfiguration: it is no plan.
    """
    return _plan_of(FilesOnDisk(folder))


def _plan_of(files: FileSource) -> Plan | None:
    return parse_plan(files.text(PLAN_FILE)) if files.has(PLAN_FILE) else None


def check_folder(folder: Path) -> list[Problem]:
    """Everything wrong with a folder, the SQL in it included; that is not looked at when a folder is served."""
    try:
        layers, problems = read_folder(folder)
        read_plan(folder)
        return [*problems, *check_queries([*layers, *read_tagging(folder).layers()])]
    except BadConfiguration as bad:
        return list(bad.problems)


class ConfigFolder(Service):
    """
    A folder of layers, read again when something in it changes.

    The last good configuration stays in force when a new one is bad; the log says once what is wrong with it.

    :param on_reload: called with whether a reading was good.
    :param spare: the files when they were last good, for when they are not.
    :ivar good: the files when they were last good.
    :ivar content: what the last good reading found, and :attr:`plan` how changes are rolled out.
    :ivar take: called when there is other content, or another plan; by default it is in force at once.
    :raise BadConfiguration: there is no good one to begin with.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        folder: Path,
        on_reload: Callable[[bool], None] = lambda ok: None,
        spare: Mapping[str, str] | None = None,
    ) -> None:
        self._clock = clock
        self._folder = folder
        self._on_reload = on_reload
        self._seen: frozenset[tuple[str, int, int, int]] = frozenset()
        self._seen = self._signature()
        self._loop: LoopingCall | None = None
        self.good: Mapping[str, str] = {}
        is_good = True
        try:
            self.content, self.plan = self._read(FilesOnDisk(folder))
        except BadConfiguration as bad:
            if not spare:
                raise
            self._tell(bad)
            self.content, self.plan = self._read(KeptFiles(spare))
            is_good = False
        self.configuration = RolledConfiguration(self.content.layers, tagging=self.content.tagging)
        self.take: Callable[[], object] = self.serve
        self._warn(self.content.warnings)
        on_reload(is_good)

    @property
    def where(self) -> str:
        """Where it is."""
        return str(self._folder)

    def startService(self) -> None:
        """Begin to watch the folder."""
        super().startService()
        self._loop = steady_loop(self._clock, "the config folder", self.check)
        self._loop.start(CHECK_INTERVAL, now=False)

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()

    def check(self) -> None:
        """Read the folder again if something in it changed."""
        seen = self._signature()
        if seen != self._seen:
            self._seen = seen
            self.reload()

    def reload(self) -> None:
        """Read the folder again."""
        try:
            self.content, self.plan = self._read(FilesOnDisk(self._folder))
        except BadConfiguration as bad:
            self._tell(bad)
            self._on_reload(False)
            return
        self.take()
        self._warn(self.content.warnings)
        count = len(self.content.layers)
        self._log.info("configuration: {count} layers of {folder}", count=count, folder=self.where)
        self._on_reload(True)

    def serve(self) -> None:
        """Have all nodes served what the folder says."""
        self.configuration.follow_folder(self.content)

    def _read(self, files: FileSource) -> tuple[Content, Plan | None]:
        content, plan = read_content(files), _plan_of(files)
        self.good = {**content.files, PLAN_FILE: files.text(PLAN_FILE)} if plan else content.files
        return content, plan

    def _tell(self, bad: BadConfiguration) -> None:
        for problem in bad.problems:
            self._log.error("configuration: {problem}", problem=str(problem))
        self._log.error("the configuration stays as it was: {folder} cannot be served", folder=self.where)

    def _warn(self, warnings: Sequence[Problem]) -> None:
        for warning in warnings:
            self._log.warn("configuration: {warning}", warning=str(warning))

    def _signature(self) -> frozenset[tuple[str, int, int, int]]:
        found = set()
        try:
            paths = [self._folder, *self._folder.rglob("*")]
        except OSError:
            # No file descriptors, or no right to look: nothing is known to have changed.
            return self._seen
        for path in paths:
            try:
                stat = path.stat()
            except OSError:
                continue
            found.add((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return frozenset(found)
