"""Yjs documents as field values: base64 of a document's whole state, merged by pycrdt (yrs).

A Yjs document carries its own history, so merging needs no base, and merging twice or in any order
gives the same. What arrives is read here once before yrs sees it, by the published encoding
(Yjs, INTERNALS.md, update format v1): yrs follows nested values by recursion, and 200 KB of
opening brackets would end the process.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

MAX_BYTES = 256 * 1024
"""Of the base64 text: as much as one record holds."""

MAX_PIECES = 16_384
"""Runs of text, marks and deletions: what a merge costs is bounded by their number, not by bytes."""

MAX_DEPTH = 32
"""Nested lists and objects inside one embedded value."""

_MAX_STEPS = 8_000_000
"""About 0.3 s of yrs, in steps of its two loops that are not linear."""

_MAX_CLIENT = 2**53 - 1
_MAX_CLOCK = 2**31 - 1


def merge_documents(mine: str, theirs: str | None) -> str:
    """The document that holds everything that either holds; ``mine``, rewritten, without ``theirs``.

    Canonical for what devices write: a document's state has one text, whatever the order of merges, so
    ``merge(mine, merge(mine, theirs))`` is ``merge(mine, theirs)``. (yrs orders by client and clock and
    joins neighbours; it promises no such thing, our tests watch it.)

    Raises ``ValueError``, with a reason for people, for a value that is no whole document: other text, a
    change that lacks its predecessors (yrs would drop it in silence), subdocuments, or more than
    a limit above, before or after the merge. Costs about 10 us a piece; at worst, for documents made
    to hurt, about a second.
    """
    parts = [_read(mine)] if theirs is None else [_read(mine), _read(theirs)]
    _check_work(parts)
    # Each must be whole by itself.
    states = [_guarded(_state, [part]) for part in parts]
    merged = states[0] if theirs is None else _guarded(_state, parts)
    # What is stored now must be readable next time; and a merge may leave neighbours apart that a
    # document which is read at once has joined.
    return base64.b64encode(_guarded(_state, [_parsed(merged)])).decode()


_Id = tuple[int, int]
"""A client and its clock."""


class _Update(msgspec.Struct):
    """One document's encoded state, and what decides how long yrs works on it."""

    content: bytes
    count: int = 0
    longest: int = 0
    ends: dict[int, int] = {}
    """Of each client, the clock behind its last piece."""
    bounds: set[_Id] = set()
    """Where pieces begin and end."""
    joints: set[_Id] = set()
    """Where pieces were put between others."""
    after: dict[_Id, dict[_Id, _Id | None]] = {}
    """What was put behind a character, and in front of what."""
    first: dict[_Id, bytes | _Id] = {}
    """What was put at the beginning: of which shared type, or in front of what."""


def _check_work(updates: list[_Update]) -> None:
    """``ValueError`` when yrs would need quadratic time for these documents together.

    yrs compares a piece with those that another device put behind the same character at the same time,
    and all that follow them. In a real text the next piece of a device is in front of its last one there,
    so that rivals are rare. And it splits a piece in which another begins, counting its characters.
    """
    places: dict[bytes | _Id, dict[_Id, _Id | None]] = {}
    first: dict[_Id, bytes | _Id] = {}
    joints: set[_Id] = set()
    for update in updates:
        first |= update.first
        joints |= update.joints
        for character, pieces in update.after.items():
            places.setdefault(character, {}).update(pieces)
    parents: dict[_Id, bytes] = {}
    for piece, place in first.items():
        path = []
        at: bytes | _Id = piece
        while isinstance(at, tuple) and at not in parents and at in first:
            parents[at] = b""  # ends a circle
            path.append(at)
            at = first[at]
        parent = parents.get(at, b"") if isinstance(at, tuple) else at
        parents.update(dict.fromkeys(path, parent))
        places.setdefault(parent, {})[piece] = place if isinstance(place, tuple) else None
    rivals = 0
    for siblings in places.values():
        if len(siblings) - len(siblings.keys() & siblings.values()) > 1:
            rivals += len(siblings)
    splitting = 0
    for update in updates:
        inside = (joint for joint in joints - update.bounds if joint[1] < update.ends.get(joint[0], 0))
        splitting += update.longest * sum(1 for _ in inside)
    if rivals * max(update.count for update in updates) + splitting // 4 > _MAX_STEPS:
        raise ValueError("too many changes of the document were made at the same time at the same place")


