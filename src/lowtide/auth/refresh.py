"""Refresh tokens: what they look like, and what is to be thought of one that comes again.

A token is ``sid.counter.mac``: the session's id, how often it was refreshed before, and an HMAC of both
under a key of that session. Nothing of a token is stored, and the child of a refresh can be derived again:
an answer that a network lost is simply given once more.

Who may have it once more is the whole question, for a thief with a copied token asks just like a phone
whose answer was lost. A client that keeps a random ``rotation_id`` *before* it sends, and sends it again
with a repeat, settles it: the same id gets the same child at any time, another one is a second holder of
the token (RFC 9700, section 4.14.2; FAPI 2.0, section 5.3.2.1, item 10).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Literal

import msgspec

from lowtide.kernel.base64url import encode
from lowtide.kernel.errors import InvalidGrant, Malformed

MAX_REFRESH_TOKEN = 128
"""Characters of a refresh token; ours have about 85."""
MAX_ROTATION_ID = 128
"""Characters of a rotation id."""
UNBOUND_REPLAY = 60
"""Seconds in which a client that sends no rotation id, and is bound to no key, may repeat a refresh."""

_TOKEN = re.compile(r"([0-9a-f-]{36})\.(0|[1-9][0-9]{0,11})\.([A-Za-z0-9_-]{43})")

Verdict = Literal["rotate", "repeat", "reuse"]
"""Give a new child; give the same child again; the token has two holders."""


class Presented(msgspec.Struct, frozen=True):
    """A refresh token as somebody sent it. Nothing of it is believed yet."""

    session: str
    counter: int
    mac: str

    def is_of(self, key: bytes) -> bool:
        """Did the session with this key give it out?"""
        return hmac.compare_digest(self.mac, _mac(key, self.session, self.counter))


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session's refreshes stand."""

    counter: int
    """Of the token that was given out last."""
    id: str | None = None
    """The digest of the rotation id that asked for it; None: it was asked for without one."""
    at: int = 0
    """When it was asked for first: milliseconds."""
    bound: bool = False
    """Does every refresh prove a key?"""


def parse(token: str) -> Presented:
    """Read a refresh token. Raises ``InvalidGrant`` for what is none."""
    found = _TOKEN.fullmatch(token) if len(token) <= MAX_REFRESH_TOKEN else None
    if found is None:
        raise InvalidGrant("This is no refresh token of this server.")
    return Presented(found[1], int(found[2]), found[3])


def token_of(key: bytes, session: str, counter: int) -> str:
    """The session's refresh token after ``counter`` refreshes; the same each time."""
    return f"{session}.{counter}.{_mac(key, session, counter)}"


def rotation_digest(rotation_id: str | None) -> str | None:
    """What is kept of a rotation id. Raises ``Malformed`` for one that cannot be."""
    if rotation_id is None:
        return None
    if not 16 <= len(rotation_id) <= MAX_ROTATION_ID or not rotation_id.isascii():
        raise Malformed(f"A rotation id is 16 to {MAX_ROTATION_ID} random ASCII characters.")
    return hashlib.sha256(rotation_id.encode()).hexdigest()[:32]


def judge(kept: Rotation, counter: int, rotation: str | None, now: int) -> Verdict:
    """What to think of a token of ``counter``, rightly signed, that came with the id digest ``rotation``.

    The current token rotates; so does one from after a backup that was put back: we gave it out. Its parent
    may repeat the rotation that made the current one, but only as the same client would: with the same
    id, or as before without one, then either proving its key or within ``UNBOUND_REPLAY`` seconds. Once the
    child was used, its parent is two behind. Pure.
    """
    if counter >= kept.counter:
        return "rotate"
    if counter < kept.counter - 1 or rotation != kept.id:
        return "reuse"
    if rotation is not None or kept.bound or now - kept.at <= UNBOUND_REPLAY * 1000:
        return "repeat"
    return "reuse"


def _mac(key: bytes, session: str, counter: int) -> str:
    digest = hmac.digest(key, f"lowtide refresh\n{session}.{counter}".encode(), "sha256")
    return encode(digest)
