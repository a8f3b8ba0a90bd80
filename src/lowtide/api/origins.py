"""Which host names this server answers to, and which web origins may read its answers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

HOST = re.compile(rb"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?")
TOKENS = re.compile(
    rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}){0,63}"
)
REMEMBERED = 256

EXPOSED = (
    b"x-request-id, retry-after, etag, location, ratelimit, ratelimit-policy, idempotency-replayed, "
    b"www-authenticate, dpop-nonce"
)
"""Headers that a browser's script may read besides the few that it always may."""
MAX_AGE = b"600"
"""Seconds for which a browser may skip the preflight."""


class Hosts:
    """The Host header's allowed names.

    A name that is not listed is how DNS rebinding and poisoned links begin. An address literal cannot
    be rebound, so in development ``addresses`` lets every one in: the phone on the same network, and
    10.0.2.2, which is how an Android emulator calls its machine.
    """

    def __init__(self, names: Iterable[str], *, addresses: bool = False):
        self._names = frozenset(name.lower().rstrip(".") for name in names)
        self._addresses = addresses
        self._known: set[bytes] = set()

    def allow(self, header: bytes) -> bool:
        """Whether ``header`` (a name, or a name and a port) is one of ours; the port is not compared."""
        if header in self._known:
            return True
        match = HOST.fullmatch(header)
        if match is None:
            return False
        name = match[1].decode("ascii").lower().rstrip(".")
        if name not in self._names and not (self._addresses and _is_address(name)):
            return False
        if len(self._known) < REMEMBERED:
            self._known.add(header)
        return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Origins:
    """Cross-origin requests (the Fetch standard's CORS), closed unless an origin is listed.

    ``https://app.example.com`` is one origin, ``http://localhost:*`` every port of one host, ``*`` all.
    Tokens travel in a header and never in cookies, so credentials are never allowed.
    """

    def __init__(self, origins: Iterable[str] = ()):
        listed = [origin.rstrip("/").lower() for origin in origins]
        self._all = "*" in listed
        self._exact = frozenset(o.encode() for o in listed if not o.endswith(":*"))
        self._any_port = tuple(o[:-1].encode() for o in listed if o.endswith(":*"))
        self.open = bool(listed)

    def allow(self, origin: bytes) -> bool:
        """Whether scripts of ``origin`` may read our answers."""
        return (
            self._all
            or origin in self._exact
            or any(
                origin == prefix[:-1] or (origin.startswith(prefix) and origin[len(prefix) :].isdigit())
                for prefix in self._any_port
            )
        )

    def headers(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """What every answer to a request with that Origin header says; errors too."""
        if not self.open:
            return []
        vary = (b"vary", b"Origin")
        if origin is None or not self.allow(origin):
            return [vary]
        return [
            vary,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED),
        ]

    def preflight(
        self, origin: bytes, wanted: bytes | None, methods: Iterable[str]
    ) -> list[tuple[bytes, bytes]]:
        """What the answer to a preflight adds to ``headers``; nothing for an origin that is not allowed.

        ``wanted`` is Access-Control-Request-Headers, allowed as asked: an origin that may call at all
        may set any header, and ``*`` would not cover Authorization.
        """
        if not self.allow(origin):
            return []
        answer = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-max-age", MAX_AGE),
        ]
        if wanted is not None and TOKENS.fullmatch(wanted):
            answer.append((b"access-control-allow-headers", wanted))
        return answer


def is_own(origin: bytes, host: bytes) -> bool:
    """Is ``origin`` the address that the request was sent to, by its Host header?"""
    scheme, _, authority = origin.lower().partition(b"://")
    port = {b"http": b":80", b"https": b":443"}.get(scheme)
    return port is not None and authority.removesuffix(port) == host.lower().removesuffix(port)
