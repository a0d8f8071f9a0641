"""What goes wrong in the crash test, in random order, and is mended again after a while."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.task import deferLater

from tests.crashtest.machine import Machine

KILLS = {
    "kill worker": "worker",
    "kill delivery": "delivery",
    "kill store": "store",
    "kill receiver": "receiver",
}
STOPS = {"stop store": "store", "stop receiver": "receiver", "stop delivery": "delivery", "stop worker": "worker"}


@attrs.define
class Mischief:
    """
    Makes faults, one after another, for so long.

    :ivar spares_store: whether the store is left alone.
    :ivar done: how often each fault was made.
    """

    reactor: Any
    machine: Machine
    random: random.Random
    spares_store: bool
    say: Callable[[str], None]
    done: Counter[str] = attrs.field(factory=Counter)

    def faults(self) -> list[str]:
        """Those that can be made here."""
        every = [*KILLS, *STOPS, "receiver refuses"]
        if self.machine.is_disk_small:
            every.append("disk full")
        return [fault for fault in every if not (self.spares_store and fault.endswith("store"))]

    async def make(self, seconds: float) -> None:
        """Make faults for so many seconds: each once, then any; fires when the last is mended."""
        end = self.reactor.seconds() + seconds
        waiting: list[str] = []
        while self.reactor.seconds() < end:
            if not waiting:
                waiting = self.faults()
                self.random.shuffle(waiting)
            await deferLater(self.reactor, self.random.uniform(0.3, 2.0))
            await self._one(waiting.pop(), self.random.uniform(0.5, 3.5))
            self.machine.restart_what_ended()
        self.machine.restart_what_ended()

    async def _one(self, fault: str, seconds: float) -> None:
        machine = self.machine
        if fault in KILLS:
            # Whoever restarts it looks soon.
            seconds = 0.1
        if not (machine.send(KILLS[fault], signal.SIGKILL) if fault in KILLS else self._switch(fault, True)):
            return
        self.done[fault] += 1
        self.say(fault if fault in KILLS else f"{fault} for {seconds:.1f} s")
        try:
            await deferLater(self.reactor, seconds)
        finally:
            if fault not in KILLS:
                self._switch(fault, False)

    def _switch(self, fault: str, is_on: bool) -> bool:
        """Make a fault that lasts, or mend it; whether it could be."""
        if fault in STOPS:
            return self.machine.send(STOPS[fault], signal.SIGSTOP if is_on else signal.SIGCONT)
        if fault == "receiver refuses":
            self.machine.refuse(is_on)
        else:
            self.machine.fill_disk(is_on)
        return True
