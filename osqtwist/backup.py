"""
Backup and restore of what a server cannot make again: signing keys, enroll secrets, the store, carves.

Configuration, certificates and settings are files of their operators, who keep them anyway.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import msgspec

from osqtwist import __version__
from osqtwist.archive import FORMAT, Archive, ArchiveWriter, BadArchive, Contents
from osqtwist.settings import Settings
from osqtwist.statefolder import CARVES, ENROLL_SECRET, LOCK, SIGNING_KEYS, STORE, Owner, StateFolder, UnusableState
from osqtwist.storage.copying import (
    LOG_FOLDER,
    SNAPSHOT,
    CopiedKey,
    copy_keys,
    put_keys,
    put_snapshot,
    snapshot,
)
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import RedisPlace, parse_redis_url

PRIVATE = "private"
_ENROLL_SECRETS = "enroll-secrets"
_DRAIN = "drain:"
_SOCKET = "valkey.sock"
SNAPSHOT_SECONDS = 600.0


@attrs.frozen
class Done:
    """What there is to tell of a backup or a restore."""

    path: Path
    files: int
    keys: int
    notes: tuple[str, ...] = ()


def back_up(settings: Settings, path: Path, with_carves: bool) -> Done:
    """
    Write a backup, of a running server or of one that does not run.

    :raise BadArchive: it cannot be written.
    :raise CopyFailed: the store gives no copy.
    :raise UnusableState: there is nothing to back up.
    """
    state = Path(settings.state).absolute()
    if not (state / SIGNING_KEYS).exists():
        raise UnusableState(f"--state {state} holds no signing keys, so it is not the state folder of a server")
    if path.exists():
        raise BadArchive(f"{path} is there already")
    try:
        with ArchiveWriter(path) as archive:
            for name in (SIGNING_KEYS, ENROLL_SECRET):
                if (state / name).exists():
                    archive.add(name, state / name)
            if settings.enroll_secret_path:
                archive.add(_ENROLL_SECRETS, Path(settings.enroll_secret_path))
            stores, keys = _copy_stores(settings, state, archive)
            if with_carves:
                for file in sorted((state / CARVES).iterdir()):
                    if file.is_file():
                        archive.add(f"{CARVES}/{file.name}", file)
            archive.finish(
                Contents(
                    format=FORMAT,
                    version=__version__,
                    made_at=time.time(),
                    host=socket.gethostname(),
                    prefix=settings.redis_prefix,
                    stores=stores,
                    files=archive.files,
                )
            )
            return Done(path, len(archive.files), keys)
    except OSError as problem:
        raise BadArchive(f"{problem.filename or path}: {problem.strerror or problem}") from None


def restore(settings: Settings, path: Path, replace: bool, any_version: bool = False) -> Done:
    """
    Put a backup back.

    What is there goes aside, to a folder beside the state folder, rather than away; keys on other servers are deleted.

    :param replace: whether there may be something.
    :param any_version: take it also if another version of osqtwist has made it.
    :raise BadArchive: it cannot be used; nothing was changed.
    :raise UnusableState: a server runs, or there is something that may not be replaced; nothing was changed.
    :raise CopyFailed: a server of the store does not take it.
    """
    archive = Archive.read(path)
    contents = archive.contents
    if contents.version != __version__ and not any_version:
        raise BadArchive(
            f"{path} was made by osqtwist {contents.version}, and this is {__version__}; install that one, restore, "
            "and upgrade, or say --any-version"
        )
    servers = _servers(settings)
    if (PRIVATE in contents.stores) != (PRIVATE in servers):
        is_private = PRIVATE in contents.stores
        wanted = (
            "made with the private Valkey, and --redis is given" if is_private else "made with --redis, which is not"
        )
        raise BadArchive(f"{path} was {wanted}")
    if missing := sorted(set(contents.stores) - set(servers)):
        raise BadArchive(f"{path} holds data of {missing[0]}, which the settings do not name (--redis, --log-redis)")
    if contents.prefix != settings.redis_prefix:
        raise BadArchive(
            f"{path} has keys that begin with {contents.prefix}; --redis-prefix is {settings.redis_prefix}"
        )
    folder = StateFolder(Path(settings.state).absolute())
    folder.prepare()
    with folder.lock():
        notes = _make_room(folder.path, replace)
        keys = 0
        for server, member in contents.stores.items():
            if server != PRIVATE:
                keys += put_keys(
                    servers[server], contents.prefix, _copied(archive, member, folder.path / ".keys"), replace
                )
        for name in (SIGNING_KEYS, ENROLL_SECRET):
            if name in contents.files:
                archive.extract(name, folder.path / name)
        for name in archive.names(CARVES):
            archive.extract(name, folder.path / name)
        if PRIVATE in contents.stores:
            _put_private(archive, folder.path)
        notes += _put_secrets(archive, settings)
        _give_to_owner(folder.path)
    return Done(path, len(contents.files), keys, tuple(notes))


def _give_to_owner(state: Path) -> None:
    """What root restores belongs to whom the state folder belongs to."""
    if os.geteuid() == 0:
        owner = state.stat()
        Owner(owner.st_uid, owner.st_gid).take([path for path in state.rglob("*") if not path.is_symlink()])


def _servers(settings: Settings) -> dict[str, RedisPlace]:
    """The servers of the store by name; the private one by :data:`PRIVATE`."""
    texts = [text.removeprefix(_DRAIN) for text in (settings.redis, *settings.log_redis) if text]
    places = [parse_redis_url(text) for text in texts]
    found = {place.name: place for place in places}
    if not settings.redis:
        found[PRIVATE] = RedisPlace("unix", (), str(Path(settings.state).absolute() / STORE / _SOCKET), Login())
    return found


def _copy_stores(settings: Settings, state: Path, archive: ArchiveWriter) -> tuple[dict[str, str], int]:
    stores, count = {}, 0
    for number, (name, place) in enumerate(_servers(settings).items()):
        if name == PRIVATE:
            stores[name] = _copy_private(state, place, archive)
            continue
        stores[name] = f"keys/{number}.jsonl.gz"
        with tempfile.TemporaryFile(dir=archive.path.parent) as scratch:
            with gzip.open(scratch, "wb", 6) as lines:
                for key in copy_keys(place, settings.redis_prefix):
                    lines.write(msgspec.json.encode(key) + b"\n")
                    count += 1
            archive.add_stream(stores[name], scratch)
    return stores, count


def _copy_private(state: Path, place: RedisPlace, archive: ArchiveWriter) -> str:
    """Its snapshot if it runs, else its append-only file, which then stays as it is as long as we have the lock."""
    folder = state / STORE
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(StateFolder(state).lock())
        except UnusableState:
            made = snapshot(place, folder, SNAPSHOT_SECONDS)
            try:
                archive.add(f"{STORE}/{SNAPSHOT}", made)
            finally:
                made.unlink(missing_ok=True)
            return f"{STORE}/{SNAPSHOT}"
        for file in sorted((folder / LOG_FOLDER).iterdir()):
            archive.add(f"{STORE}/{LOG_FOLDER}/{file.name}", file)
        return f"{STORE}/{LOG_FOLDER}"


def _put_private(archive: Archive, state: Path) -> None:
    for name in archive.names(STORE):
        archive.extract(name, state / name)
    taken = state / STORE / SNAPSHOT
    if taken.exists():
        put_snapshot(taken, state / STORE)


def _make_room(state: Path, replace: bool) -> list[str]:
    """Put aside what is in the state folder."""
    filled = [state / SIGNING_KEYS, state / ENROLL_SECRET, *(state / STORE).iterdir(), *(state / CARVES).iterdir()]
    filled = [each for each in filled if each.exists() and each.name != LOCK]
    if not filled:
        return []
    if not replace:
        raise UnusableState(f"--state {state} holds {filled[0].name} already; --replace puts what is there aside")
    aside = state.with_name(f"{state.name}.before-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    for each in filled:
        target = aside / each.relative_to(state)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        each.replace(target)
    return [f"what was in {state} is in {aside}"]


def _put_secrets(archive: Archive, settings: Settings) -> list[str]:
    """The file of ``--enroll-secret-path``, which is not ours to replace."""
    if _ENROLL_SECRETS not in archive.contents.files:
        return []
    if not settings.enroll_secret_path:
        return [
            f"the backup holds {_ENROLL_SECRETS}, and the settings name no --enroll-secret-path: they were left out"
        ]
    target = Path(settings.enroll_secret_path)
    if target.exists():
        return [f"{target} is there, and stays as it is"]
    archive.extract(_ENROLL_SECRETS, target)
    return []


def _copied(archive: Archive, member: str, scratch: Path) -> Iterator[CopiedKey]:
    scratch.unlink(missing_ok=True)
    try:
        archive.extract(member, scratch)
        with gzip.open(scratch) as lines:
            for line in lines:
                yield msgspec.json.decode(line, type=CopiedKey)
    finally:
        scratch.unlink(missing_ok=True)
