"""Entity tags (RFC 9110 sections 8.8.3 and 13.1): a record's version as HTTP says it."""

from __future__ import annotations

import re

from lowtide.kernel.errors import Malformed

MAX_TAGS = 20
"""Entity tags in one ``If-Match`` or ``If-None-Match``."""

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_OP = re.compile(r"[0-9]{1,19}")


def etag(op: int) -> str:
    """The strong tag of a record that was changed last by ``op``."""
    return f'"{op}"'


def wanted_ops(header: str | None) -> tuple[int, ...] | None:
    """The ops that ``If-Match`` allows; None: any (``*``), or there is no such header.

    A weak tag matches nothing (strong comparison), nor does a tag that was never given out. Raises
    ``Malformed`` for what is not a list of tags.
    """
    if header is None or header.strip() == "*":
        return None
    return tuple(int(tag) for weak, tag in _tags(header, "If-Match") if not weak and _OP.fullmatch(tag))


def is_known(header: str | None, op: int) -> bool:
    """Does ``If-None-Match`` name the version ``op``? Weak comparison, as a GET wants it."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return any(tag == str(op) for _, tag in _tags(header, "If-None-Match"))


def _tags(header: str, name: str) -> list[tuple[bool, str]]:
    found: list[tuple[bool, str]] = []
    for part in header.split(","):
        if not part.strip():
            continue
        match = _TAG.fullmatch(part.strip())
        if match is None or len(found) == MAX_TAGS:
            raise Malformed(f'{name} is "*" or up to {MAX_TAGS} entity tags, such as "1048577".')
        found.append((match[1] is not None, match[2]))
    return found
