"""``python -m bench logs``: log lines from the socket to a file, and what that costs beside a bare ``XADD``."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from bench.barexadd import CLIENTS
from bench.pipeline import PARTS, ROOT, Pipeline, pipeline
from bench.servers import Certificates

LONGEST = 60.0


@attrs.frozen
class Case:
    """
    One kind of load.

    :ivar posts: how many a measurement has, of so many ``lines``.
    :ivar threads: how many are under way at once.
    :ivar keep: whether connections are kept, as osqueryd does not.
    """

    lines: int
    posts: int
    threads: int = 8
    durability: str = "append"
    keep: bool = False


CASES = (
    Case(1, 800),
    Case(50, 600),
    Case(1000, 60),
    # An answer waits for the next sync, up to two seconds, so there must be many at once.
    Case(50, 1200, threads=400, durability="fsync"),
    Case(1, 1600, keep=True),
    Case(50, 1200, keep=True),
    Case(1000, 60, keep=True),
)
BARE = {1: 20_000, 50: 8_000, 1000: 400}
"""For each number of lines in a batch how many batches are added."""


class Tail:
    """Counts the lines of a file as it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.lines = 0

    def look(self) -> int:
        """How many lines there are by now."""
        while part := self._file.read(1 << 20):
            self.lines += part.count(b"\n")
        return self.lines

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


