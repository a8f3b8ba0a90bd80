"""Offline-first sync: see README.md for what it promises."""

from lowtide.storage.db.migrate import Component
from lowtide.sync.routes import routes as sync_routes
from lowtide.sync.service import Sync

COMPONENT = Component("sync", "lowtide.sync")

__all__ = ["COMPONENT", "Sync", "sync_routes"]
