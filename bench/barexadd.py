"""
What it costs to do nothing but ``XADD`` the same bytes: the floor of the log benchmarks.

A process of its own with a Valkey of its own, configured as osqtwist configures its private one.  It measures three
clients: ``tight`` writes to a blocking socket and reads many replies at once; ``pipelined`` and ``one by one`` use the
connection that osqtwist uses.  ``python -m bench.barexadd`` takes its orders as JSON and answers as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from bench.logload import lines_of
from bench.servers import cpu_of
from osqtwist.storage.embedded import EmbeddedValkey
from osqtwist.storage.redis import FindServer
from osqtwist.storage.redis_connection import RedisConnection

CLIENTS = ("tight", "pipelined", "one by one")
_WINDOW = 100
_WINDOW_BYTES = 2**20


def _tight(path: str, batches: list[bytes], window: int) -> None:
    reader = hiredis.Reader()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        for first in range(0, len(batches), window):
            part = batches[first : first + window]
            commands: Any = [("XADD", "bare", "*", "d", each) for each in part]
            connection.sendall(b"".join(map(hiredis.pack_command, commands)))
            left = len(part)
            while left:
                reader.feed(connection.recv(65536))
                while (reply := reader.gets()) is not False:
                    assert isinstance(reply, bytes), reply
                    left -= 1


async def _over(redis: RedisConnection, batches: list[bytes], window: int) -> None:
    for first in range(0, len(batches), window):
        part = batches[first : first + window]
        if window == 1:
            await redis.execute("XADD", "bare", "*", "d", part[0])
        else:
            await redis.execute_all([("XADD", "bare", "*", "d", each) for each in part])


async def measure(reactor: Any, folder: Path, order: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each client the CPU seconds, of itself and of Valkey, that ``posts`` batches of ``lines`` lines take."""
    batches = [lines_of(post * order["lines"], order["lines"]).encode() for post in range(order["posts"])]
    window = max(2, min(_WINDOW, _WINDOW_BYTES // len(batches[0])))
    valkey = EmbeddedValkey(reactor, folder)
    await valkey.start()
    redis = RedisConnection(reactor, FindServer(reactor, valkey.place), valkey.place.login)
    redis.open()
    await redis.connected(5.0)
    facts = (await redis.execute("INFO", "server")).decode()
    pid = int(facts.partition("process_id:")[2].split()[0])
    found: dict[str, dict[str, float]] = {}
    try:
        for client in CLIENTS:
            began, store_began = time.process_time(), cpu_of(pid)
            if client == "tight":
                _tight(valkey.place.path, batches, window)
            else:
                await _over(redis, batches, window if client == "pipelined" else 1)
            found[client] = {"client": time.process_time() - began, "store": cpu_of(pid) - store_began}
            assert await redis.execute("XLEN", "bare") == len(batches)
            await redis.execute("DEL", "bare")
    finally:
        redis.close()
        await valkey.stop()
    return found


def main() -> None:
    """Do as ordered."""
    order = json.load(sys.stdin)

    async def run(reactor: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="osqtx-") as folder:
            print(json.dumps(await measure(reactor, Path(folder), order)))

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()
