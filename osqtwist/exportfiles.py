"""
What operators changed through the API, as texts of files that can be kept in a repository.

The same things are the same bytes: keys are in order, times are in UTC, and nothing is in it that changes by itself.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from osqtwist.alertinterfaces import Silence
from osqtwist.denial import Denial
from osqtwist.enrollsecret import EnrollSecret
from osqtwist.node import Node, Revocation
from osqtwist.operator import AccessToken
from osqtwist.query import DistributedQuery
from osqtwist.rollout import Rollout, VersionInfo
from osqtwist.savedquery import SavedQuery
from osqtwist.targeting import Target

NODES, REVOCATIONS, DENIALS = "nodes.yaml", "revocations.yaml", "denials.yaml"
SECRETS, TOKENS, SILENCES = "secrets.yaml", "tokens.yaml", "silences.yaml"
QUERIES, SAVED_QUERIES, VERSIONS = "queries.yaml", "saved-queries.yaml", "versions.yaml"
CONFIG = "config/"
"""Under which the version of the configuration that is in force stands."""

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def has_changes(node: Node) -> bool:
    """Whether operators gave a node something."""
    return bool(node.given_tags or node.note)


def of_nodes(nodes: Iterable[Node]) -> dict[str, Any]:
    """Tags and notes that operators gave nodes, by id."""
    return {
        node.node_id: _said({"name": node.name, "tags": sorted(node.given_tags), "note": node.note})
        for node in nodes
        if has_changes(node)
    }


def of_revocations(revocations: Iterable[Revocation]) -> dict[str, Any]:
    """Who is refused, by id; ``keys_before``: only keys that were issued before."""
    return {
        each.node_id: _said(
            {"revoked_at": _moment(each.revoked_at), "reason": each.reason, "keys_before": _moment(each.keys_before)}
        )
        for each in revocations
    }


def of_denials(denials: Iterable[Denial]) -> dict[str, Any]:
    """Which certificates are denied, by the denial's id."""
    return {
        each.denial_id: _said(
            {
                "kind": each.kind,
                "value": each.value,
                "issuer": each.issuer,
                "reason": each.reason,
                "created_at": _moment(each.created_at),
                "created_by": each.created_by,
                "expires_at": _moment(each.expires_at),
            }
        )
        for each in denials
    }


def of_secrets(secrets: Iterable[EnrollSecret]) -> dict[str, Any]:
    """What enroll secrets are good for, by id; nothing of their texts."""
    return {
        each.secret_id: _said(
            {
                "name": each.name,
                "tags": list(each.tags),
                "allow": list(each.allow),
                "quota": each.quota,
                "created_at": _moment(each.created_at),
                "created_by": each.created_by,
                "expires_at": _moment(each.expires_at),
            }
        )
        for each in secrets
    }


def of_tokens(tokens: Iterable[AccessToken]) -> dict[str, Any]:
    """What access tokens are good for, by id; nothing of their texts."""
    return {
        each.token_id: _said(
            {
                "name": each.name,
                "role": each.role,
                "groups": sorted(each.groups),
                "created_at": _moment(each.created_at),
                "created_by": each.created_by,
                "expires_at": _moment(each.expires_at),
            }
        )
        for each in tokens
    }


def of_silences(silences: Iterable[Silence]) -> dict[str, Any]:
    """What alerts are not told of, by the silence's id."""
    return {
        each.silence_id: _said(
            {
                "rule": each.rule,
                "when": each.when,
                "why": each.why,
                "until": _moment(each.until),
                "created_at": _moment(each.created_at),
                "created_by": each.created_by,
            }
        )
        for each in silences
    }


def of_queries(queries: Iterable[DistributedQuery]) -> dict[str, Any]:
    """What nodes were asked, by id; not what they answered."""
    return {
        each.query_id: _said(
            {
                "sql": each.sql,
                "discovery": each.discovery,
                "target": _of_target(each.target),
                "created_at": _moment(each.created_at),
                "created_by": each.created_by,
                "opens_at": _moment(each.opens_at),
                "expires_at": _moment(each.expires_at),
                "cancelled_at": _moment(each.cancelled_at),
                "dangers": list(each.dangers),
                "approved_by": each.approved_by,
            }
        )
        for each in queries
    }


def of_saved_queries(queries: Iterable[SavedQuery]) -> dict[str, Any]:
    """The queries that operators keep, by name."""
    return {
        each.name: _said(
            {
                "sql": each.sql,
                "description": each.description,
                "discovery": each.discovery,
                "target": _of_target(each.target),
                "saved_by": each.saved_by,
                "saved_at": _moment(each.saved_at),
            }
        )
        for each in queries
    }


def of_versions(rollout: Rollout | None, versions: Iterable[VersionInfo]) -> dict[str, Any]:
    """Which versions of the configuration there are, and which is in force or tried."""
    known = {
        each.number: {"digest": each.digest, "folder": each.folder, "noted_at": _moment(each.noted_at)}
        for each in versions
    }
    if rollout is None:
        return {}
    return _said(
        {
            "in_force": rollout.in_force.number,
            "trial": rollout.trial.number if rollout.trial else 0,
            "phase": rollout.phase,
            "changed_by": rollout.changed_by,
            "why": rollout.why,
            "versions": known,
        }
    )


def yaml_text(things: Mapping[str, Any]) -> str:
    """Things as YAML; parts of one mapping make the whole when their texts stand one after the other."""
    if not things:
        return ""
    text: str = yaml.dump(dict(things), Dumper=_DUMPER, allow_unicode=True, default_flow_style=False, width=120)
    return text


def _of_target(target: Target) -> dict[str, Any]:
    share = {"percent": target.percent, "salt": target.salt} if target.percent < 100 else {}
    lists = {"nodes": list(target.nodes), "tags": list(target.tags), "platforms": list(target.platforms)}
    return _said({**lists, "where": target.where, **share})


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a thing, without what is not."""
    return {key: value for key, value in fields.items() if value}


def _moment(at: float) -> datetime.datetime | None:
    return datetime.datetime.fromtimestamp(int(at), datetime.UTC) if at else None
