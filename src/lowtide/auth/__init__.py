"""Who is asking: users, their sessions, and the tokens and keys that prove them."""

from lowtide.auth.accounts import Accounts
from lowtide.auth.dpop import Proofs
from lowtide.auth.keys import Keys, KeySource, SigningKey
from lowtide.auth.routes import auth_routes
from lowtide.auth.tokens import Tokens
from lowtide.storage.db.migrate import Component

COMPONENT = Component("auth", "lowtide.auth")

__all__ = ["COMPONENT", "Accounts", "KeySource", "Keys", "Proofs", "SigningKey", "Tokens", "auth_routes"]
