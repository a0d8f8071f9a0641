"""The command of the crash test."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import task
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater

from tests.crashtest.crew import Crew
from tests.crashtest.machine import Machine
from tests.crashtest.mischief import Mischief
from tests.crashtest.verdict import SinkVerdict, judge

SINKS = ("file", "small", "hook")
LONGEST_DRAIN = 120.0


@attrs.frozen
class Leg:
    """One run: how durable, and whether the store is killed too."""

    durability: str
    spares_store: bool

    def __str__(self) -> str:
        return f"--durability {self.durability}, the store {'is spared' if self.spares_store else 'is killed too'}"


LEGS = (Leg("append", True), Leg("append", False), Leg("fsync", False))


def say(text: str) -> None:
    """Tell whoever watches."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)


async def run_leg(reactor: Any, leg: Leg, seconds: float, nodes: int, rate: float, seed: int, is_kept: bool) -> bool:
    """One run from an empty folder; answers with whether nothing was lost."""
    print(f"\n{leg}; {seconds:g} s, {nodes} nodes, {rate:g} lines a second each, seed {seed}", flush=True)
    chance = random.Random(seed)
    machine = Machine(Path(tempfile.mkdtemp(prefix="ct-", dir="/tmp")), leg.durability)
    try:
        machine.prepare()
        if not machine.is_disk_small:
            say("no small file system could be mounted (that takes root): a full disk is left out")
        machine.start_receiver()
        machine.start_server()
        await until(reactor, lambda: machine.ask("sink", "list") is not None, 30)
        crew = Crew.of(reactor, machine.folder, machine.port, chance, rate)
        crew.start(nodes)
        mischief = Mischief(reactor, machine, chance, leg.spares_store, say)
        await mischief.make(seconds)
        crew.is_logging = False
        began = reactor.seconds()
        all_acknowledged = await until(reactor, lambda: not crew.waiting, LONGEST_DRAIN, machine)
        all_delivered = await until(reactor, lambda: is_drained(machine), LONGEST_DRAIN, machine)
        crew.stop()
        drained = reactor.seconds() - began
        status = machine.stop()
        acknowledged = crew.acknowledged()
        verdicts = [judge(machine, sink, acknowledged) for sink in SINKS]
        print(f"  faults: {', '.join(f'{name} {count}' for name, count in sorted(mischief.done.items()))}")
        print(f"  posts: {crew.posts}, not acknowledged at first: {crew.refused}; server starts: {machine.starts}")
        print(f"  everything acknowledged and delivered {drained:.1f} s after the last fault")
        for verdict in verdicts:
            print(report(verdict, len(acknowledged)))
        troubles = machine.troubles()
        for name, is_well in (
            ("nodes got rid of every line", all_acknowledged),
            ("every sink caught up", all_delivered),
            ("the server ended in order", status in (0, -15)),
            ("no unhandled error in the server's log", not troubles),
        ):
            if not is_well:
                print(f"  NOT SO: {name}")
        is_well = bool(
            acknowledged
            and all_acknowledged
            and all_delivered
            and not troubles
            and not any(verdict.lost for verdict in verdicts)
        )
        print(f"  {'nothing was lost' if is_well else f'FAILED; everything is in {machine.folder}'}", flush=True)
        is_kept = is_kept or not is_well
        return is_well
    finally:
        machine.clean()
        if not is_kept:
            shutil.rmtree(machine.folder, ignore_errors=True)


def report(verdict: SinkVerdict, acknowledged: int) -> str:
    """A sink's line of the table."""
    return (
        f"  sink {verdict.sink:6} acknowledged {acknowledged}, received {verdict.received}, lost {verdict.lost},"
        f" twice {verdict.twice} ({verdict.share_twice:.3%})"
    )


def is_drained(machine: Machine) -> bool:
    """Whether every sink has everything."""
    rows = machine.ask("sink", "list")
    return bool(rows) and all(row["lag_lines"] == 0 for row in rows)


async def until(reactor: Any, is_so: Any, seconds: float, machine: Machine | None = None) -> bool:
    """Wait for something, and keep the machine running; answers with whether it came to be."""
    end = reactor.seconds() + seconds
    while reactor.seconds() < end:
        if is_so():
            return True
        if machine is not None:
            machine.restart_what_ended()
        await deferLater(reactor, 0.3)
    return False


async def main(reactor: Any, words: list[str]) -> None:
    """Run the legs that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashtest", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="faults are made for so long in each run")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--rate", type=float, default=25.0, help="lines a second of each node")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--leg", type=int, choices=range(1, 1 + len(LEGS)), help="only one of the runs")
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    chosen = parser.parse_args(words)
    results = []
    for number, leg in enumerate(LEGS, 1):
        if chosen.leg in (None, number):
            results.append(
                await run_leg(reactor, leg, chosen.seconds, chosen.nodes, chosen.rate, chosen.seed, chosen.keep)
            )
    if not all(results):
        raise SystemExit(1)


if __name__ == "__main__":
    task.react(lambda reactor: ensureDeferred(main(reactor, sys.argv[1:])))
