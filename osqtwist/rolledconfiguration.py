"""The configuration while a new version of it is rolled out: canaries get that, all others the one in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from osqtwist.configfiles import Content
from osqtwist.configuration import ConfigAnswer, NodeConfiguration
from osqtwist.explaining import ConfigReasons, VersionReason, explain, origin_of
from osqtwist.node import Node
from osqtwist.rollout import Rollout
from osqtwist.tagging import Tagging
from osqtwist.targeting import NodeFacts, Target


@attrs.frozen
class _Trial:
    """
    A version that some nodes get.

    :ivar content: what it is made of.
    :ivar canaries: who gets it.
    """

    configuration: NodeConfiguration
    content: Content
    canaries: Target
    run: int

    def seen(self, facts: NodeFacts) -> NodeFacts:
        """The facts with the tags that its own rules give."""
        return self.configuration.tagging.applied(facts)


class RolledConfiguration(NodeConfiguration):
    """
    Two versions of the configuration at most: the one in force and, on canaries, the one that is tried.

    Whatever is not about the configuration of a single node is answered from the version in force.
    """

    _trial: _Trial | None = None
    _rollout: Rollout | None = None
    _content: Content | None = None

    def follow_folder(self, content: Content) -> None:
        """Serve every node what the folder says, whatever is rolled out."""
        self._trial = self._rollout = self._content = None
        self.replace(content.layers, content.tagging)

    def follow(self, rollout: Rollout, in_force: Content, trial: Content | None) -> None:
        """
        Serve what a roll-out says.

        :param trial: the content of the version that is tried, if there are canaries.
        """
        if self._content is not in_force:
            self._content = in_force
            self.replace(in_force.layers, in_force.tagging)
        before, self._trial, self._rollout = self._trial, None, rollout
        if trial is not None and (canaries := rollout.canaries):
            if before and before.content is trial:
                configuration = before.configuration
            else:
                configuration = NodeConfiguration(trial.layers, self._defaults, trial.tagging)
            configuration.ease(self.eased)
            self._trial = _Trial(configuration, trial, canaries, rollout.run)

    def ease(self, options: Mapping[str, Any]) -> None:
        """See :class:`NodeConfiguration`; of both versions."""
        super().ease(options)
        if self._trial:
            self._trial.configuration.ease(options)

    def tagging_of(self, facts: NodeFacts) -> Tagging:
        """See :class:`NodeConfiguration`: of the version that the node has."""
        trial = self._trial
        return trial.configuration.tagging if trial and trial.canaries.matches(facts) else self.tagging

    def etag_for(self, facts: NodeFacts) -> str:
        """See :class:`NodeConfiguration`: of the version that the node has."""
        trial = self._trial
        if trial is None or not trial.canaries.matches(facts):
            return super().etag_for(facts)
        return trial.configuration.etag_for(trial.seen(facts))

    def config_for(self, facts: NodeFacts, etag: str | None) -> ConfigAnswer:
        """See :class:`NodeConfiguration`: of the version that the node has."""
        trial = self._trial
        if trial is None or not trial.canaries.matches(facts):
            return super().config_for(facts, etag)
        answer = trial.configuration.config_for(trial.seen(facts), etag)
        if answer.etag == super().etag_for(facts):
            return answer
        return attrs.evolve(answer, run=trial.run)

    def why(self, node: Node) -> ConfigReasons:
        """See :class:`NodeConfiguration`; with the version that the node has, and why it has that."""
        rollout, trial = self._rollout, self._trial
        if rollout is None:
            return super().why(node)
        if trial is None or rollout.trial is None:
            version = _version(rollout, False, f"it is {rollout.phase}" if rollout.phase == "pinned" else _LONE)
            return {**super().why(node), "version": version}
        facts = self.tagging.applied(node.facts())
        found = explain(trial.canaries, facts, origin_of(node, self.tagging))
        because = f"version {rollout.trial.number} is {rollout.phase}: {found}"
        chosen = trial.configuration.why(node) if found.matches else super().why(node)
        return {**chosen, "version": _version(rollout, found.matches, because)}


_LONE = "it is in force"


def _version(rollout: Rollout, is_canary: bool, because: str) -> VersionReason:
    found = rollout.trial if is_canary and rollout.trial else rollout.in_force
    return {"version": found.number, "digest": found.digest, "canary": is_canary, "because": because}
