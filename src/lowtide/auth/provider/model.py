"""The values of the provider: a request to sign in, the code that answers it, a browser that is signed in."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

from lowtide.kernel.base64url import encode

OWN = "lowtide-account"
"""The client that this server is for its own pages. No app can be registered with this id."""
CODE_SECONDS = 60
"""For which an authorization code is good."""
REQUEST_SECONDS = 600
"""For which a pushed request is good: as long as a user may take to sign in."""
BROWSER_SECONDS = 14 * 24 * 3600
"""For which a browser stays signed in."""
ID_TOKEN_SECONDS = 3600
"""For which an id token is good."""
KEPT_SECONDS = 3600
"""For which a used code is remembered, so that its second use is noticed."""


class OAuthError(Exception):
    """An error as OAuth says it (RFC 6749 sections 4.1.2.1 and 5.2): ``error`` and a description.

    It is answered in this component, never as a problem.
    """

    def __init__(self, error: str, description: str, *, status: int = 400, nonce: str | None = None):
        self.error = error
        self.description = description
        self.status = status
        self.nonce = nonce
        super().__init__(description)


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a code stands for, besides its client and user."""

    redirect_uri: str
    scope: tuple[str, ...]
    challenge: str
    """PKCE, S256 (RFC 7636)."""
    auth_time: int
    """Milliseconds since 1970: when the user proved who they are; 0 if an outside provider did not tell."""
    amr: tuple[str, ...] = ()
    nonce: str | None = None
    jkt: str | None = None
    """The key to which the code is bound (RFC 9449 section 10)."""


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A code as it is kept."""

    client: str
    user: str
    details: Details
    expires_at: int
    used: bool
    session: str | None
    """What it gave."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request to sign in, found right: its client and redirect address belong together."""

    client_id: str
    redirect_uri: str
    scope: tuple[str, ...]
    challenge: str
    state: str | None = None
    nonce: str | None = None
    prompt: frozenset[str] = frozenset()
    max_age: int | None = None
    """Seconds."""
    login_hint: str = ""
    jkt: str | None = None
    pushed: str | None = None
    """The hash of the pushed request that it came from: good for one code."""


class Browser(msgspec.Struct, frozen=True, kw_only=True):
    """A browser in which ``user`` is signed in."""

    user: str
    auth_time: int
    """Milliseconds since 1970: when they signed in here."""
    proved_at: int | None
    """When they proved who they are: then, or before that at an outside provider; None if it did not tell."""
    amr: tuple[str, ...] = ()


def secret() -> str:
    """256 random bits as text. Not from ``Ids``: a seed must never give a secret of a real server."""
    return secrets.token_urlsafe(32)


def digest(text: str) -> str:
    """What is kept of a secret: its SHA-256."""
    return encode(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())


def dumped(value: Any) -> str:
    """``value`` as JSON text."""
    return msgspec.json.encode(value).decode()
