"""
``python -m tests.fuzz [--minutes M | --runs N] [TARGET ...]``: fuzzing guided by coverage, with atheris (libFuzzer).

Each target runs in a process of its own, one after the other, for its share of the time.  What it found interesting is
kept under ``.fuzz/corpus`` and is where the next run begins; inputs that broke something are under ``.fuzz/found``.
Exit status 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(".fuzz")
_MEMORY_MIB = 2048


def main() -> int:
    """Run; answers with the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of all targets together")
    parser.add_argument("--runs", type=int, default=0, help="instead: so many executions of each")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where inputs are kept")
    parser.add_argument("--list", action="store_true", help="the targets, and what each reads")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    asked = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print("atheris is missing: pip install 'osqtwist[fuzz]'", file=sys.stderr)
        return 2
    # It names every module.
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["osqtwist"]):
        from tests.fuzz.targets import TARGETS
    if asked.list:
        for target in TARGETS.values():
            print(f"{target.name:16} {target.reads}")
        return 0
    if unknown := set(asked.targets) - set(TARGETS):
        print(f"there is no target {sorted(unknown)[0]}: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    chosen = asked.targets or list(TARGETS)
    limit = (
        f"-runs={asked.runs}" if asked.runs else f"-max_total_time={max(1, round(asked.minutes * 60 / len(chosen)))}"
    )
    rows = []
    for name in chosen:
        row = run(atheris, TARGETS[name], limit, asked.folder.absolute())
        rows.append(row)
        print(json.dumps(row) if asked.json else line_of(row), flush=True)
    found = sum(row["found"] for row in rows)
    total = sum(row["executions"] for row in rows)
    if not asked.json:
        spent = sum(row["seconds"] for row in rows) / 60
        print(f"{total:,} executions in {spent:.1f} minutes, {found} findings")
    return 1 if found else 0


def line_of(row: dict[str, Any]) -> str:
    """A row for people."""
    words = "{target:16} {executions:>10,} executions  {seconds:6.1f} s  {features:>6} features  {inputs:>5} inputs"
    return words.format(**row) + (f"  FOUND: {row['what']}" if row["found"] else "")


def run(atheris: Any, target: Any, limit: str, folder: Path) -> dict[str, Any]:
    """Fuzz one target in a child; answers with what came of it."""
    corpus, found = folder / "corpus" / target.name, folder / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    before = set(found.glob(f"{target.name}-*"))
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / f"{target.name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    log = folder / f"{target.name}.log"
    began = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _fuzz(atheris, target, limit, [str(corpus)], words, found, log)
    _, status = os.waitpid(child, 0)
    text = log.read_text("utf-8", "replace")
    new = sorted(set(found.glob(f"{target.name}-*")) - before)
    counts = [int(each) for each in re.findall(r"^#(\d+)", text, re.M)]
    done = re.search(r"Done (\d+) runs", text)
    features = re.findall(r"ft: (\d+)", text)
    what = ""
    if new or status:
        errors = re.findall(r"=== Uncaught Python exception: ===\n(.+)$", text, re.M)
        what = errors[0][:300] if errors else f"status {status}; see {log}"
    return {
        "target": target.name,
        "executions": int(done[1]) if done else max(counts, default=0),
        "seconds": round(time.monotonic() - began, 1),
        "features": int(features[-1]) if features else 0,
        "inputs": len(list(corpus.iterdir())),
        "found": int(bool(new or status)),
        "what": what,
        "files": [str(each) for each in new],
    }


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _fuzz(atheris: Any, target: Any, limit: str, corpora: list[str], words: Path, found: Path, log: Path) -> None:
    """The child; libFuzzer ends the process."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    read = target.make()
    options = [
        limit,
        f"-max_len={target.longest}",
        "-timeout=25",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-artifact_prefix={found}/{target.name}-",
        "-print_final_stats=1",
    ]
    if words.stat().st_size:
        options.append(f"-dict={words}")

    def one(data: bytes) -> None:
        target.check(read, data)

    atheris.Setup([sys.argv[0], *options, *corpora], one)
    atheris.Fuzz()
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
