"""The layer rule: a module imports only from layers below its own, and the few of its own that are named."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "osqtwist"

# From the bottom.  A module may import from every layer below, and within its layer what SIBLINGS says.
LAYERS: list[tuple[str, set[str]]] = [
    (
        "domain",
        {
            "osqtwist",
            "auditentry",
            "canaryhealth",
            "capacity",
            "carve",
            "clone",
            "cloneevidence",
            "alertrule",
            "confcheck",
            "confdiff",
            "configfiles",
            "denial",
            "documents",
            "ease",
            "emptydatabase",
            "enrollsecret",
            "explaining",
            "expression",
            "identity",
            "importing",
            "jsonbounds",
            "layerchoice",
            "layers",
            "liverules",
            "logbatch",
            "logevent",
            "namedpeers",
            "node",
            "nodeplatforms",
            "nodekey",
            "noderow",
            "ocspanswer",
            "openqueries",
            "operator",
            "osqueryschema",
            "outcomes",
            "passedheaders",
            "proxyprotocol",
            "query",
            "querycheck",
            "querycost",
            "repair",
            "resultexport",
            "rollout",
            "rolloutplan",
            "routing",
            "sample",
            "savedquery",
            "session",
            "sqlcheck",
            "sqlstatement",
            "sqltokens",
            "sqlwords",
            "tagging",
            "targeting",
            "verdict",
            "wire",
        },
    ),
    (
        "contracts",
        {
            "enrollinterfaces",
            "figures",
            "historyinterfaces",
            "denialinterfaces",
            "identityinterfaces",
            "interfaces",
            "loginterfaces",
            "metrics",
            "operatorinterfaces",
            "rolloutinterfaces",
            "savedqueryinterfaces",
            "sinkinterfaces",
            "alertinterfaces",
        },
    ),
    ("backends", {"httpbodies", "sinks", "storage"}),
    (
        "services",
        {
            "access",
            "admission",
            "alerting",
            "approval",
            "auditstream",
            "audittrail",
            "authentication",
            "canarycounts",
            "canarywatch",
            "carves",
            "census",
            "certificatechecks",
            "certificateradar",
            "clones",
            "clonewatch",
            "configfolder",
            "configuration",
            "courier",
            "delivery",
            "denials",
            "directory",
            "distributed",
            "easing",
            "enrollment",
            "exportfiles",
            "fleetevents",
            "fleetexport",
            "garbage",
            "history",
            "housekeeping",
            "inventory",
            "layerview",
            "livequery",
            "liveresults",
            "logs",
            "logview",
            "nodechanges",
            "lookagain",
            "ocsp",
            "ocspclient",
            "offers",
            "pace",
            "parking",
            "rolledconfiguration",
            "rolloutfollowing",
            "steadyloop",
            "rolloutkeeping",
            "refusalkeeping",
            "rollouts",
            "savedqueries",
            "secretbook",
            "silence",
            "sessions",
            "sharedsink",
            "sinkview",
            "tagfindings",
        },
    ),
    (
        "edges",
        {
            "adminclient",
            "archive",
            "backup",
            "cafolder",
            "certificateauthority",
            "certificaterequest",
            "childside",
            "credentialfiles",
            "flags",
            "identityrules",
            "passedcertificates",
            "pathport",
            "pki",
            "ports",
            "proxiedport",
            "reloading",
            "revocationlists",
            "settings",
            "signingkeys",
            "sinksettings",
            "statefolder",
            "steadytime",
            "supervision",
            "systemd",
            "tls",
            "tlsfiles",
            "tlsport",
            "tracing",
            "web",
            "simulator",
        },
    ),
    (
        "start-up",
        {
            "announcement",
            "assembly",
            "cli",
            "delivering",
            "front",
            "launch",
            "nodeside",
            "mounting",
            "operating",
            "reference",
            "server",
            "storing",
            "tap",
            "worker",
            "workers",
        },
    ),
]
NO_TWISTED = "domain"
ALONE = {"simulator"}
"""A separate client of the wire: it imports nothing of ours, and only the command imports it."""


def layer_of(part: str) -> int:
    return next(number for number, (_, parts) in enumerate(LAYERS) if part in parts)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return (
        "osqtwist"
        if relative.name == "__init__.py" and len(relative.parts) == 1
        else relative.parts[0].removesuffix(".py")
    )


def imports_of(path: Path) -> set[str]:
    found = set()
    for statement in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path} has a relative import"
            if statement.module == "osqtwist":
                found.update(f"osqtwist.{alias.name}" for alias in statement.names)
            elif statement.module:
                found.add(statement.module)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_downward(path: Path) -> None:
    """Nothing in a lower layer knows what is above it."""
    part = part_of(path)
    own = layer_of(part)
    for name in imports_of(path):
        if not name.startswith("osqtwist."):
            continue
        other = name.split(".")[1]
        if other.startswith("__"):
            continue
        assert layer_of(other) <= own, f"{part} ({LAYERS[own][0]}) imports {name} ({LAYERS[layer_of(other)][0]})"
        if part in ALONE:
            assert other == part, f"{part} stands alone, but imports {name}"
        if other in ALONE and part != other:
            assert part == "cli", f"{part} imports {name}, which only the command may"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_domain_knows_no_twisted(path: Path) -> None:
    """The domain does no I/O, so it needs neither a reactor nor files."""
    if LAYERS[layer_of(part_of(path))][0] != NO_TWISTED:
        return
    foreign = {name.split(".")[0] for name in imports_of(path)} & {"twisted", "klein", "treq", "txredisapi", "socket"}
    assert not foreign


def test_no_module_is_a_drawer() -> None:
    """No module is named for having no subject."""
    names = {path.stem for path in modules()}
    assert not names & {"utils", "util", "helpers", "helper", "common", "base", "manager", "handler", "misc", "models"}


def test_the_plugin_file_imports_nothing_but_its_maker() -> None:
    """twistd reads it on every start, before it has chosen a reactor."""
    assert imports_of(ROOT / "twisted" / "plugins" / "osqtwist_plugin.py") == {"twisted.application.service"}
    assert not list((ROOT / "twisted").rglob("__init__.py"))
