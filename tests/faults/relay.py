"""
A network between a server and its store: ``python -m tests.faults.relay PORT TARGET_PORT``.

Words on the standard input change it: ``to off`` and ``to on`` cut and mend the way to the store, ``from off`` and
``from on`` the way back, ``delay SECONDS`` makes each piece of data late.  A connection whose way is cut stays open and
nothing passes, as when packets are lost; what was on its way arrives when it is mended.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from typing import Any

WORDS = ("to", "from")


class Network:
    """Both ways, and how they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.open = {word: asyncio.Event() for word in WORDS}
        for event in self.open.values():
            event.set()

    def obey(self, line: str) -> None:
        """Change as a line says."""
        word, _, value = line.strip().partition(" ")
        if word == "delay":
            self.delay = float(value)
        elif value == "on":
            self.open[word].set()
        else:
            self.open[word].clear()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ways: list[Coroutine[Any, Any, None]] = [self._way("to", reader, forth), self._way("from", back, writer)]
        tasks = [asyncio.create_task(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (writer, forth):
            end.transport.abort()

    async def _way(self, word: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self.open[word].wait()
                writer.write(data)
                await writer.drain()


async def main(port: int, target: int) -> None:
    """Run until the standard input ends."""
    network = Network(target)
    server = await asyncio.start_server(network.carry, "127.0.0.1", port)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print("ready", flush=True)
    while line := await lines.readline():
        network.obey(line.decode())
        print("done", flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
