"""Passkeys: WebAuthn credentials that sign their user in without a name or a password."""

from lowtide.auth.passkeys.routes import passkey_routes
from lowtide.auth.passkeys.service import Passkey, Passkeys, Site, lies_on, passkey_site
from lowtide.storage.db.migrate import Component

COMPONENT = Component("passkeys", "lowtide.auth.passkeys")

__all__ = ["COMPONENT", "Passkey", "Passkeys", "Site", "lies_on", "passkey_routes", "passkey_site"]
