"""Signed notes: what the log said at some moment, in a form that can be carried away and kept.

The format is that of C2SP tlog-checkpoint and signed notes (an origin, a size, a base64 hash, extension
lines, an empty line, Ed25519 signatures), but for one thing: the hash is the chain's last link and no Merkle
root, so it proves what stood before it to whoever walks the chain, and to nobody who lacks the entries.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from cryptography.exceptions import InvalidSignature

from lowtide.audit.chain import ChainHead
from lowtide.audit.keys import AuditKeys, PublicKey

_SIGNED = "\u2014 "


class LogCheckpoint(msgspec.Struct, frozen=True):
    """What one signature says: at ``at`` the log ``origin`` had ``seq`` entries that end in ``hash``."""

    origin: str
    seq: int
    hash: bytes
    at: int
    name: str = "the checkpoint"
    """Of the file that it was read from."""


def note_of(keys: AuditKeys, head: ChainHead, at: int) -> str:
    """The signed note that says: at ``at`` the log ended in ``head``."""
    hash = base64.b64encode(head.hash).decode()
    text = f"{keys.origin}\n{head.seq}\n{hash}\ntime {_iso(at)}\n"
    signature = base64.b64encode(keys.sign(text.encode())).decode()
    return f"{text}\n{_SIGNED}{keys.origin} {signature}\n"


def read_note(text: str, keys: Sequence[PublicKey], name: str = "the checkpoint") -> LogCheckpoint:
    """The checkpoint that one of ``keys`` signed. ``ValueError`` for a forged, foreign or broken one."""
    body, empty, signatures = text.partition("\n\n")
    body += "\n"
    lines = body.split("\n")
    if not empty or len(lines) < 5:
        raise ValueError("it is no checkpoint")
    origin, seq, hash, time = lines[:4]
    if not any(_signed(body.encode(), origin, line, keys) for line in signatures.split("\n")):
        raise ValueError("none of the keys of this log has signed it")
    try:
        raw = base64.b64decode(hash, validate=True)
        at = datetime.fromisoformat(time.removeprefix("time "))
        return LogCheckpoint(origin, int(seq), raw, int(at.timestamp() * 1000), name)
    except ValueError as error:
        raise ValueError("it is signed, but cannot be read") from error


def _signed(text: bytes, origin: str, line: str, keys: Sequence[PublicKey]) -> bool:
    name, _, encoded = line.removeprefix(_SIGNED).partition(" ")
    if not line.startswith(_SIGNED) or name != origin:
        return False
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return False
    for key in keys:
        if key.id == raw[:4] and key.name == origin:
            try:
                key.key.verify(raw[4:], text)
            except InvalidSignature:
                continue
            return True
    return False


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
