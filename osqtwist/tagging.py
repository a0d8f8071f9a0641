"""
Tags that follow from something: from an expression over the node (rules), or from what a query finds on it.

Three steps, none of which looks at the outcome of a later one, so nothing goes round in circles:

1. *firm* tags: of operators, the enroll secret and the certificate;
2. tags of tag queries, which are asked of the nodes that their ``where`` means, by firm tags alone;
3. tags of rules, whose ``where`` sees firm tags and those of queries, but not those of rules: their order is no matter.

A tag query is served in the schedule as a snapshot under a name of ours.  What it gives is one row that says whether
the operator's query has any (``EXISTS``): so it stops at the first, and says so too when there is none where osquery
logs each row of a snapshot as an event, and an empty one not at all (``logger_snapshot_event_type``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import attrs
import msgspec

from osqtwist.confcheck import check
from osqtwist.layers import BadConfiguration, Layer, Problem
from osqtwist.node import TAG_PATTERN, Node
from osqtwist.targeting import BadTarget, NodeFacts, Target

FILE = "tags.toml"
"""The file of the config folder that holds them."""
QUERY_PREFIX = "osqtwist_tag:"
"""How the names of tag queries begin; no other query may be called so."""
_MARK = QUERY_PREFIX.encode()

MOST_RULES = 500
MOST_QUERIES = 100

_Tag = Annotated[str, msgspec.Meta(pattern=f"^{TAG_PATTERN.pattern}$")]


class TagRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Gives a tag to every node of an expression."""

    tag: _Tag
    where: str
    description: str = ""

    @property
    def target(self) -> Target:
        """Whom it means."""
        return Target(where=self.where)


class TagQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Gives a tag to every node on which a query has rows.

    :ivar interval: seconds between two times that a node runs it.
    :ivar where: the nodes it is asked of; the tag is only theirs.
    """

    tag: _Tag
    sql: Annotated[str, msgspec.Meta(min_length=1)]
    interval: int = 3600
    where: str = ""
    description: str = ""

    @property
    def target(self) -> Target:
        """Whom it means."""
        return Target(where=self.where)

    def layer(self) -> Layer:
        """What puts it into the schedule."""
        sql = self.sql.strip().rstrip(";")
        # The line ends before the parenthesis: a comment may be the last of the query.
        query = {"query": f"SELECT EXISTS ({sql}\n) AS found;", "interval": self.interval, "snapshot": True}
        body = {"schedule": {QUERY_PREFIX + self.tag: query}}
        return Layer(f"{FILE}:{self.tag}", self.target, body, self.description, sees_firm_tags_only=True)


class _TagFile(msgspec.Struct, forbid_unknown_fields=True):
    tag_rules: tuple[TagRule, ...] = ()
    tag_queries: tuple[TagQuery, ...] = ()


@attrs.frozen
class Tagging:
    """All rules and tag queries in force."""

    rules: tuple[TagRule, ...] = ()
    queries: tuple[TagQuery, ...] = ()
    _ruled: tuple[tuple[str, Target], ...] = attrs.field(init=False, repr=False)
    _asked: Mapping[str, Target] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_ruled", tuple((rule.tag, rule.target) for rule in self.rules))
        object.__setattr__(self, "_asked", {query.tag: query.target for query in self.queries})

    def applied(self, facts: NodeFacts) -> NodeFacts:
        """The facts with every tag that a node with these firm and found tags has."""
        found, ruled = self._parts(facts)
        tags = facts.firm_tags | found | ruled
        return facts if tags == facts.tags else attrs.evolve(facts, tags=tags)

    def sources(self, node: Node) -> dict[str, list[str]]:
        """Each tag of a node, and what gave it: ``operator``, ``secret``, ``certificate``, ``query``, ``rule``."""
        found, ruled = self._parts(node.facts())
        sources: dict[str, list[str]] = {}
        for source, tags in (
            ("operator", node.given_tags),
            ("secret", node.tags),
            ("certificate", node.certificate.tags if node.certificate else ()),
            ("query", found),
            ("rule", ruled),
        ):
            for tag in set(tags):
                sources.setdefault(tag, []).append(source)
        return dict(sorted(sources.items()))

    def layers(self) -> list[Layer]:
        """What puts the tag queries into the schedule."""
        return [query.layer() for query in self.queries]

    def findings(self, data: bytes, lines: Iterable[msgspec.Raw]) -> dict[str, bool]:
        """
        What a log post says of tags: whether its newest answer to each tag query was that there are rows.

        :param data: all lines as one, in which a tag query can be seen at a glance, or none.
        """
        found: dict[str, bool] = {}
        if not self._asked or _MARK not in data:
            return found
        for raw in lines:
            if _MARK not in (line := bytes(raw)):
                continue
            try:
                answer = _answer_decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            tag = answer.name.removeprefix(QUERY_PREFIX)
            rows = answer.snapshot or ([answer.columns] if answer.columns else [])
            if answer.action == "snapshot" and answer.name != tag and tag in self._asked and rows:
                found[tag] = str(rows[0].get("found")) == "1"
        return found

    def _parts(self, facts: NodeFacts) -> tuple[frozenset[str], frozenset[str]]:
        if not (self._ruled or (self._asked and facts.found_tags)):
            return frozenset(), frozenset()
        firm = facts.with_firm_tags()
        found = frozenset(
            tag for tag, target in self._asked.items() if tag in facts.found_tags and target.matches(firm)
        )
        seen = attrs.evolve(firm, tags=firm.tags | found) if found else firm
        return found, frozenset(tag for tag, target in self._ruled if target.matches(seen))


class _Answer(msgspec.Struct):
    name: str = ""
    action: str = ""
    snapshot: list[dict[str, Any]] = []
    columns: dict[str, Any] = {}


_answer_decoder = msgspec.json.Decoder(_Answer)


def parse_tagging(text: str) -> Tagging:
    """
    Rules and tag queries from the text of their file.

    :raise BadConfiguration: it is not such a file.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), _TagFile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as problem:
        raise BadConfiguration([Problem(FILE, "", str(problem))]) from None
    problems = []
    if len(found.tag_rules) > MOST_RULES or len(found.tag_queries) > MOST_QUERIES:
        problems.append(Problem(FILE, "", f"there can be {MOST_RULES} rules and {MOST_QUERIES} tag queries"))
    seen: set[str] = set()
    for number, rule in enumerate(found.tag_rules, 1):
        problems += _where_problems(rule.where, f"tag_rules {number}")
    for number, query in enumerate(found.tag_queries, 1):
        problems += _where_problems(query.where, f"tag_queries {number}")
        if query.tag in seen:
            problems.append(Problem(FILE, f"tag_queries {number}", f"there is a tag query for {query.tag} already"))
        seen.add(query.tag)
    if not problems:
        tagging = Tagging(found.tag_rules, found.tag_queries)
        problems = [problem for layer in tagging.layers() for problem in check(layer.body, layer.name)]
    if problems:
        raise BadConfiguration(problems)
    return tagging


def _where_problems(where: str, place: str) -> list[Problem]:
    try:
        Target(where=where)
    except BadTarget as problem:
        return [Problem(FILE, place, str(problem))]
    return []
