"""An osqueryd flagfile that works with a server."""

from __future__ import annotations

from pathlib import Path

import attrs

from osqtwist.web import routes


@attrs.frozen
class NodeFiles:
    """
    Files on a node, as its flagfile names them; what is empty is left out.

    :ivar server_certs: the CA certificates that sign the server's.
    """

    server_certs: str = ""
    client_cert: str = ""
    client_key: str = ""
    enroll_secret: str = ""


def flagfile(hostname: str, files: NodeFiles, prefix: str = "") -> str:
    """
    The flagfile, line by line.

    osquery leaves distributed queries, carves and the config refresh off unless it is told otherwise, so all of
    them stand here.

    :param hostname: name and port of the server, as nodes see it.
    """
    paths = {route: prefix + found[0] for route, found in routes.paths_by_route().items()}
    flags = {
        "tls_hostname": hostname,
        "tls_server_certs": files.server_certs,
        "tls_client_cert": files.client_cert,
        "tls_client_key": files.client_key,
        "enroll_secret_path": files.enroll_secret,
        "host_identifier": "uuid",
        "enroll_tls_endpoint": paths[routes.ENROLL],
        "config_plugin": "tls",
        "config_tls_endpoint": paths[routes.CONFIG],
        "config_refresh": "60",
        "config_accelerated_refresh": "60",
        "logger_plugin": "tls",
        "logger_tls_endpoint": paths[routes.LOG],
        "logger_tls_period": "10",
        "disable_distributed": "false",
        "distributed_plugin": "tls",
        "distributed_interval": "1",
        "distributed_tls_read_endpoint": paths[routes.READ],
        "distributed_tls_write_endpoint": paths[routes.WRITE],
        "disable_carver": "false",
        "carver_disable_function": "false",
        "carver_start_endpoint": paths[routes.CARVE_START],
        "carver_continue_endpoint": paths[routes.CARVE_CONTINUE],
        "carver_block_size": "1000000",
    }
    lines = [f"--{name}={value}" for name, value in flags.items() if value]
    if not files.enroll_secret:
        lines.append("--disable_enrollment=true")
    return "\n".join(lines) + "\n"


def existing(path: Path) -> str:
    """The absolute path as text, or nothing if there is no such file."""
    return str(path.absolute()) if path.exists() else ""
