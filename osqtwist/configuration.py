"""
The configuration that each node gets.

The layers of a folder are kept in memory.  What a node gets depends only on which layers are for it, so it is put
together once for each such set, not once for each node.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.confcheck import MAX_BYTES, check, check_size
from osqtwist.explaining import explain_layers, origin_of, sources
from osqtwist.layers import BadConfiguration, Layer, Problem, merge, parse_layer, parse_text, render
from osqtwist.node import Node
from osqtwist.querycheck import check_queries
from osqtwist.tagging import FILE, QUERY_PREFIX, Tagging, parse_tagging
from osqtwist.targeting import NodeFacts

CHECK_INTERVAL = 2.0
"""Seconds between two looks at the folder."""

DEFAULT_OPTIONS: Mapping[str, Any] = {
    # Reads are held here, so a node may come back at once; osquery's own default of 60 would have it deaf for
    # most of the time.
    "distributed_interval": 1,
    # osquery's default is true.
    "disable_distributed": False,
    # Each flush is a connection with a full handshake: 10 s instead of osquery's 4.
    "logger_tls_period": 10,
}
"""Options that every configuration gets unless a layer sets them."""

_ENDINGS = (".conf", ".json", ".yaml", ".yml")
_UNCHANGED = b'{"etag":"ok"}'
_MAX_RENDERED = 4096


@attrs.frozen
class ConfigAnswer:
    """
    What a node is answered.

    :ivar etag: of the configuration, whether or not the node asked for it.
    :ivar layers: the names of the layers it is made of.
    :ivar is_unchanged: the node has it already, and :attr:`body` says only that.
    """

    body: bytes
    etag: str
    layers: tuple[str, ...] = ()
    is_unchanged: bool = False
    _gzipped: Callable[[bytes], bytes] = gzip.compress

    def gzipped(self) -> bytes:
        """The body as gzip, for clients that ask for it; made once for each configuration."""
        return self._gzipped(self.body)


class NodeConfiguration:
    """
    Answers with a node's configuration, from memory.

    :param layers: in the order in which they are merged.
    :ivar tagging: the tag queries that are served beside them, and the rules.
    """

    def __init__(
        self,
        layers: Sequence[Layer] = (),
        defaults: Mapping[str, Any] = DEFAULT_OPTIONS,
        tagging: Tagging = Tagging(),
    ) -> None:
        self._defaults = defaults
        self._eased: dict[str, Any] = {}
        self.replace(layers, tagging)

    def replace(self, layers: Sequence[Layer], tagging: Tagging = Tagging()) -> None:
        """Serve other layers from now on."""
        self.tagging = tagging
        self._layers = (*layers, *tagging.layers())
        self._rendered: dict[tuple[int, ...], _Rendered] = {}

    def ease(self, options: Mapping[str, Any]) -> None:
        """Have these options stand over the defaults from now on; what a layer sets stays as it is."""
        self._eased = dict(options)
        self._rendered.clear()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers there are, in order."""
        return self._layers

    def layer_names(self) -> list[str]:
        """The layers there are, in order."""
        return [layer.name for layer in self._layers]

    def why(self, node: Node) -> dict[str, Any]:
        """Why a node's configuration is what it is: of each layer, query and option, ready to be JSON."""
        stories = explain_layers(self._layers, self.tagging.applied(node.facts()), origin_of(node, self.tagging))
        applied = [story.layer for story in stories if story.why.matches]
        return {"layers": [story.as_row() for story in stories], **sources(applied, {**self._defaults, **self._eased})}

    def config_for(self, facts: NodeFacts, etag: str | None) -> ConfigAnswer:
        """
        The configuration of a node.

        :param etag: what the node has, ``""`` if it has nothing, ``None`` if its osquery does not know of etags:
            then the answer has none either.
        """
        chosen = tuple(number for number, layer in enumerate(self._layers) if layer.is_for(facts))
        rendered = self._rendered.get(chosen)
        if rendered is None:
            if len(self._rendered) >= _MAX_RENDERED:
                self._rendered.clear()
            rendered = self._rendered[chosen] = self._render(chosen)
        return rendered.answer(etag)

    def _render(self, chosen: tuple[int, ...]) -> _Rendered:
        layers = [self._layers[number] for number in chosen]
        merged = merge([{"options": {**self._defaults, **self._eased}}, *(layer.body for layer in layers)])
        return _Rendered.of(render(merged), tuple(layer.name for layer in layers), merged)


