"""A segment of the chain as a blob: NDJSON, compressed, whole in itself and signed.

The first line says which places it holds and the link before them; then an entry each, a JSON array of what
the chain holds, the link behind it, and its salt; the last line is a checkpoint of its end (``checkpoints``).
Every content is committed to by the links, so the one signature speaks for all of it. Personal data is never
in it, and no salt of an entry by or about a user: what is in an archive cannot be erased.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec

from lowtide.audit.chain import ChainHead
from lowtide.audit.model import ChainedEntry, link, seal_personal
from lowtide.kernel.zstd import library
from lowtide.storage.db import Row

MAX_ENTRIES = 5_000
"""Entries of a segment."""
MAX_TEXT = 8 * 1024 * 1024
"""Bytes of the entries of a segment, beyond which the next one begins."""
MAX_LINES = 2 * MAX_TEXT
"""Bytes of a segment that is read, decompressed."""
LEVEL = 9
WINDOW_LOG = 23
FORMAT = "lowtide audit segment 1"


class Opening(msgspec.Struct, frozen=True):
    """The first line."""

    format: str
    origin: str
    first: int
    last: int
    previous: str
    """The link before ``first``, as base64."""


class Closing(msgspec.Struct, frozen=True):
    """The last line."""

    note: str


class Archived(msgspec.Struct, frozen=True):
    """An entry of a segment."""

    kept: ChainedEntry
    hash: bytes
    salt: str | None


class ArchiveSegment(msgspec.Struct, frozen=True):
    """What a blob holds, read but not believed: ``check_links`` says where it is wrong."""

    origin: str
    first: int
    last: int
    previous: bytes
    entries: list[Archived]
    note: str

    @property
    def hash(self) -> bytes:
        """The link behind the last entry."""
        return self.entries[-1].hash


def may_keep_salt(kept: ChainedEntry, personal: str | None) -> bool:
    """May the salt be archived? Not with personal data, and not where a user may ask to be forgotten."""
    return personal is None and not kept.actor.startswith("user:") and not kept.target.startswith("user:")


def archived(row: Row) -> Archived:
    """What of a row of ``chained`` goes into an archive."""
    kept, salt = ChainedEntry(*row[:12]), row[13]
    return Archived(kept, bytes(row[12]), salt if may_keep_salt(kept, row[14]) else None)


def row_of(one: Archived) -> Row:
    """What ``chained`` gave of an entry, as far as an archive has it."""
    return (*msgspec.structs.astuple(one.kept), one.hash, one.salt, None, None, None, None)


def pack(origin: str, previous: bytes, entries: Sequence[Archived], note: str) -> bytes:
    """The blob of ``entries``, at least one. About 30 µs an entry."""
    encode = msgspec.json.encode
    first, last = entries[0].kept.seq, entries[-1].kept.seq
    lines = [encode(Opening(FORMAT, origin, first, last, base64.b64encode(previous).decode()))]
    lines += [encode([*msgspec.structs.astuple(one.kept), one.hash, one.salt]) for one in entries]
    lines.append(encode(Closing(note)))
    compressed: bytes = library().compress(b"\n".join(lines) + b"\n", level=LEVEL)
    return compressed


def unpack(content: bytes) -> ArchiveSegment:
    """What ``pack`` made. ``ValueError`` for anything else; at most ``MAX_LINES`` bytes are decompressed."""
    zstd = library()
    reader = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
    try:
        text = reader.decompress(content, MAX_LINES)
    except zstd.ZstdError as error:
        raise ValueError("it cannot be decompressed") from error
    if not reader.eof or reader.unused_data:
        raise ValueError("it is longer or shorter than a segment")
    lines = text.split(b"\n")
    if len(lines) < 4 or lines[-1]:
        raise ValueError("it is no segment of an audit log")
    try:
        opening = msgspec.json.decode(lines[0], type=Opening)
        closing = msgspec.json.decode(lines[-2], type=Closing)
        entries = [_entry(line) for line in lines[1:-2]]
        previous = base64.b64decode(opening.previous, validate=True)
    except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    if opening.format != FORMAT:
        raise ValueError(f"its format is '{opening.format[:80]}'")
    return ArchiveSegment(opening.origin, opening.first, opening.last, previous, entries, closing.note)


def check_links(segment: ArchiveSegment, before: ChainHead) -> str:
    """Why ``segment`` is not what stands behind ``before``; empty if it is."""
    first, last = segment.entries[0].kept.seq, segment.entries[-1].kept.seq
    if (segment.first, segment.last) != (first, last) or first != before.seq + 1:
        return f"it holds the entries {first} to {last}"
    if segment.previous != before.hash:
        return "it does not follow what stands before it"
    hash, at = before.hash, before.seq
    for one in segment.entries:
        at, hash = at + 1, link(hash, one.kept)
        if one.kept.seq != at or one.hash != hash:
            return f"entry {at} or its hash was changed"
        if one.salt is not None and seal_personal(one.salt, "") != one.kept.personal:
            return f"the salt of entry {at} was changed"
    return ""


class _Line(ChainedEntry, frozen=True, array_like=True):
    hash: bytes
    salt: str | None


_decode = msgspec.json.Decoder(_Line).decode


def _entry(line: bytes) -> Archived:
    *kept, hash, salt = msgspec.structs.astuple(_decode(line))
    return Archived(ChainedEntry(*kept), hash, salt)
