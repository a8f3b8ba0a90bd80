"""What travels on the bus, and how much of it a slow subscriber keeps."""

from __future__ import annotations

import re

import msgspec

from lowtide.kernel.errors import TooLarge

MAX_PAYLOAD = 5_800
"""Bytes. As base64 behind the longest topic it stays under PostgreSQL's 8,000 bytes a notification."""

TOPIC = re.compile(r"[A-Za-z0-9_.:/@=-]{1,200}")
"""What a topic may look like."""


class Hint(msgspec.Struct, frozen=True):
    """Something that a subscriber hears of. It says where to look and is never the truth itself."""

    payload: bytes = b""
    missed: bool = False
    """Hints before this one may have been lost: look at everything, whatever the payload says."""


class Latest(msgspec.Struct, frozen=True):
    """One slot. A hint that finds it full takes its place: for topics where the newest says it all."""


class DropOldest(msgspec.Struct, frozen=True):
    """``size`` slots. A hint that finds them full pushes the oldest out; the next one read is ``missed``."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError("a buffer has at least one slot")


Buffer = Latest | DropOldest
"""What a subscriber that reads slowly keeps. Either way it never holds up the publisher or another one."""


def check(topic: str, payload: bytes = b"") -> None:
    """Raise ``ValueError`` for a topic that no bus can carry, ``TooLarge`` for such a payload."""
    if TOPIC.fullmatch(topic) is None:
        raise ValueError(f"a topic is 1 to 200 letters, digits or any of _.:/@=- and not {topic[:250]!r}")
    if len(payload) > MAX_PAYLOAD:
        raise TooLarge(
            f"A hint of {len(payload)} bytes is more than the bus carries ({MAX_PAYLOAD}).",
            hint="Store the content, and let the hint say where it is.",
            limit=MAX_PAYLOAD,
        )
