"""The browser's side: its cookie, and the proof that a form was filled in on a page of ours.

One cookie holds 256 random bits. Before the sign-in it only ties forms to this browser; at the sign-in it is
replaced, so that nobody can plant one beforehand. A form carries an HMAC over the cookie and what the form
is for, so it is worth nothing in another browser or for another request.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Any

from lowtide.auth.provider.model import BROWSER_SECONDS, Browser, secret
from lowtide.auth.provider.store import ProviderStore
from lowtide.kernel.base64url import encode
from lowtide.kernel.errors import Forbidden
from lowtide.kernel.http import Request
from lowtide.storage.db import Database

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


class Browsers:
    """Knows browsers by their cookie."""

    def __init__(
        self,
        database: Database,
        store: ProviderStore,
        secrets: Callable[[], tuple[bytes, ...]],
        *,
        address: str,
    ):
        """``secrets``: what forms are sealed with, the first, and believed by, all; the same on every node.

        ``address``: the server's.
        """
        self._database = database
        self._store = store
        self._secrets = secrets
        self._address = address
        self._secure = address.startswith("https:")
        self.name = "__Host-lowtide" if self._secure else "lowtide"
        """The cookie's name. Its prefix keeps other hosts and plain http from setting it (RFC 6265bis)."""

    def held(self, request: Request[Any, Any]) -> str | None:
        """The secret in the request's cookie; None without one, or with two."""
        found = []
        for header, value in request.headers:
            if header == b"cookie":
                for part in value.decode("latin-1").split(";"):
                    name, _, text = part.strip().partition("=")
                    if name == self.name:
                        found.append(text)
        return found[0] if len(found) == 1 and _SECRET.fullmatch(found[0]) else None

    async def known(self, held: str | None) -> Browser | None:
        """Who is signed in in the browser that holds this."""
        if held is None:
            return None
        cookie = held
        return await self._database.read(lambda tx: self._store.browser(tx, cookie))

    def fresh(self) -> str:
        """A secret for a browser that has none, or has a new user."""
        return secret()

    def cookie(self, held: str) -> str:
        """The Set-Cookie header that gives a browser its secret."""
        kept = f"{self.name}={held}; Path=/; Max-Age={BROWSER_SECONDS}; HttpOnly; SameSite=Lax"
        return f"{kept}; Secure" if self._secure else kept

    def seal(self, held: str, *about: str) -> str:
        """The proof that a form for ``about`` was made for the browser that holds ``held``."""
        return _seal(self._secrets()[0], held, about)

    def sealed(self, given: str, held: str | None, *about: str) -> bool:
        """Is ``given`` the proof for this browser and ``about``?"""
        if held is None or not given.isascii():
            return False
        return any(hmac.compare_digest(given, _seal(one, held, about)) for one in self._secrets())

    def check_origin(self, request: Request[Any, Any]) -> None:
        """Raise ``Forbidden`` for a form that another site has sent: by Origin, and by Sec-Fetch-Site."""
        origin = request.header("origin")
        if origin is not None and origin != self._address:
            raise Forbidden(
                "This form was sent from another site.", hint="Go back to the app and start again."
            )
        if request.header("sec-fetch-site") not in (None, "same-origin"):
            raise Forbidden(
                "This form was sent from another site.", hint="Go back to the app and start again."
            )


def _seal(key: bytes, held: str, about: tuple[str, ...]) -> str:
    # Each part with its length: no two lists of parts have the same text.
    text = "".join(f"{len(part)}:{part}" for part in (held, *about))
    return encode(hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256"))