class StaticConfiguration(NodeConfiguration):
    """The same bytes for every node."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._static = _Rendered.of(body, ("static",), None)

    def why(self, node: Node) -> dict[str, Any]:
        """Nothing decides anything here."""
        return {"layers": [], "queries": [], "options": []}

    def config_for(self, facts: NodeFacts, etag: str | None) -> ConfigAnswer:
        """See :class:`NodeConfiguration`."""
        return self._static.answer(etag)


@attrs.frozen
class _Rendered:
    plain: bytes
    tagged: bytes
    etag: str
    layers: tuple[str, ...]

    @classmethod
    def of(cls, plain: bytes, layers: tuple[str, ...], body: Mapping[str, Any] | None) -> _Rendered:
        etag = hashlib.sha256(plain).hexdigest()[:32]
        tagged = plain if body is None else render({**body, "etag": etag})
        return cls(plain, tagged, etag, layers)

    def answer(self, etag: str | None) -> ConfigAnswer:
        if etag is None:
            return ConfigAnswer(self.plain, self.etag, self.layers, False, _gzip)
        if etag == self.etag:
            return ConfigAnswer(_UNCHANGED, self.etag, self.layers, True, _gzip)
        return ConfigAnswer(self.tagged, self.etag, self.layers, False, _gzip)


@functools.lru_cache(maxsize=64)
def _gzip(body: bytes) -> bytes:
    # No time stamp in it: the same configuration is the same bytes.
    return gzip.compress(body, mtime=0)


def read_folder(folder: Path) -> tuple[list[Layer], list[Problem]]:
    """
    The layers of a folder, in the order of their names, and what is only worth a warning.

    :raise BadConfiguration: something in it must not be served; all problems are in it.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS and not path.name.startswith("."))
    except OSError as problem:
        raise BadConfiguration([Problem(str(folder), "", f"--config: {problem.strerror}")]) from None
    if not files:
        raise BadConfiguration([Problem(str(folder), "", "--config: it holds no .conf, .json or .yaml file")])
    layers: list[Layer] = []
    problems: list[Problem] = []
    for path in files:
        try:
            layer = parse_layer(path.name, _read(path, path.name))
            layer = _with_packs(folder, path, layer)
        except BadConfiguration as bad:
            problems += bad.problems
        else:
            layers.append(layer)
            problems += check(layer.body, path.name)
            problems += _taken_names(layer)
    if not any(problem.severity == "error" for problem in problems):
        together = merge(layer.body for layer in layers)
        problems += check_size(together, "all layers together", MAX_BYTES)
    if any(problem.severity == "error" for problem in problems):
        raise BadConfiguration(problems)
    return layers, problems


def read_tagging(folder: Path) -> Tagging:
    """
    The tag rules and tag queries of a folder; it may have none.

    :raise BadConfiguration: they must not be served.
    """
    path = folder / FILE
    return parse_tagging(_read(path, FILE)) if path.exists() else Tagging()


def check_folder(folder: Path) -> list[Problem]:
    """Everything wrong with a folder, the SQL in it included; that is not looked at when a folder is served."""
    try:
        layers, problems = read_folder(folder)
        return [*problems, *check_queries([*layers, *read_tagging(folder).layers()])]
    except BadConfiguration as bad:
        return list(bad.problems)


def _taken_names(layer: Layer) -> list[Problem]:
    names = layer.body.get("schedule")
    taken = [name for name in names if name.startswith(QUERY_PREFIX)] if isinstance(names, Mapping) else []
    return [Problem(layer.name, f"schedule.{name}", "tag queries have such names") for name in taken]


def _read(path: Path, name: str) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as problem:
        raise BadConfiguration([Problem(name, "", problem.strerror or "cannot be read")]) from None
    except UnicodeDecodeError:
        raise BadConfiguration([Problem(name, "", "it is not UTF-8")]) from None


def _with_packs(folder: Path, path: Path, layer: Layer) -> Layer:
    """The layer with the packs of other files put in: osquery cannot fetch them by name from a TLS server."""
    packs = layer.body.get("packs")
    if not isinstance(packs, Mapping):
        return layer
    found: dict[str, Any] = {}
    files: dict[str, str] = {}
    for name, pack in packs.items():
        if name == "*" and isinstance(pack, Mapping):
            found.update(pack)
        elif isinstance(pack, str):
            file = _pack_file(folder, path, name, pack)
            files[name] = str(file.relative_to(folder.resolve()))
            found[name] = parse_text(files[name], _read(file, files[name]))
        else:
            found[name] = pack
    return attrs.evolve(layer, body={**layer.body, "packs": found}, pack_files=files)


def _pack_file(folder: Path, path: Path, name: str, spoken: str) -> Path:
    target = (path.parent / spoken).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise BadConfiguration([Problem(path.name, f"packs.{name}", f"{spoken} is outside the config folder")])
    if not target.is_file():
        raise BadConfiguration([Problem(path.name, f"packs.{name}", f"there is no file {spoken}")])
    return target


class ConfigFolder(Service):
    """
    A folder of layers, read again when something in it changes.

    The last good configuration stays in force when a new one is bad; the log says once what is wrong with it.

    :param on_reload: called with whether a reading was good.
    :raise BadConfiguration: there is no good one to begin with.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, folder: Path, on_reload: Callable[[bool], None] = lambda ok: None) -> None:
        self._clock = clock
        self._folder = folder
        self._on_reload = on_reload
        self._seen = self._signature()
        self._loop: LoopingCall | None = None
        layers, warnings = read_folder(folder)
        self.configuration = NodeConfiguration(layers, tagging=read_tagging(folder))
        self._warn(warnings)
        on_reload(True)

    def startService(self) -> None:
        """Begin to watch the folder."""
        super().startService()
        self._loop = LoopingCall(self.check)
        self._loop.clock = self._clock
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
            layers, warnings = read_folder(self._folder)
            tagging = read_tagging(self._folder)
        except BadConfiguration as bad:
            for problem in bad.problems:
                self._log.error("configuration: {problem}", problem=str(problem))
            self._log.error("the configuration stays as it was: {folder} cannot be served", folder=str(self._folder))
            self._on_reload(False)
            return
        self.configuration.replace(layers, tagging)
        self._warn(warnings)
        self._log.info("configuration: {count} layers of {folder}", count=len(layers), folder=str(self._folder))
        self._on_reload(True)

    def _warn(self, warnings: Sequence[Problem]) -> None:
        for warning in warnings:
            self._log.warn("configuration: {warning}", warning=str(warning))

    def _signature(self) -> frozenset[tuple[str, int, int, int]]:
        found = set()
        for path in [self._folder, *self._folder.rglob("*")]:
            try:
                stat = path.stat()
            except OSError:
                continue
            found.add((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return frozenset(found)
