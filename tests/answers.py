"""Whether what the operators' API answers is what its document says; the server in memory asks of every answer."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import jsonschema_rs
import msgspec

from osqtwist.web.admin import AdminAPI
from osqtwist.web.openapi import openapi_document
from osqtwist.web.operations import JSON, NDJSON

_found: list[Described] = []


def described_by(api: AdminAPI) -> Described:
    """The operations of an API, as its document has them; it is the same for all."""
    if not _found:
        _found.append(Described(json.loads(msgspec.json.encode(openapi_document(api.operations())))))
    return _found[0]


class Described:
    """The operations of an OpenAPI document."""

    def __init__(self, document: Any) -> None:
        # A client has to live with what is new; here it would be what somebody forgot to declare.
        closed = _closed(document)
        self._schemas = {"components": closed["components"]}
        self._operations = [
            (method.upper(), re.compile(re.sub(r"\\{(\w+)\\}", _part, re.escape(path))), operation)
            for path, methods in closed["paths"].items()
            for method, operation in methods.items()
        ]

    def check(self, method: str, path: str, code: int, said: str, content: bytes) -> None:
        """Fail if a good answer, of a media type, has a shape that is not declared, or more in it."""
        path = path.partition("?")[0]
        fits = [each for each in self._operations if each[0] == method and each[1].fullmatch(path)]
        # A path that is named as it stands goes before one that has a name for a part of it.
        fits.sort(key=lambda each: (each[1].pattern.count("+"), -len(each[1].pattern)))
        for _, pattern, operation in fits[:1]:
            for media, answer in operation["responses"].get(str(code), {}).get("content", {}).items():
                if media == JSON and "schema" in answer and said == JSON:
                    self._compare(pattern.pattern, answer["schema"], content)
                elif media == NDJSON == said:
                    for line in filter(None, content.splitlines()):
                        self._compare(pattern.pattern, answer["x-line-schema"], line)

    def _compare(self, name: str, schema: Any, text: bytes) -> None:
        problems = list(self._validator(json.dumps(schema)).iter_errors(json.loads(text)))
        assert not problems, f"{name} answered {text[:2000]!r}: {[str(each) for each in problems]}"

    @functools.cache  # noqa: B019 - there are few documents
    def _validator(self, schema: str) -> Any:
        return jsonschema_rs.validator_for(self._schemas | json.loads(schema))


def _part(name: re.Match[str]) -> str:
    return ".+" if name[1] == "node" else "[^/]+"


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    more = {"additionalProperties": False} if schema.get("type") == "object" and "properties" in schema else {}
    return more | {key: _closed(value) for key, value in schema.items()}
