"""
osqtwist: the osquery TLS server for fleets that already have certificates.

The layers, from the top: start-up (:mod:`osqtwist.tap`, :mod:`osqtwist.cli`), edges (:mod:`osqtwist.web`,
:mod:`osqtwist.tls`, :mod:`osqtwist.settings`), services, backends (:mod:`osqtwist.storage`), contracts
(:mod:`osqtwist.interfaces`) and the domain.  A module imports only downward.
"""

from __future__ import annotations

__version__ = "0.1.0"
