"""Tells twisted.plugin of the rule."""

from twisted.plugin import IPlugin
from zope.interface import classImplements

from osqtwist_extension import ExtensionRule

classImplements(ExtensionRule, IPlugin)

extension_rule = ExtensionRule()
