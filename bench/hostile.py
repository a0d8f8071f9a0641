"""
``python -m bench.hostile``: the table of ``docs/hostile-inputs.md``.

A real server, attacked from outside in one way after the other.  Of each is measured what it costs the server's
process, beside an ordinary request, and how far its memory grew meanwhile; after all of them, whether the memory came
back and whether the log has an error that nobody expected.  ``--quick``: with short deadlines, for a test.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.attacks import ATTACKS, Attack, Target
from bench.scene import Scene, scene
from osqtwist.pki import Authority

_SETTINGS = """
[limits]
connections_per_address = 500
"""
_DEADLINES = """
[deadlines]
handshake = 2
headers = 2
body = 3
answer = 2
"""
_UNEXPECTED = re.compile(r"Traceback|Unhandled|incident|MemoryError")


def memory(pid: int, name: str = "VmRSS") -> int:
    """Bytes of memory of a process."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


def cpu_ms(pid: int) -> float:
    """Milliseconds of CPU of all threads of a process, exactly."""
    texts = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(text.split()[0]) for text in texts) / 1e6


def forget_peak(pid: int) -> None:
    """Have the kernel measure the peak of its memory anew."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def measure(attack: Attack, made: Scene, target: Target) -> dict[str, Any]:
    """Attack, and see what it cost."""
    forget_peak(made.pid)
    before, began, was = cpu_ms(made.pid), time.monotonic(), memory(made.pid)
    for _ in range(attack.times):
        answer = attack.run(target)
    return {
        "name": attack.name,
        "sent": attack.sent,
        "bound": attack.bound,
        "answer": answer,
        "cpu_ms": (cpu_ms(made.pid) - before) / attack.times,
        "seconds": time.monotonic() - began,
        "mib": max(0, memory(made.pid, "VmHWM") - was) / 2**20,
        "test": attack.test,
    }


def run(quick: bool, names: list[str]) -> dict[str, Any]:
    """All of it; answers with a row for each attack, and how it was after them."""
    with tempfile.TemporaryDirectory(prefix="osqth-") as folder:
        settings = Path(folder) / "settings.toml"
        settings.write_text(_SETTINGS + (_DEADLINES if quick else ""))
        with scene("--client-auth", "optional", "--settings", str(settings), "--request-log", "yes") as made:
            certs = made.folder / "certs"
            authority = Authority.load(certs / "ca.pem", certs / "ca.key")
            target = Target(made.folder, made.port, authority, made.admin, 3.0 if quick else 16.0)
            answer = target.ask("/enroll", {"enroll_secret": "bench-secret", "host_identifier": "attacker"})
            target.key = json.loads(answer[4:])["node_key"]
            chosen = [attack for attack in ATTACKS if not names or attack.name in (*names, ATTACKS[0].name)]
            # Once to warm up: allocators keep what they had at their peak, and caches fill.
            for number, attack in enumerate(chosen, 2):
                if "slow" not in attack.name and attack.name not in ("silence", "unread"):
                    target.address = f"127.0.1.{number}"
                    attack.run(target)
            settle(made)
            start = memory(made.pid)
            rows = []
            for number, attack in enumerate(chosen, 2):
                # Each from an address of its own, since what an address had refused counts.
                target.address = f"127.0.2.{number}"
                rows.append(measure(attack, made, target))
            settle(made)
            end = memory(made.pid)
            log = (made.folder / "out").read_text("utf-8", "replace")
            fine = target.ask("/config", {"node_key": target.key})[:3] == "200"
    unexpected = [line for line in log.splitlines() if _UNEXPECTED.search(line)]
    return {"rows": rows, "start_mib": start / 2**20, "end_mib": end / 2**20, "unexpected": unexpected, "serves": fine}


def settle(made: Scene) -> None:
    """Wait until nobody is connected any more, and garbage is collected."""
    for _ in range(100):
        if b"osqtwist_connections 0.0" in made.admin("GET", "/metrics"):
            break
        time.sleep(0.2)
    time.sleep(1)


def table(found: dict[str, Any]) -> str:
    """The table, in Markdown."""
    ordinary = found["rows"][0]["cpu_ms"]
    lines = ["| sent | bound | answer | CPU | in requests | memory | test |", "|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        answer = row["answer"][:60].replace("|", "\\|").replace("`", "'")
        test = f"`{row['test']}`" if row["test"] else ""
        lines.append(
            f"| {row['sent']} | {row['bound']} | `{answer}` | {row['cpu_ms']:.1f} ms | {row['cpu_ms'] / ordinary:.1f} "
            f"| {row['mib']:.0f} MiB | {test} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run; answers with the exit status: 1 if the server suffered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short deadlines")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK")
    asked = parser.parse_args()
    found = run(asked.quick, asked.attacks)
    print(json.dumps(found) if asked.json else table(found))
    print(
        f"memory: {found['start_mib']:.0f} MiB before, {found['end_mib']:.0f} MiB after; "
        f"{len(found['unexpected'])} unexpected lines in the log; "
        f"{'still serves' if found['serves'] else 'DOES NOT SERVE ANY MORE'}",
        file=sys.stderr,
    )
    for line in found["unexpected"][:20]:
        print(line, file=sys.stderr)
    has_grown = found["end_mib"] > 1.1 * found["start_mib"]
    return int(bool(found["unexpected"]) or has_grown or not found["serves"])


if __name__ == "__main__":
    sys.exit(main())
