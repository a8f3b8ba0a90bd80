"""Signing in with what others know: Apple, Google, and any OpenID provider."""

from lowtide.auth.outside.apple import SEALED, Credentials, read_credentials
from lowtide.auth.outside.service import Outside
from lowtide.storage.db.migrate import Component

COMPONENT = Component("outside", "lowtide.auth.outside")

__all__ = ["COMPONENT", "SEALED", "Credentials", "Outside", "read_credentials"]
