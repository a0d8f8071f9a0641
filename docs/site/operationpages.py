"""Every operation of the operators' API, from its OpenAPI document."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from osqtwist.web.openapi import openapi_document
from tests.harness import InMemoryServer


def operations() -> str:
    """Markdown: a section for each operation, and one for each type."""
    with tempfile.TemporaryDirectory() as folder:
        server = InMemoryServer(Path(folder))
        document = openapi_document(list(server.admin_api.operations()))
        server.stop()
    lines = ["## Every operation", ""]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines.extend(_operation(method.upper(), path, operation))
    lines.extend(["## Types", ""])
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines.extend(_type(name, schema))
    return "\n".join(lines) + "\n"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield from [f"### {method} {path}", "", _text(operation.get("description") or operation.get("summary", "")), ""]
    rows = [
        (
            f"`{each['name']}`",
            each["in"],
            shown(each.get("schema", {})),
            "yes" if each.get("required") else "",
            _about(each),
        )
        for each in operation.get("parameters", ())
    ]
    yield from _table(("parameter", "in", "type", "needed", "meaning"), rows)
    body = operation.get("requestBody")
    if body:
        yield from [f"Body: {_content(body)}", ""]
    for code, answer in operation.get("responses", {}).items():
        if code.startswith("2"):
            yield from [f"Answer {code}: {_content(answer) or _text(answer.get('description', ''))}", ""]


def _content(holder: Mapping[str, Any]) -> str:
    said = []
    for media, content in holder.get("content", {}).items():
        line = content.get("x-line-schema")
        said.append(f"`{media}`, each line {shown(line)}" if line else f"`{media}`, {shown(content.get('schema', {}))}")
    return "; ".join(said)


def _type(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield from [f"### {name}", "", _text(schema.get("description", "")), ""]
    needed = schema.get("required", ())
    rows = [
        (f"`{field}`", shown(kind), "yes" if field in needed else "", _about(kind))
        for field, kind in schema.get("properties", {}).items()
    ]
    yield from _table(("key", "type", "always", "meaning"), rows)
    if not rows:
        yield from [shown({key: value for key, value in schema.items() if key != "description"}), ""]


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield "| " + " | ".join(heads) + " |"
        yield "|" + "---|" * len(heads)
        yield from ("| " + " | ".join(row) + " |" for row in rows)
        yield ""


def shown(schema: Mapping[str, Any]) -> str:
    """A schema in a few words; a type of the document as a link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(shown(each) for each in schema[key])
    if "enum" in schema:
        return " or ".join(f"`{value!r}`".replace("'", '"') for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"list of {shown(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {shown(schema['additionalProperties'])}"
    return str(kind)


def _about(schema: Mapping[str, Any]) -> str:
    inner = schema.get("schema", {})
    said = [_text(schema.get("description") or inner.get("description", ""))]
    default = schema.get("default", inner.get("default"))
    if default not in (None, "", [], {}):
        said.append(f"default `{default}`")
    return "; ".join(each for each in said if each)


def _text(text: str) -> str:
    """A description in one line, in which nothing is taken for Markdown but code."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("[", "\\[") for part in parts[::2]]
    return "`".join(parts)
