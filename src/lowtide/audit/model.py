"""An entry of the audit log: what its writer says, what is kept of it, and how it is hashed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from lowtide.kernel.codec import canonical_json
from lowtide.kernel.schema import Principal

MAX_NAME = 500
"""Characters of each text of an entry; what is longer is cut, and ends in an ellipsis."""
MAX_PERSONAL = 16_384
"""Bytes of an entry's personal data as JSON; beyond that only their names and a mark are kept."""

GENESIS = bytes(32)
"""The link before the first entry."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done, as whoever did it says it.

    ``actor`` and ``target`` have a kind and a name: ``user:<id>``, ``server:<id>``, ``key:<kid>``,
    ``job:<id>``, ``cli:<account>``, ``system``. A user's id is a random one and may stay when the user goes;
    e-mail addresses, phone numbers, persons' names and IP addresses belong into ``personal``.
    """

    action: str
    """``<what>.<done>`` in lower case, such as ``session.revoke``: what a search by prefix finds."""
    actor: str
    """Who did it."""
    via: str = ""
    """With what right: ``session:<id>``, ``key:<id>``, ``cli``, ``job:<id>``, ``start``."""
    target: str = ""
    """To whom or what it was done."""
    space: str = "main"
    before: Any = None
    """Any JSON value, as it was: only a keyed, salted hash is kept."""
    after: Any = None
    """As it is now, kept likewise."""
    request: str = ""
    """The request's id, as it is in the log and in every problem."""
    personal: Mapping[str, Any] = {}
    """Personal data of the actor or the target. Kept beside the chain, where it can be erased."""


class ChainedEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry as the chain holds it. Times are milliseconds since 1970."""

    seq: int
    """1, 2, 3, ... without a gap."""
    id: str
    at: int
    space: str
    action: str
    actor: str
    via: str
    target: str
    request: str
    before: bytes | None
    after: bytes | None
    personal: bytes | None


def actor_of(who: Principal) -> str:
    """How an entry names ``who``."""
    return f"{'server' if who.server else 'user'}:{who.user}"


def via_of(who: Principal) -> str:
    """With what ``who`` came: a session, or a token that has none."""
    return f"session:{who.session}" if who.session else "token"


def link(previous: bytes, kept: ChainedEntry) -> bytes:
    """The hash that stands behind ``kept``: SHA-256 of the link before it and its content as a JSON array."""
    return hashlib.sha256(_LINK + previous + _encode(kept)).digest()


def seal_value(pepper: bytes, salt: str, value: Any) -> bytes:
    """The hash of a value: HMAC-SHA256, under the server's ``pepper``, of the entry's ``salt`` and the JSON.

    Most values can be guessed. To try a guess takes both the salt, which an erasure takes away, and the
    pepper, which is not in the database in the clear.
    """
    text = canonical_json(msgspec.to_builtins(value))
    return hmac.digest(pepper or b"-", f"{salt}\n{text}".encode(), "sha256")


def seal_personal(salt: str, personal: str) -> bytes:
    """The commitment to an entry's details: SHA-256 of its salt, 128 random bits, and the personal data."""
    return hashlib.sha256(f"lowtide audit personal\n{salt}\n{personal}".encode()).digest()


def cut(text: str) -> str:
    """``text`` as every database stores it: no NUL, no lone surrogate, at most ``MAX_NAME`` characters."""
    if len(text) <= MAX_NAME and text.isprintable():
        return text
    text = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_NAME else text[: MAX_NAME - 1] + "…"


_LINK = b"lowtide audit entry\n"
_encode = msgspec.json.Encoder().encode
