"""The OpenAPI document of the operators' API, made of the operations themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import msgspec

from osqtwist import __version__
from osqtwist.web.operations import JSON, NDJSON, Nothing, Operation
from osqtwist.web.problems import PROBLEM_JSON, Problem

_REFERENCE = "#/components/schemas/{name}"


class Document(TypedDict):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, str]
    servers: list[dict[str, str]]
    paths: dict[str, dict[str, Any]]
    components: dict[str, dict[str, Any]]


def openapi_document(operations: Sequence[Operation]) -> Document:
    """OpenAPI 3.1 for these operations, ready to be JSON."""
    kinds = [Problem, *(kind for each in operations for kind in (*each.answers, each.body, each.query))]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    by_kind = iter(schemas[1:])
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        answers = [next(by_kind) for _ in operation.answers]
        body, query = next(by_kind), next(by_kind)
        described = _described(operation, answers, _resolved(query, components))
        if operation.body is not Nothing:
            is_needed = any(field.required for field in msgspec.structs.fields(operation.body))
            described["requestBody"] = {"required": is_needed, "content": {JSON: {"schema": body}}}
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "osqtwist, the operators' API",
            "version": __version__,
            "description": "Errors are problem details (RFC 9457). A POST with an Idempotency-Key is done once.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if not _is_query(name, operations)},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


def _described(operation: Operation, answers: Sequence[Any], query: dict[str, Any]) -> dict[str, Any]:
    if operation.media == JSON:
        content: dict[str, Any] = {"schema": answers[0]}
    elif operation.media == NDJSON:
        # A stream: the schema is that of a line, for which OpenAPI has a word from 3.2 on.
        content = {"x-line-schema": {"anyOf": list(answers)}}
    else:
        content = {"schema": {"type": "string"}} if operation.media.startswith("text/") else {}
    more: dict[str, Any] = {media: {} for media in operation.more_media}
    needed = set(query.get("required", ()))
    parameters = [{"name": name, "in": "path", "required": True, "schema": _PATH_TEXT} for name in operation.names]
    for name, schema in query.get("properties", {}).items():
        plain = dict(schema)
        where: dict[str, Any] = {"name": name, "in": "query", "required": name in needed}
        if text := plain.pop("description", ""):
            where["description"] = text
        parameters.append(where | {"schema": plain})
    return {
        "operationId": operation.name,
        "tags": [operation.group],
        "summary": operation.summary,
        "x-role": operation.role.word if operation.role else "anybody",
        "security": [{"token": []}, {"certificate": []}] if operation.role else [],
        "parameters": parameters,
        "responses": {
            str(operation.code): {"description": "done", "content": {operation.media: content, **more}},
            "default": {
                "description": "refused",
                "content": {PROBLEM_JSON: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}},
            },
        },
    }


_PATH_TEXT = {"type": "string", "minLength": 1}


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    found: dict[str, Any] = components[reference.rsplit("/", 1)[-1]] if reference else schema
    return found


def _is_query(name: str, operations: Sequence[Operation]) -> bool:
    bodies = {each.body.__name__ for each in operations}
    return name in {each.query.__name__ for each in operations} - bodies or name == Nothing.__name__