@attrs.define
class LogBench:
    """
    One run.

    :ivar share: of the posts of each case: less than 1 for a quick look.
    """

    rounds: int
    share: float = 1.0
    cases: tuple[Case, ...] = CASES
    _found: dict[Case, list[dict[str, float]]] = attrs.field(factory=dict, init=False)
    _bare: dict[int, list[dict[str, Any]]] = attrs.field(factory=dict, init=False)
    _next: int = attrs.field(default=0, init=False)

    def run(self, folder: Path) -> None:
        """Measure every case in turn, so often; the first round warms up."""
        certificates = Certificates.mint(folder / "certs", "P-256")
        with contextlib.ExitStack() as stack:
            ready: dict[tuple[str, bool], tuple[Pipeline, Tail]] = {}
            for case in self.cases:
                kind = (case.durability, case.keep)
                if kind not in ready:
                    place = folder / str(len(ready))
                    options = ["--durability", case.durability, "--keep-connections", "yes" if case.keep else "no"]
                    sink = f'kind = "file"\npath = "{folder}/{len(ready)}.jsonl"\nrotate_mib = 0\nrotate_hours = 0\n'
                    started = stack.enter_context(pipeline(place, certificates, sink, options))
                    (folder / f"{len(ready)}.jsonl").touch()
                    tail = stack.enter_context(contextlib.closing(Tail(folder / f"{len(ready)}.jsonl")))
                    ready[kind] = started, tail
            for number in range(self.rounds + 1):
                for case in self.cases:
                    result = self.measure(case, *ready[case.durability, case.keep])
                    if number:
                        self._found.setdefault(case, []).append(result)
                        told = "  ".join(f"{name}={value:.1f}" for name, value in result.items())
                        print(f"{case}  {told}", file=sys.stderr, flush=True)
                for lines in sorted({case.lines for case in self.cases}):
                    bare = self.bare(lines)
                    if number:
                        self._bare.setdefault(lines, []).append(bare)

    def measure(self, case: Case, to: Pipeline, tail: Tail) -> dict[str, float]:
        """Post, and wait for the last line to be in the file."""
        posts = max(case.threads, int(case.posts * self.share))
        count = posts * case.lines
        wanted = tail.look() + count
        before = to.cpu()
        load = to.load(lines=case.lines, posts=posts, threads=case.threads, keep=case.keep, first=self._next)
        self._next += count
        try:
            until = time.monotonic() + LONGEST
            while tail.look() < wanted:
                if time.monotonic() > until:
                    raise RuntimeError(f"{case}: {wanted - tail.lines} lines are missing after {LONGEST:g} s")
                time.sleep(0.005)
            ended = time.monotonic()
            result = load.result(LONGEST)
        finally:
            load.end()
        # The batches are settled after their lines are in the file.
        time.sleep(0.2)
        if tail.look() > wanted:
            raise RuntimeError(f"{case}: {tail.lines - wanted} lines came twice")
        after = to.cpu()
        return {
            "lines_per_second": count / (ended - result["began"]),
            "answered_per_second": count / (result["ended"] - result["began"]),
            "median_answer_ms": result["median_answer"] * 1e3,
            "load_us": result["client_cpu"] / count * 1e6,
            **{f"{part}_us": (after[part] - before[part]) / count * 1e6 for part in PARTS},
        }

    def bare(self, lines: int) -> dict[str, Any]:
        """What adding the same batches to a stream costs, by client."""
        order = {"lines": lines, "posts": max(10, int(BARE[lines] * self.share))}
        words = [sys.executable, "-m", "bench.barexadd"]
        done = subprocess.run(
            words, cwd=ROOT, input=json.dumps(order), capture_output=True, text=True, timeout=LONGEST, check=False
        )
        if done.returncode:
            raise RuntimeError(f"bench.barexadd: {done.stderr[-2000:]}")
        count = order["lines"] * order["posts"]
        found = json.loads(done.stdout)
        return {client: {part: each / count * 1e6 for part, each in found[client].items()} for client in CLIENTS}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The medians of each case, and what a line costs in all beside each of the bare clients."""
        rows: list[dict[str, Any]] = []
        bare = {
            lines: {client: statistics.median(sum(each[client].values()) for each in found) for client in CLIENTS}
            for lines, found in self._bare.items()
        }
        for case, results in self._found.items():
            row = {name: round(statistics.median(each[name] for each in results), 2) for name in results[0]}
            row["all_us"] = round(statistics.median(sum(each[f"{part}_us"] for part in PARTS) for each in results), 2)
            spread = [pick(each["lines_per_second"] for each in results) for pick in (min, max)]
            ratios = {client: round(row["all_us"] / bare[case.lines][client], 1) for client in CLIENTS}
            rows.append({**attrs.asdict(case), **row, "spread": [round(each) for each in spread], "to_bare": ratios})
        return rows

    @property
    def bare_rows(self) -> list[dict[str, Any]]:
        """The medians of the bare clients."""
        return [
            {
                "lines": lines,
                "client": client,
                "client_us": round(statistics.median(each[client]["client"] for each in found), 2),
                "store_us": round(statistics.median(each[client]["store"] for each in found), 2),
            }
            for lines, found in self._bare.items()
            for client in CLIENTS
        ]


def table(rows: list[dict[str, Any]], bare: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| connections | durability | lines a post | lines/s to the file | min-max | answer ms |",
        "|---|---|--:|--:|--:|--:|",
    ]
    kept = {False: "new", True: "kept"}
    for row in rows:
        spread = "-".join(map(str, row["spread"]))
        lines.append(
            f"| {kept[row['keep']]} | {row['durability']} | {row['lines']} | {row['lines_per_second']:.0f} | {spread} "
            f"| {row['median_answer_ms']:.0f} |"
        )
    lines += [
        "",
        "| connections | durability | lines a post | server | Valkey | delivery | all | of tight XADD "
        "| of pipelined | of one by one |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        costs = " | ".join(f"{row[f'{part}_us']:.1f}" for part in (*PARTS, "all"))
        ratios = " | ".join(str(row["to_bare"][client]) for client in CLIENTS)
        lines.append(f"| {kept[row['keep']]} | {row['durability']} | {row['lines']} | {costs} | {ratios} |")
    lines += ["", "| bare XADD | lines a batch | client | Valkey | all |", "|---|--:|--:|--:|--:|"]
    for row in bare:
        together = row["client_us"] + row["store_us"]
        costs = f"{row['client_us']:.2f} | {row['store_us']:.2f} | {together:.2f}"
        lines.append(f"| {row['client']} | {row['lines']} | {costs} |")
    return "\n".join(lines)
