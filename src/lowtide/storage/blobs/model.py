"""What a blob is called, how large it may be, and what is known of it without reading it."""

from __future__ import annotations

import re

import msgspec

MAX_BLOB = 64 * 1024 * 1024
"""Bytes of a blob that is written or read as a whole."""
MAX_LIST = 1_000
"""Blobs of one page of a list."""
DEADLINE = 60.0
"""Seconds that one call may take."""
AT_ONCE = 64
"""Calls under way at a time; more are refused at once."""

_PART = r"[A-Za-z0-9_=][A-Za-z0-9_.=-]{0,199}"
_KEY = re.compile(rf"(?=.{{1,600}}\Z){_PART}(?:/{_PART})*", re.ASCII)
_FOLDER = re.compile(rf"(?=.{{0,600}}\Z)(?:{_PART}/)*", re.ASCII)


class Blob(msgspec.Struct, frozen=True):
    """One blob, without its content. Times are milliseconds since 1970."""

    key: str
    size: int
    modified_at: int


def check_key(key: str) -> str:
    """``key``, if it is one: parts of letters, digits and ``_=.-`` between slashes, at most 600 characters.

    No part begins with a dot or is longer than 200, so every key is a file's name, too. ``ValueError``.
    """
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"{key[:250]!r} is no key of a blob")
    return key


def check_folder(folder: str) -> str:
    """``folder``, if it is empty or ends in a slash and what stands before it is a key. ``ValueError``."""
    if _FOLDER.fullmatch(folder) is None:
        raise ValueError(f"{folder[:250]!r} is no folder of blobs")
    return folder


def check_range(first: int, length: int | None, limit: int) -> None:
    """``ValueError`` for a range that cannot be, or a limit beyond ``MAX_BLOB``."""
    if first < 0 or (length is not None and length < 0) or not 0 < limit <= MAX_BLOB:
        raise ValueError("a range begins at 0 or later, and is within the limit")
