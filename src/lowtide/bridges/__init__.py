"""Other clients' protocols over the sync engine: see README.md for what they promise."""

from lowtide.bridges.routes import routes as bridge_routes
from lowtide.bridges.service import Bridges
from lowtide.storage.db.migrate import Component

COMPONENT = Component("bridges", "lowtide.bridges")

__all__ = ["COMPONENT", "Bridges", "bridge_routes"]
