"""OAuth clients as values: the apps that may ask this server to sign their users in.

A redirect address is compared as it is, character by character (RFC 9700 section 2.1); only the port of a
loopback address is the client's to choose, because a desktop app takes any that is free (RFC 8252, 7.3).
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

MAX_CLIENT_URIS = 20
"""Redirect addresses of a client."""
MAX_URI = 2000
"""Characters of a redirect address."""

SCOPES = frozenset({"openid", "profile", "email", "phone", "offline_access", "api"})
"""What a client can be granted. ``api``: this server's other addresses, as the user."""

ClientId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._~-]{1,100}$")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
SecretHash = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
Uris = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_CLIENT_URIS)]

_LOOPBACK = re.compile(r"http://(127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?(?=[/?]|$)")
_REVERSE_DNS = re.compile(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+")


class Client(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An app that signs its users in here."""

    id: ClientId
    """The ``client_id``."""
    name: Name
    """What users are told is asking."""
    redirect_uris: Uris = ()
    """Where codes may go: https that the app claims, its own reverse-DNS scheme, or loopback (RFC 8252)."""
    post_logout_redirect_uris: Uris = ()
    """Where a browser may go after signing out."""
    scopes: tuple[str, ...] = ("openid", "profile", "email", "offline_access")
    """What it may ask for."""
    first_party: bool = False
    """The app's own: its users are not asked whether they agree."""
    dpop: bool = False
    """Its tokens must be bound to a key of the device (RFC 9449)."""
    secret_sha256: SecretHash = ""
    """For a server's client: the SHA-256, in hexadecimal, of a secret of 256 random bits."""

    def __post_init__(self) -> None:
        if unknown := set(self.scopes) - SCOPES:
            raise ValueError(
                f"there is no scope {sorted(unknown)[0]!r}; there are {', '.join(sorted(SCOPES))}"
            )
        if not self.name.isprintable():
            raise ValueError("a client's name is printable")
        for uri in (*self.redirect_uris, *self.post_logout_redirect_uris):
            check_redirect(uri)

    @property
    def confidential(self) -> bool:
        """Does it keep a secret? A phone's app cannot."""
        return self.secret_sha256 != ""

    def redirects_to(self, uri: str) -> bool:
        """May a code go to ``uri``?"""
        return _is_one_of(uri, self.redirect_uris)

    def returns_to(self, uri: str) -> bool:
        """May a browser be sent to ``uri`` after signing out?"""
        return _is_one_of(uri, self.post_logout_redirect_uris)


def check_redirect(uri: str) -> None:
    """``ValueError`` for what cannot be a redirect address: it says why."""
    if (
        not 0 < len(uri) <= MAX_URI
        or not uri.isascii()
        or not uri.isprintable()
        or set(uri) & set(' "\\<>#*')
    ):
        raise ValueError(f"no redirect address, or one with a fragment or a wildcard: {uri[:200]!r}")
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise ValueError(f"a redirect address names no user: {uri!r}")
    if parts.scheme == "https":
        if not parts.hostname:
            raise ValueError(f"the redirect address has no host: {uri!r}")
    elif parts.scheme == "http":
        if parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"http is for this machine only: {uri!r}")
    elif _REVERSE_DNS.fullmatch(parts.scheme) is None:
        raise ValueError(
            f"a scheme of one's own is a domain name read backwards, as com.example.app: {uri!r}"
        )


def _is_one_of(uri: str, registered: tuple[str, ...]) -> bool:
    if uri in registered:
        return True
    found = _LOOPBACK.match(uri)
    if found is None or (found[2] and int(found[2][1:]) > 65535):
        return False
    bare = _without_port(uri)
    return any(_LOOPBACK.match(known) and _without_port(known) == bare for known in registered)


def _without_port(uri: str) -> str:
    return _LOOPBACK.sub(lambda found: f"http://{found[1]}", uri, count=1)
