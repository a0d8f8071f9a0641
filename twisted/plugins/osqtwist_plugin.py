"""The twistd plug-in: a name and the module that knows the rest.  It imports nothing else, on purpose."""

from twisted.application.service import ServiceMaker

osqtwist = ServiceMaker(
    "osqtwist",
    "osqtwist.tap",
    "An osquery TLS server for fleets that already have certificates.",
    "osqtwist",
)
