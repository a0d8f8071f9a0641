"""The command of the fault matrix."""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import task
from twisted.internet.defer import ensureDeferred

from tests.faults.catalog import CATALOG, Fault
from tests.faults.ledger import Ledger
from tests.faults.matrix import Row, make_row
from tests.faults.programs import Missing
from tests.faults.report import as_markdown, as_text, cells_of, soak_as_text
from tests.faults.soak import Soak
from tests.faults.stage import Stage

_TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of the table -->)", re.DOTALL)


def say(text: str) -> None:
    """Tell whoever watches."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)


async def run_stage(reactor: Any, faults: Sequence[Fault], keep: bool) -> tuple[list[Row], list[str]]:
    """Make the faults of one kind of stage; answers with the rows, and with troubles of the server's log."""
    stage, ledger = Stage(reactor, faults[0].kind), Ledger()
    rows: list[Row] = []
    try:
        await stage.begin()
        for fault in faults:
            row = await make_row(stage, ledger, fault)
            rows.append(row)
            say(" | ".join(cells_of(row)))
            for each in row.broken:
                say(f"BROKEN: {fault.name}: {each}")
            if fault.forgives:
                ledger = Ledger()
        return rows, stage.troubles()
    finally:
        if keep:
            say(f"everything of it is in {stage.folder}")
        await stage.clean(keep)


async def run_matrix(reactor: Any, names: Sequence[str], keep: bool, page: str) -> bool:
    """Make every fault, or those with one of the names; answers with whether every promise was kept."""
    faults = [fault for fault in CATALOG if not names or any(name in fault.name for name in names)]
    rows: list[Row] = []
    troubles: list[str] = []
    began = time.monotonic()
    for kind in dict.fromkeys(fault.kind for fault in faults):
        found, more = await run_stage(reactor, [fault for fault in faults if fault.kind == kind], keep)
        rows += found
        troubles += more
    print("\n" + as_text(rows))
    broken = sum(len(row.broken) for row in rows)
    for line in troubles:
        print(f"unexpected in the server's log: {line}")
    print(
        f"\n{len(rows)} faults in {time.monotonic() - began:.0f} s; promises broken: {broken};"
        f" lost: {sum(row.lost for row in rows)}; unexpected errors: {len(troubles)}"
    )
    if page:
        path = Path(page)
        path.write_text(_TABLE.sub(lambda found: as_markdown(rows, found.group()), path.read_text("utf-8")), "utf-8")
    return bool(rows) and not broken and not troubles


async def run_soak(reactor: Any, seconds: float, seed: int, keep: bool) -> bool:
    """Make faults at random; answers with whether every promise was kept."""
    print(f"soak of {seconds:g} s, seed {seed}", flush=True)
    stage = Stage(reactor, "outside")
    is_well = False
    try:
        await stage.begin()
        soak = Soak(stage, random.Random(seed), say)
        balance = await soak.run(seconds)
        troubles = stage.troubles()
        print("\n" + soak_as_text(soak.tally, balance, stage.starts, troubles))
        is_well = not (soak.tally.broken or balance.lost or troubles) and balance.acknowledged["lines"] > 0
        return is_well
    finally:
        if keep or not is_well:
            say(f"everything of it is in {stage.folder}")
        await stage.clean(keep or not is_well)


async def main(reactor: Any, words: list[str]) -> None:
    """Make the faults that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="only faults with this in their name")
    parser.add_argument("--write", default="", metavar="PAGE", help="put the table into this page, between its marks")
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS", help="faults at random for so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the soak")
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    chosen = parser.parse_args(words)
    try:
        if chosen.soak:
            is_well = await run_soak(reactor, chosen.soak, chosen.seed, chosen.keep)
        else:
            is_well = await run_matrix(reactor, chosen.only, chosen.keep, chosen.write)
    except Missing as missing:
        raise SystemExit(f"the fault matrix needs {missing}") from None
    if not is_well:
        raise SystemExit(1)


if __name__ == "__main__":
    task.react(lambda reactor: ensureDeferred(main(reactor, sys.argv[1:])))
