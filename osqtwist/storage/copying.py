"""
Copies of what a store holds, made and put back without a reactor: for backups.

A private Valkey writes a snapshot of one moment (``BGSAVE``), also under load.  Of another server only our own keys are
copied, each as ``DUMP`` gives it: every key is of one moment, all together are not.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from osqtwist.storage.redis_url import BlockingRedis, RedisPlace, RedisRefused

SNAPSHOT = "dump.rdb"
LOG_FOLDER = "appendonlydir"
"""Where Valkey keeps its append-only file, in parts."""
_BASE = "appendonly.aof.1.base.rdb"
_MANIFEST = "appendonly.aof.manifest"
_STEP = 0.05
_KEYS_AT_ONCE = 500


class CopyFailed(Exception):
    """A copy cannot be made, or not be put back; one sentence."""


class CopiedKey(msgspec.Struct):
    """
    One key.

    :ivar key: and :attr:`value` in base64; the value as ``DUMP`` gives it.
    :ivar ttl: milliseconds that it has left; 0 if it stays.
    """

    key: str
    value: str
    ttl: int = 0


@contextlib.contextmanager
def connected(place: RedisPlace) -> Iterator[BlockingRedis]:
    """
    A connection that has signed in; with sentinels, to the master.

    :raise CopyFailed: there is none to be had.
    """
    try:
        if place.kind == "sentinel":
            with BlockingRedis.to(place) as sentinel:
                found = sentinel.ask("SENTINEL", "get-master-addr-by-name", place.master)
            if not found:
                raise CopyFailed(f"{place}: the sentinels know no master {place.master!r}")
            place = RedisPlace("redis", ((found[0].decode(), int(found[1])),), "", place.login)
        with BlockingRedis.to(place) as talk:
            talk.sign_in(place.login)
            yield talk
    except (OSError, RedisRefused) as problem:
        raise CopyFailed(f"{place}: {getattr(problem, 'strerror', None) or problem}") from None


def snapshot(place: RedisPlace, folder: Path, seconds: float) -> Path:
    """
    Have a private Valkey write a snapshot into its folder; answers with the file, which is the caller's to remove.

    :raise CopyFailed: not in so many seconds, or not at all.
    """
    with connected(place) as talk:
        before = _facts(talk)["rdb_saves"]
        talk.ask("BGSAVE", "SCHEDULE")
        until = time.monotonic() + seconds
        # Saves are counted when they begin; ours may have to wait for the append-only file's rewriting.
        while (facts := _facts(talk))["rdb_saves"] == before or facts["rdb_bgsave_in_progress"] != "0":
            if time.monotonic() > until:
                raise CopyFailed(f"{place}: Valkey did not write its snapshot in {seconds:g} s")
            time.sleep(_STEP)
    if facts["rdb_last_bgsave_status"] != "ok":
        raise CopyFailed(f"{place}: Valkey could not write its snapshot; its log in {folder} says why")
    return folder / SNAPSHOT


def put_snapshot(snapshot: Path, folder: Path) -> None:
    """Make a snapshot the data of a private Valkey that does not run and has none; its append-only file begins so."""
    parts = folder / LOG_FOLDER
    parts.mkdir(mode=0o700, parents=True, exist_ok=True)
    snapshot.replace(parts / _BASE)
    (parts / _MANIFEST).write_text(f"file {_BASE} seq 1 type b\n", "ascii")


def copy_keys(place: RedisPlace, prefix: str) -> Iterator[CopiedKey]:
    """
    Every key that begins with a prefix.

    :raise CopyFailed: the server does not give them.
    """
    with connected(place) as talk:
        for key in _keys(talk, prefix):
            value = talk.ask("DUMP", key)
            # It may be gone by now.
            if value is not None:
                ttl = max(0, int(talk.ask("PTTL", key)))
                yield CopiedKey(base64.b64encode(key).decode(), base64.b64encode(value).decode(), ttl)


def put_keys(place: RedisPlace, prefix: str, keys: Iterable[CopiedKey], replace: bool) -> int:
    """
    Put copied keys back; answers with how many.

    :param replace: whether those that are there may go.
    :raise CopyFailed: there are some that may not, a server works with them, or the server does not take ours.
    """
    with connected(place) as talk:
        # Every server listens to the others.
        if talk.ask("PUBSUB", "CHANNELS", _pattern(prefix)):
            raise CopyFailed(f"{place}: a server works with the keys that begin with {prefix}; stop it first")
        there = list(_keys(talk, prefix))
        if there and not replace:
            raise CopyFailed(f"{place} holds {len(there)} keys that begin with {prefix}; --replace deletes them")
        for key in there:
            talk.ask("DEL", key)
        count = 0
        for each in keys:
            talk.ask("RESTORE", base64.b64decode(each.key), str(each.ttl), base64.b64decode(each.value), "REPLACE")
            count += 1
        return count


def _keys(talk: BlockingRedis, prefix: str) -> Iterator[bytes]:
    """Each once: a scan may show a key twice."""
    seen: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, found = talk.ask("SCAN", cursor, "MATCH", _pattern(prefix), "COUNT", str(_KEYS_AT_ONCE))
        for key in found:
            if key not in seen:
                seen.add(key)
                yield key
        if cursor == b"0":
            return


def _pattern(prefix: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]\\^-" else letter for letter in prefix) + "*"


def _facts(talk: BlockingRedis) -> dict[str, str]:
    text = talk.ask("INFO", "persistence").decode("utf-8", "replace")
    return dict(line.partition(":")[::2] for line in text.splitlines() if ":" in line)