def _applied(updates: list[_Update]) -> Any:
    # Not at the top: it loads slowly, and most apps have no collaborative field.
    from pycrdt import Doc

    # Nothing is written, so the client id does not show; a fixed one saves the random number.
    doc: Doc[Any] = Doc(client_id=1)
    for update in updates:
        doc.apply_update(update.content)
    state = _Reader(doc.get_state())
    known = {state.number(_MAX_CLIENT): state.number(_MAX_CLOCK) for _ in range(state.number(MAX_BYTES))}
    for update in updates:
        if any(known.get(client, 0) < end for client, end in update.ends.items()):
            raise ValueError("the document refers to changes that it does not hold")
    return doc


def _state(updates: list[_Update]) -> bytes:
    state: bytes = _applied(updates).get_update()
    return state


def _guarded(work: Callable[[list[_Update]], T], updates: list[_Update]) -> T:
    """``work(updates)``, with whatever yrs may raise as ``ValueError``: its panics are no ``Exception``."""
    try:
        return work(updates)
    except (ValueError, RuntimeError, TypeError, UnicodeError) as error:
        raise ValueError(f"not a Yjs document: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("not a Yjs document: its parts contradict each other") from None


def _read(document: str) -> _Update:
    """The decoded document, or ``ValueError``."""
    try:
        content = base64.b64decode(document, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a Yjs document: expected base64 of Y.encodeStateAsUpdate") from None
    return _parsed(content)


def _parsed(content: bytes) -> _Update:
    if len(content) * 4 // 3 > MAX_BYTES:
        raise ValueError(f"the document is larger than {MAX_BYTES} bytes")
    reader = _Reader(content)
    try:
        update = reader.update()
    except (IndexError, UnicodeDecodeError):
        raise ValueError("not a Yjs document: it ends too early or holds broken text") from None
    if reader.at != len(content):
        raise ValueError("not a Yjs document: there is something behind its end")
    return update


class _Reader:
    """Walks an update without building anything. Raises ``ValueError`` and ``IndexError``."""

    def __init__(self, content: bytes):
        self._content = content
        self.at = 0

    def update(self) -> _Update:
        """The whole update: pieces by client, then deletions, which lie in order within the pieces."""
        update = _Update(self._content)
        for _ in range(self.number(MAX_PIECES)):
            self._client(update)
        for _ in range(self.number(MAX_PIECES)):
            end = update.ends.get(self.number(_MAX_CLIENT), 0)
            free = 0
            for _ in range(self._count(update)):
                start = self.number(_MAX_CLOCK)
                length = self.number(_MAX_CLOCK)
                if start < free or not length or start + length > end:
                    raise ValueError("not a whole Yjs document: it deletes what it does not hold")
                free = start + length
        return update

    def _client(self, update: _Update) -> None:
        size = self._count(update)
        client = self.number(_MAX_CLIENT)
        if client in update.ends or not size:
            raise ValueError("not a Yjs document: a client is named twice or for nothing")
        if self.number(_MAX_CLOCK):
            raise ValueError("only a part of a Yjs document: send Y.encodeStateAsUpdate of the whole")
        clock = 0
        update.bounds.add((client, 0))
        for _ in range(size):
            length = self._piece(update, (client, clock))
            clock += length
            if not length or clock >= _MAX_CLOCK:
                raise ValueError("not a Yjs document: a piece is empty or too long")
            update.bounds.add((client, clock))
        update.ends[client] = clock

    def _count(self, update: _Update) -> int:
        size = self.number(MAX_PIECES)
        update.count += size
        if update.count > MAX_PIECES:
            raise ValueError(f"the document has more than {MAX_PIECES} pieces")
        return size

    def number(self, limit: int) -> int:
        """A variable-length unsigned integer below or at ``limit``."""
        content, at = self._content, self.at
        byte = content[at]
        at += 1
        value = byte & 127
        shift = 7
        while byte > 127:
            byte = content[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                break
        if value > limit:
            raise ValueError("not a Yjs document, or one that is too large: a number is out of range")
        self.at = at
        return value

    def _piece(self, update: _Update, piece: _Id) -> int:
        """Past one piece; how many clock ticks it takes."""
        info = self._byte()
        kind = info & 31
        if kind == 0:  # collected garbage
            return self.number(_MAX_CLOCK)
        origin = self._id() if info & 0x80 else None
        right = self._id() if info & 0x40 else None
        if right is not None:
            update.joints.add(right)
        if origin is not None:
            update.joints.add((origin[0], origin[1] + 1))
            update.after.setdefault(origin, {})[piece] = right
        elif right is not None:
            update.first[piece] = right
        else:
            start = self.at
            if self.number(1):
                self._text()
            else:
                self._id()
            if info & 0x20:  # a key of a map
                self._text()
            update.first[piece] = self._content[start : self.at]
        return self._value(kind, update)

    def _value(self, kind: int, update: _Update) -> int:
        if kind == 1:  # deleted
            return self.number(_MAX_CLOCK)
        if kind == 4:  # text, counted in UTF-16
            text = self._text()
            length = len(text) if text.isascii() else len(text.decode().encode("utf-16-le")) // 2
            update.longest = max(update.longest, length)
            return length
        if kind == 2 or kind == 8:  # JSON texts; any values
            length = self.number(MAX_BYTES)
            for _ in range(length):
                if kind == 2:
                    self._text()
                else:
                    self._any(MAX_DEPTH)
            return length
        if kind == 6:  # a mark: its name and JSON
            self._text()
            self._text()
        elif kind == 3 or kind == 5:  # bytes; an embedded value's JSON
            self._text()
        elif kind == 7:  # a nested shared type
            shape = self.number(127)
            if shape > 6:
                raise ValueError("the document holds a shared type that is not supported")
            if shape == 3 or shape == 5:
                self._text()
        elif kind == 9:
            raise ValueError("the document holds a subdocument, which is not supported")
        else:
            raise ValueError("not a whole Yjs document: a piece is of an unknown kind")
        return 1

    def _any(self, depth: int) -> None:
        kind = self._byte()
        if kind in (120, 121, 126, 127):  # true, false, null, undefined
            return
        if kind == 119 or kind == 116:  # text, bytes
            self._text()
        elif kind == 125:  # integer: one bit of the first byte is the sign, which a skip need not know
            while self._byte() > 127:
                pass
        elif kind in (122, 123, 124):
            self._skip(4 if kind == 124 else 8)
        elif kind == 117 or kind == 118:
            if not depth:
                raise ValueError(f"a value in the document is nested deeper than {MAX_DEPTH} levels")
            for _ in range(self.number(MAX_BYTES)):
                if kind == 118:
                    self._text()
                self._any(depth - 1)
        else:
            raise ValueError("not a Yjs document: a value is of an unknown kind")

    def _id(self) -> _Id:
        return self.number(_MAX_CLIENT), self.number(_MAX_CLOCK)

    def _byte(self) -> int:
        byte = self._content[self.at]
        self.at += 1
        return byte

    def _text(self) -> bytes:
        return self._skip(self.number(MAX_BYTES))

    def _skip(self, size: int) -> bytes:
        start = self.at
        self.at = start + size
        if self.at > len(self._content):
            raise IndexError
        return self._content[start : self.at]
