"""
The load: a process of its own that makes connections, one request each, and says what it cost itself.

Each connection is a full handshake with a client certificate; nothing is resumed.  ``python -m bench.load`` takes
its orders as JSON on standard input and answers as JSON.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from typing import Any


def connections(order: dict[str, Any]) -> dict[str, Any]:
    """Make ``count`` connections over ``threads`` threads; answers with CPU, seconds and failures."""
    context = ssl.create_default_context(cafile=order["ca"])
    context.minimum_version = context.maximum_version = ssl.TLSVersion[order["version"]]
    context.load_cert_chain(order["cert"], order["key"])
    request = order["request"].encode("latin-1")
    expected = order["expected"].encode()
    failures: list[str] = []
    share = order["count"] // order["threads"]

    def work() -> None:
        for _ in range(share):
            try:
                with (
                    socket.create_connection(("127.0.0.1", order["port"]), 10) as raw,
                    context.wrap_socket(raw, server_hostname="localhost") as connection,
                ):
                    connection.sendall(request)
                    answer = b""
                    while part := connection.recv(65536):
                        answer += part
                    if expected not in answer:
                        failures.append(answer[-200:].decode("latin-1"))
            except OSError as problem:
                failures.append(str(problem))

    cpu, began = time.process_time(), time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(order["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = share * order["threads"]
    return {
        "count": done,
        "seconds": time.perf_counter() - began,
        "client_cpu": (time.process_time() - cpu) / done,
        "failures": failures[:3],
        "failed": len(failures),
    }


if __name__ == "__main__":
    json.dump(connections(json.load(sys.stdin)), sys.stdout)
