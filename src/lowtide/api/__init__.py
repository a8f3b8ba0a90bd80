"""The HTTP edge: a table of typed routes becomes a server that is safe to put on the internet.

``Edge`` is the ASGI app, ``serve`` runs it, ``health_routes`` and ``problem_routes`` belong in every
table. What a component serves, it says with the values of ``lowtide.kernel.http``.
"""

from lowtide.api.edge import Edge
from lowtide.api.health import health_routes
from lowtide.api.limits import Limits, Load
from lowtide.api.logs import AccessLog, JsonLines
from lowtide.api.origins import Hosts, Origins
from lowtide.api.problems import Problem, problem_routes
from lowtide.api.server import Serving, serve
from lowtide.api.wire import WireLimits

__all__ = [
    "AccessLog",
    "Edge",
    "Hosts",
    "JsonLines",
    "Limits",
    "Load",
    "Origins",
    "Problem",
    "Serving",
    "WireLimits",
    "health_routes",
    "problem_routes",
    "serve",
]
