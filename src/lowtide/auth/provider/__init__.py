"""Lowtide as an OAuth 2.1 and OpenID provider: apps sign their users in through a browser."""

from lowtide.auth.provider.service import Provider
from lowtide.auth.provider.ways import PageWays
from lowtide.storage.db.migrate import Component

COMPONENT = Component("provider", "lowtide.auth.provider")

__all__ = ["COMPONENT", "PageWays", "Provider"]
