"""osqueryd flagfiles that work with a server."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
from cryptography import x509

from osqtwist.nodeplatforms import PLATFORMS, NodePlatform
from osqtwist.web import routes

_HOSTNAME = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")


class BadHostname(ValueError):
    """osquery cannot connect to what it was told; one sentence."""


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

    def on(self, platform: NodePlatform) -> NodeFiles:
        """The same files where osquery's packages for a platform keep them."""
        names = ("server-ca.pem", "node.pem", "node.key", "enroll-secret")
        found = (self.server_certs, self.client_cert, self.client_key, self.enroll_secret)
        return NodeFiles(*(each and platform.folder + name for name, each in zip(names, found, strict=True)))


@attrs.frozen
class Flagfiles:
    """
    Writes the flagfiles for nodes of one server.

    :ivar port: that nodes connect to.
    :ivar files: what a node has, where it is on this machine.
    :ivar name: of the server, as its certificate says, if it says one.
    :ivar prefix: before every path.
    """

    port: int
    files: NodeFiles
    name: str = ""
    prefix: str = ""

    def here(self) -> str:
        """For an osqueryd on this machine, with the files that are there."""
        return flagfile(f"localhost:{self.port}", self.files, self.prefix)

    def text(self, platform: str = "", hostname: str = "") -> str:
        """
        For osquery's packages of a platform, with notes as comments; for this machine if none is given.

        :param platform: a key of :data:`osqtwist.nodeplatforms.PLATFORMS`.
        :param hostname: of the server as nodes see it, ``HOST`` or ``HOST:PORT``; as its certificate says if not given.
        :raise BadHostname: osquery could not connect to that.
        """
        if hostname:
            check_hostname(hostname)
        if not platform:
            return flagfile(hostname, self.files, self.prefix) if hostname else self.here()
        place = PLATFORMS[platform]
        files = self.files.on(place)
        served = hostname or f"{self.name or 'localhost'}:{self.port}"
        return _notes(place, files, served, bool(hostname)) + flagfile(served, files, self.prefix)


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


def check_hostname(hostname: str) -> None:
    """
    Refuse what osquery cannot connect to.

    :raise BadHostname: it is no ``HOST`` or ``HOST:PORT``; osquery takes ports up to 65534 (its ``uri.cpp``).
    """
    found = _HOSTNAME.fullmatch(hostname)
    if not found:
        raise BadHostname(f"{hostname[:100]!r} is no host name: HOST or HOST:PORT, without https:// and path")
    if found["port"] and not 0 < int(found["port"]) < 65535:
        raise BadHostname(f"osquery connects to ports from 1 to 65534, not {found['port']}")


def name_in_certificate(file: Path) -> str:
    """The first DNS name of a server's certificate that is no pattern and not ``localhost``; empty if there is none."""
    certificate = x509.load_pem_x509_certificates(file.read_bytes())[0]
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ""
    names = extension.value.get_values_for_type(x509.DNSName)
    return next((name for name in names if "*" not in name and name != "localhost"), "")


def existing(path: Path) -> str:
    """The absolute path as text, or nothing if there is no such file."""
    return str(path.absolute()) if path.exists() else ""


def _notes(platform: NodePlatform, files: NodeFiles, served: str, is_given: bool) -> str:
    said = {
        files.server_certs: "CA certificates that sign the server's",
        files.client_cert: "the node's certificate, with those of CAs between it and the root",
        files.client_key: "the node's private key, not encrypted",
        files.enroll_secret: "an enroll secret",
    }
    needed = {path: what for path, what in said.items() if path}
    lines = [
        f"osqueryd's flagfile for {platform.packages} of osquery 5. Save it as",
        f"  {platform.flagfile}",
        f"where {platform.reader} finds it.",
        "These have to be there too:",
        *(f"  {path}  {what}" for path, what in needed.items()),
    ]
    secret = [path for path in (files.client_key, files.enroll_secret) if path]
    if secret:
        lines.append("Nobody else should read what is secret:")
        lines.extend(f"  {platform.guard.format(secret=path)}" for path in secret)
    lines.append(f"Then:            {platform.start}")
    lines.append(f"After a change:  {platform.restart}")
    lines.append(f"If it fails:     {platform.complaints}")
    if not is_given and served.startswith("localhost:"):
        lines.append("Nodes elsewhere cannot connect to localhost: give --hostname.")
    elif not is_given:
        lines.append(f"Nodes connect to {served}, as the server's certificate says; for another name give --hostname.")
    return "".join(f"# {line}\n" for line in lines)
