"""A node's tables: a few of osquery's, with values of the node's own, in SQLite."""

from __future__ import annotations

import sqlite3
import time
import uuid
from typing import Any

import attrs


class QueryFailed(Exception):
    """SQLite does not take a query; its text."""


@attrs.frozen
class Machine:
    """The machine that a simulated node stands for; made from its number, so it is the same in every run."""

    name: str
    uuid: str
    platform: str
    osquery_version: str

    @classmethod
    def number(cls, number: int, seed: int, domain: str = "sim") -> Machine:
        """The machine with this number."""
        found = uuid.uuid5(uuid.NAMESPACE_DNS, f"{seed}.{number}.{domain}")
        platform = ("ubuntu", "debian", "rhel", "darwin")[number % 4]
        return cls(f"node-{number:05d}.{domain}", str(found).upper(), platform, "5.23.1")

    @property
    def platform_type(self) -> str:
        """osquery's bit mask, as a decimal string."""
        return "21" if self.platform == "darwin" else "9"

    @property
    def host_details(self) -> dict[str, dict[str, str]]:
        """What enroll sends of the machine: the first row of four tables."""
        tables = self.tables()
        return {name: tables[name][0] for name in ("os_version", "osquery_info", "system_info", "platform_info")}

    def tables(self) -> dict[str, list[dict[str, str]]]:
        """Each table's rows; all values are text, as osquery sends them."""
        now = time.time()
        like = "rhel" if self.platform == "rhel" else "" if self.platform == "darwin" else "debian"
        build = "darwin" if self.platform == "darwin" else "linux"
        return {
            "time": [{"unix_time": str(int(now)), "iso_8601": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))}],
            "os_version": [{"name": self.platform, "major": "12", "platform": self.platform, "platform_like": like}],
            "osquery_info": [
                {"pid": "4242", "uuid": self.uuid, "version": self.osquery_version, "build_platform": build}
                | {"config_hash": "", "config_valid": "1", "start_time": "1790000000"}
            ],
            "system_info": [
                {"hostname": self.name, "uuid": self.uuid, "cpu_type": "x86_64", "physical_memory": "8589934592"}
            ],
            "platform_info": [{"vendor": "simulated", "version": "1"}],
            "processes": [
                {"pid": str(pid), "name": name, "path": f"/usr/bin/{name}", "on_disk": "1"}
                for pid, name in ((1, "init"), (4242, "osqueryd"), (4300, "sh"))
            ],
            "users": [
                {"uid": uid, "gid": uid, "username": name, "directory": home, "shell": "/bin/sh"}
                for uid, name, home in (("0", "root", "/root"), ("1000", "user", "/home/user"))
            ],
            "listening_ports": [{"pid": "4300", "port": "22", "protocol": "6", "address": "0.0.0.0"}],  # noqa: S104
            "kernel_modules": [{"name": "ext4", "size": "1", "used_by": "-", "status": "Live"}],
            "uptime": [{"total_seconds": "1000"}],
        }


class Tables:
    """Runs queries over a machine's tables."""

    def __init__(self, machine: Machine) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        for name, rows in machine.tables().items():
            columns = list(rows[0])
            self._database.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
            marks = ", ".join("?" for _ in columns)
            self._database.executemany(f"INSERT INTO {name} VALUES ({marks})", [tuple(row.values()) for row in rows])  # noqa: S608
        self._database.set_authorizer(_read_only)

    def rows(self, sql: str) -> list[dict[str, str]]:
        """
        The rows of a query: text values, columns in the order of the SELECT.

        :raise QueryFailed: it is not SQL that runs here.
        """
        try:
            cursor = self._database.execute(sql)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, map(_text, row), strict=True)) for row in cursor.fetchmany(10_000)]
        except (sqlite3.Error, sqlite3.Warning) as problem:
            raise QueryFailed(str(problem)) from None

    def close(self) -> None:
        """Let go."""
        self._database.close()


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _read_only(action: int, *_: Any) -> int:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
