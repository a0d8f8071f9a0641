"""
Versions of the configuration and roll-outs in Redis.

==========================  ======  ==============================================================================
``rollout``                 hash    ``revision`` and ``state``: how things are, as JSON
``rollout:history``         list    the newest changes, as JSON, the newest first; up to 200
``rollout:versions``        hash    by number, as JSON: some 150 bytes each
``rollout:files``           hash    by number: the files of a version, compressed; some 20, 16 MiB together
``rollout:digests``         hash    by digest: the number; ``next`` counts them
``rollout:folder:NAME``     string  the digest of what a folder said last; goes 30 days after its last start or change
``rollout:R:served``        hash    of roll-out R: by node, when it got the version; up to 20,000 of some 60 bytes
``rollout:R:problems``      hash    ``KIND TEXT`` by problem; up to 100
``rollout:R:names``         hash    by problem: up to 5 names of canaries, a line each
``rollout:R:c:PROBLEM``     HLL     the canaries that have it; ``rollout:R:o:PROBLEM`` the others; up to 12 KiB each
==========================  ======  ==============================================================================

What is of one roll-out goes a week after its last news.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.canaryhealth import ProblemCount
from osqtwist.rollout import HistoryEntry, Rollout, VersionInfo
from osqtwist.rolloutinterfaces import (
    FOLDER_SECONDS,
    KEPT_SECONDS,
    MOST_BYTES,
    MOST_ENTRIES,
    MOST_NAMES,
    MOST_PROBLEMS,
    MOST_VERSIONS,
    MOST_WATCHED,
    OTHER_PROBLEMS,
    SAME_MOMENT,
    IRolloutStore,
    NodeTrouble,
)
from osqtwist.storage.redis_connection import RedisConnection, Script

_CHANGE = Script(
    """
    if (redis.call('HGET', KEYS[1], 'revision') or '0') ~= ARGV[1] then return 0 end
    redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'state', ARGV[3])
    redis.call('LPUSH', KEYS[2], ARGV[4])
    redis.call('LTRIM', KEYS[2], 0, ARGV[5] - 1)
    return 1
    """
)
# KEYS: versions, files, digests.  ARGV: digest, what is known with NUMBER for the number, files, most versions, most
# bytes, versions that are needed...
_KEEP = Script(
    """
    local number = redis.call('HGET', KEYS[3], ARGV[1])
    if number then return redis.call('HGET', KEYS[1], number) end
    number = redis.call('HINCRBY', KEYS[3], 'next', 1)
    local info = string.gsub(ARGV[2], '"NUMBER"', number, 1)
    redis.call('HSET', KEYS[3], ARGV[1], number)
    redis.call('HSET', KEYS[1], number, info)
    redis.call('HSET', KEYS[2], number, ARGV[3])
    local needed, all, total = {[tostring(number)] = true}, redis.call('HKEYS', KEYS[2]), 0
    for index = 6, #ARGV do needed[ARGV[index]] = true end
    for _, each in ipairs(all) do total = total + redis.call('HSTRLEN', KEYS[2], each) end
    table.sort(all, function(one, other) return tonumber(one) < tonumber(other) end)
    local count = #all
    for _, each in ipairs(all) do
        if count <= tonumber(ARGV[4]) and total <= tonumber(ARGV[5]) then break end
        if not needed[each] then
            count, total = count - 1, total - redis.call('HSTRLEN', KEYS[2], each)
            local gone = cjson.decode(redis.call('HGET', KEYS[1], each))
            redis.call('HDEL', KEYS[3], gone.digest)
            redis.call('HDEL', KEYS[1], each)
            redis.call('HDEL', KEYS[2], each)
        end
    end
    return info
    """
)
# KEYS: served, problems, names.  ARGV: what the keys of a roll-out begin with, most watched, most problems, most names,
# seconds to keep, name for other problems, seconds of one moment, number of nodes served, (node, time)..., (node, name,
# kind, problem, text, time)...
_WATCH = Script(
    """
    local most, place = tonumber(ARGV[2]), 9 + 2 * ARGV[8]
    local watched = redis.call('HLEN', KEYS[1])
    for index = 9, place - 1, 2 do
        if watched < most then watched = watched + redis.call('HSETNX', KEYS[1], ARGV[index], ARGV[index + 1]) end
    end
    local touched = {KEYS[1], KEYS[2], KEYS[3]}
    for index = place, #ARGV, 6 do
        local node, name, kind, problem = ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3]
        local served = redis.call('HGET', KEYS[1], node)
        if served or watched < most then
            if redis.call('HEXISTS', KEYS[2], problem) == 0 then
                if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then problem = ARGV[6] .. ': ' .. kind end
                redis.call('HSETNX', KEYS[2], problem, kind .. ' ' .. ARGV[index + 4])
            end
            local is_canary = served and tonumber(ARGV[index + 5]) >= tonumber(served) - tonumber(ARGV[7])
            local key = ARGV[1] .. (is_canary and 'c:' or 'o:') .. problem
            touched[#touched + 1] = key
            if redis.call('PFADD', key, node) == 1 and is_canary then
                local names = redis.call('HGET', KEYS[3], problem) or ''
                local _, count = string.gsub(names, '\\n', '')
                if count < tonumber(ARGV[4]) then redis.call('HSET', KEYS[3], problem, names .. name .. '\\n') end
            end
        end
    end
    for _, key in ipairs(touched) do redis.call('EXPIRE', key, ARGV[5]) end
    return watched < most and 1 or 0
    """
)

_rollouts = msgspec.json.Decoder(Rollout)
_entries = msgspec.json.Decoder(HistoryEntry)
_infos = msgspec.json.Decoder(VersionInfo)


@implementer(IRolloutStore)
@attrs.frozen
class RedisRolloutStore:
    """See :class:`osqtwist.rolloutinterfaces.IRolloutStore`."""

    _redis: RedisConnection
    _prefix: str
    most_watched: int = MOST_WATCHED

    async def current(self) -> Rollout | None:
        """One command."""
        found = await self._redis.execute("HGET", self._key, "state")
        return _rollouts.decode(found) if found else None

    async def change(self, rollout: Rollout, seen: Rollout | None) -> bool:
        """One script."""
        entry = msgspec.json.encode(HistoryEntry.of(rollout))
        arguments = [seen.revision if seen else 0, rollout.revision, msgspec.json.encode(rollout), entry, MOST_ENTRIES]
        return bool(await self._redis.run(_CHANGE, [self._key, f"{self._key}:history"], arguments))

    async def history(self, count: int) -> list[HistoryEntry]:
        """One command."""
        return [
            _entries.decode(each) for each in await self._redis.execute("LRANGE", f"{self._key}:history", 0, count - 1)
        ]

    async def keep(self, info: VersionInfo, data: bytes, needed: Sequence[int]) -> VersionInfo:
        """One script."""
        unnumbered = msgspec.json.encode(msgspec.structs.asdict(info) | {"number": "NUMBER"})
        keys = [f"{self._key}:versions", f"{self._key}:files", f"{self._key}:digests"]
        arguments = [info.digest, unnumbered, data, MOST_VERSIONS, MOST_BYTES, *needed]
        return _infos.decode(await self._redis.run(_KEEP, keys, arguments))

    async def versions(self) -> list[VersionInfo]:
        """One command."""
        found = [_infos.decode(each) for each in await self._redis.execute("HVALS", f"{self._key}:versions")]
        return sorted(found, key=lambda info: info.number, reverse=True)

    async def data(self, number: int) -> bytes | None:
        """One command."""
        found: bytes | None = await self._redis.execute("HGET", f"{self._key}:files", number)
        return found

    async def folder_said(self, folder: str) -> str:
        """One command."""
        found = await self._redis.execute("GET", f"{self._key}:folder:{folder}")
        return found.decode() if found else ""

    async def note_folder(self, folder: str, digest: str) -> None:
        """One command."""
        await self._redis.execute("SET", f"{self._key}:folder:{folder}", digest, "EX", FOLDER_SECONDS)

    async def watch(self, run: int, served: Mapping[str, float], said: Sequence[NodeTrouble]) -> bool:
        """One script."""
        of = self._of(run)
        arguments = [of, self.most_watched, MOST_PROBLEMS, MOST_NAMES, KEPT_SECONDS, OTHER_PROBLEMS, SAME_MOMENT]
        pairs = chain.from_iterable((node_id, repr(at)) for node_id, at in served.items())
        rest = chain.from_iterable(
            (each.node_id, each.name.replace("\n", " "), each.kind, each.problem, each.text, repr(each.at))
            for each in said
        )
        keys = [f"{of}served", f"{of}problems", f"{of}names"]
        return bool(await self._redis.run(_WATCH, keys, [*arguments, len(served), *pairs, *rest]))

    async def canaries(self, run: int) -> int:
        """One command."""
        return int(await self._redis.execute("HLEN", f"{self._of(run)}served"))

    async def problems(self, run: int) -> list[ProblemCount]:
        """Two commands, and two more for each problem."""
        of = self._of(run)
        found = _pairs(await self._redis.execute("HGETALL", f"{of}problems"))
        if not found:
            return []
        names = _pairs(await self._redis.execute("HGETALL", f"{of}names"))
        asked = [("PFCOUNT", f"{of}{side}:".encode() + problem) for problem in found for side in "co"]
        counts = iter(await self._redis.execute_all(asked))
        rows = []
        for problem, said in found.items():
            kind, _, text = said.decode("utf-8", "replace").partition(" ")
            row = ProblemCount(
                "denylisted" if kind == "denylisted" else "error",
                problem.decode("utf-8", "replace"),
                text,
                int(next(counts)),
                int(next(counts)),
                tuple(names.get(problem, b"").decode("utf-8", "replace").splitlines()),
            )
            rows.append(row)
        return sorted(rows, key=lambda row: row.problem)

    async def distinct(self, run: int, problems: Sequence[str]) -> int:
        """One command."""
        if not problems:
            return 0
        return int(await self._redis.execute("PFCOUNT", *(f"{self._of(run)}c:{problem}" for problem in problems)))

    async def served_before(self, run: int, moment: float, after: str, count: int) -> tuple[dict[str, float], str]:
        """One command."""
        place, found = await self._redis.execute("HSCAN", f"{self._of(run)}served", after or "0", "COUNT", count)
        served = {node_id.decode(): float(at) for node_id, at in _pairs(found).items() if float(at) < moment}
        return served, "" if place == b"0" else place.decode()

    @property
    def _key(self) -> str:
        return f"{self._prefix}rollout"

    def _of(self, run: int) -> str:
        return f"{self._key}:{run}:"


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
