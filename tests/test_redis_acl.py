"""packaging/redis/users.acl: no command too many, and none missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ACL = ROOT / "packaging" / "redis" / "users.acl"
STORAGE = ROOT / "osqtwist" / "storage"
# With a subcommand in the next word, by which rights can be given.
CONTAINERS = {"PUBSUB", "XGROUP", "XINFO"}
# Said to sentinels, which have users of their own; and words of errors that replies begin with.
NOT_COMMANDS = {"SENTINEL", "BUSYGROUP", "LOADING", "NOGROUP", "OOM", "READONLY"}


def allowed(user: str) -> set[str]:
    """What a user may do, as commands are written."""
    (line,) = [each for each in ACL.read_text().splitlines() if each.startswith(f"user {user} ")]
    return {word[1:].upper().replace("|", " ") for word in line.split() if word.startswith("+")}


def used(*paths: Path) -> set[str]:
    """Commands that the source sends: words of calls, of tuples that are sent together, and those of Lua scripts."""
    found = set()
    for path in paths:
        text = path.read_text()
        for name, more in re.findall(r"redis\.p?call\(\s*'([A-Z]+)'(?:,\s*'([A-Z]+)')?", text):
            found.add(f"{name} {more}" if name in CONTAINERS else name)
        for each in ast.walk(ast.parse(text)):
            if isinstance(each, ast.Call | ast.Tuple):
                words = each.args if isinstance(each, ast.Call) else each.elts
                texts = [word.value if isinstance(word, ast.Constant) else None for word in words]
                if not texts or not isinstance(texts[0], str) or not re.fullmatch("[A-Z]{3,}", texts[0]):
                    continue
                found.add(f"{texts[0]} {texts[1]}" if texts[0] in CONTAINERS else texts[0])
    return found - NOT_COMMANDS


def test_the_server_may_do_what_it_does_and_nothing_else() -> None:
    """The storage is all that talks to Redis; sinks have servers of their own."""
    wanted = used(*STORAGE.glob("redis*.py"), STORAGE / "sharded.py")
    assert len(wanted) > 50
    assert allowed("osqtwist") == wanted


def test_a_backup_may_do_what_it_does_and_nothing_else() -> None:
    """Of another server; the private one has no users."""
    wanted = used(STORAGE / "copying.py") - {"BGSAVE", "INFO"} | {"AUTH", "SELECT"}
    assert allowed("osqtwist-backup") == wanted


def test_nobody_can_sign_in_before_a_password_is_set() -> None:
    """The hashes in the file are of no password; and without one there is no user."""
    first, *users = ACL.read_text().splitlines()
    assert first == "user default off"
    for line in users:
        assert f" #{'0' * 64} " in line
        assert "nopass" not in line
        assert "-@all" in line
        assert "~osqtwist:*" in line
