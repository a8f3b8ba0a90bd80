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

MAX_BYTES = 1024 * 1024
"""Of the base64 text. A record holds less (``lowtide.kernel.values``)."""

MAX_PIECES = 16_384
"""Runs of text, marks and deletions: what a merge costs is bounded by their number, not by bytes."""

MAX_DEPTH = 32
"""Nested lists and objects inside one embedded value."""

_MAX_RIVALS = 1_000
_MAX_CLIENT = 2**53 - 1
_MAX_CLOCK = 2**31 - 1


def merge_documents(mine: str, theirs: str | None) -> str:
    """The document that holds everything that either holds; ``mine``, rewritten, without ``theirs``.

    Canonical for what devices write: a document's state has one text, whatever the order of merges, so
    ``merge(mine, merge(mine, theirs))`` is ``merge(mine, theirs)``. (yrs orders by client and clock and
    joins neighbours; it promises no such thing, our tests watch it.)

    Raises ``ValueError``, with a reason for people, for a value that is no whole document: other text, a
    change that lacks its predecessors (yrs would drop it in silence), subdocuments, or more than
    ``MAX_BYTES``, ``MAX_PIECES`` or ``MAX_DEPTH``, before or after the merge. Costs about 2 us a piece; at
    worst, for documents made to hurt, about a second.
    """
    held, pieces = _read(mine)
    parts = [held]
    if theirs is not None:
        also, more = _read(theirs)
        parts.append(also)
        pieces += more
    merged = _guarded(lambda: _applied(parts).get_update())
    text = base64.b64encode(merged).decode()
    if len(text) > MAX_BYTES or (pieces > MAX_PIECES and _read(text)[1] > MAX_PIECES):
        raise ValueError("the merged document is too large")
    return text


def check_document(value: str) -> None:
    """``ValueError``, as ``merge_documents`` raises it, unless ``value`` is a whole Yjs document."""
    merge_documents(value, None)


def text_of(document: str, root: str | None = None) -> str:
    """The plain text of the shared text named ``root``, without its marks and embedded objects.

    By default of the document's only shared value, or of the one named ``text`` among several. Empty
    when there is none, or when it is no text. Raises ``ValueError`` as ``merge_documents`` does.
    """
    update, _ = _read(document)

    def read() -> str:
        from pycrdt import Text

        doc = _applied([update])
        names = list(doc.keys())
        name = root or (names[0] if len(names) == 1 else "text")
        return str(doc.get(name, type=Text)) if name in names else ""

    return _guarded(read)


class _Update(msgspec.Struct, frozen=True):
    """One document's encoded state."""

    content: bytes
    ends: dict[int, int]
    """Of each client, the clock behind its last piece."""


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


def _guarded(work: Callable[[], T]) -> T:
    """``work()``, with whatever yrs may raise as ``ValueError``: its panics are no ``Exception``."""
    try:
        return work()
    except (ValueError, RuntimeError, TypeError, UnicodeError) as error:
        raise ValueError(f"not a Yjs document: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("not a Yjs document: its parts contradict each other") from None


def _read(document: str) -> tuple[_Update, int]:
    """The decoded document and its number of pieces, or ``ValueError``."""
    if len(document) > MAX_BYTES:
        raise ValueError(f"the document is larger than {MAX_BYTES} bytes")
    try:
        content = base64.b64decode(document, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a Yjs document: expected base64 of Y.encodeStateAsUpdate") from None
    reader = _Reader(content)
    try:
        ends = reader.pieces()
        reader.deletions(ends)
    except (IndexError, UnicodeDecodeError):
        raise ValueError("not a Yjs document: it ends too early or holds broken text") from None
    if reader.at != len(content):
        raise ValueError("not a Yjs document: there is something behind its end")
    return _Update(content, ends), reader.count


class _Reader:
    """Walks an update without building anything. Raises ``ValueError`` and ``IndexError``."""

    def __init__(self, content: bytes):
        self._content = content
        self.at = 0
        self.count = 0
        self._rivals = 0

    def pieces(self) -> dict[int, int]:
        """Past the pieces; the clock behind the last one of each client."""
        ends: dict[int, int] = {}
        for _ in range(self.number(MAX_PIECES)):
            size = self.number(MAX_PIECES)
            client = self.number(_MAX_CLIENT)
            if client in ends or not size:
                raise ValueError("not a Yjs document: a client is named twice or for nothing")
            if self.number(_MAX_CLOCK):
                raise ValueError("only a part of a Yjs document: send Y.encodeStateAsUpdate of the whole")
            clock = 0
            self._add(size)
            for _ in range(size):
                length = self._piece()
                clock += length
                if not length or clock >= _MAX_CLOCK:
                    raise ValueError("not a Yjs document: a piece is empty or too long")
            ends[client] = clock
        return ends

    def deletions(self, ends: dict[int, int]) -> None:
        """Past the deletions, which must lie in order within what ``ends`` says is there."""
        for _ in range(self.number(MAX_PIECES)):
            end = ends.get(self.number(_MAX_CLIENT), 0)
            size = self.number(MAX_PIECES)
            self._add(size)
            free = 0
            for _ in range(size):
                start = self.number(_MAX_CLOCK)
                length = self.number(_MAX_CLOCK)
                if start < free or not length or start + length > end:
                    raise ValueError("not a whole Yjs document: it deletes what it does not hold")
                free = start + length

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

    def _add(self, pieces: int) -> None:
        self.count += pieces
        if self.count > MAX_PIECES:
            raise ValueError(f"the document has more than {MAX_PIECES} pieces")

    def _piece(self) -> int:
        """Past one piece; how many clock ticks it takes."""
        info = self._byte()
        kind = info & 31
        if kind == 0:  # collected garbage
            return self.number(_MAX_CLOCK)
        if info & 0x80:
            self._id()
        if info & 0x40:
            self._id()
        if not info & 0xC0:
            if self.number(1):
                self._text()
            else:
                self._id()
            if info & 0x20:
                self._text()
                # Each rival for a key of a map is compared with all before it.
                self._rivals += 1
                if self._rivals > _MAX_RIVALS:
                    raise ValueError("the document has too many rival values")
        return self._value(kind)

    def _value(self, kind: int) -> int:
        if kind == 1:  # deleted
            return self.number(_MAX_CLOCK)
        if kind == 4:  # text, counted in UTF-16
            text = self._text()
            return len(text) if text.isascii() else len(text.decode().encode("utf-16-le")) // 2
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

    def _id(self) -> None:
        self.number(_MAX_CLIENT)
        self.number(_MAX_CLOCK)

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
