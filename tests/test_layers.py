"""The layer rule: a module imports only from layers below its own, and the few of its own that are named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

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


def wrong_with(path: Path) -> Iterator[str]:
    """What a module imports that it may not."""
    part = part_of(path)
    own = layer_of(part)
    for name in imports_of(path):
        if not name.startswith("osqtwist."):
            continue
        other = name.split(".")[1]
        if other.startswith("__"):
            continue
        if layer_of(other) > own:
            yield f"{path.name}: {part} ({LAYERS[own][0]}) imports {name} ({LAYERS[layer_of(other)][0]})"
        if part in ALONE and other != part:
            yield f"{path.name}: {part} stands alone, but imports {name}"
        if other in ALONE and part not in (other, "cli"):
            yield f"{path.name}: {part} imports {name}, which only the command may"


def test_modules_import_only_downward() -> None:
    """Nothing in a lower layer knows what is above it."""
    assert [wrong for path in modules() for wrong in wrong_with(path)] == []


def test_the_domain_knows_no_twisted() -> None:
    """The domain does no I/O, so it needs neither a reactor nor files."""
    domain = [path for path in modules() if LAYERS[layer_of(part_of(path))][0] == NO_TWISTED]
    foreign = {"twisted", "klein", "treq", "txredisapi", "socket"}
    assert len(domain) > 30
    assert {
        str(path): found for path in domain if (found := {n.split(".")[0] for n in imports_of(path)} & foreign)
    } == {}


def test_no_module_is_a_drawer() -> None:
    """No module is named for having no subject."""
    names = {path.stem for path in modules()}
    assert not names & {"utils", "util", "helpers", "helper", "common", "base", "manager", "handler", "misc", "models"}


def test_the_plugin_file_imports_nothing_but_its_maker() -> None:
    """twistd reads it on every start, before it has chosen a reactor."""
    assert imports_of(ROOT / "twisted" / "plugins" / "osqtwist_plugin.py") == {"twisted.application.service"}
    assert not list((ROOT / "twisted").rglob("__init__.py"))
