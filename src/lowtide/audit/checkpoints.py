"""Signed checkpoints: what the log said at some moment, in a form that can be carried away and kept.

The format is that of C2SP tlog-checkpoint and signed notes (an origin, a size, a base64 hash, extension
lines, an empty line, Ed25519 signatures), but for one thing: the hash is the chain's last link and no Merkle
root, so it proves what stood before it to whoever walks the chain, and to nobody who lacks the entries.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature

from lowtide.audit.chain import Chain, Head
from lowtide.audit.keys import AuditKeys, PublicKey
from lowtide.audit.verify import Fault
from lowtide.kernel.clock import Clock
from lowtide.storage.jobs import Job, Jobs

CHECKPOINT = "lowtide.audit_checkpoint"
EVERY = 3600.0
"""Seconds between two checkpoints."""
SUFFIX = ".note"
MAX_NOTE = 4_096
"""Bytes of a checkpoint."""
_SIGNED = "\u2014 "
_LOG = logging.getLogger("lowtide.audit")


class Checkpoint(msgspec.Struct, frozen=True):
    """What one signature says: at ``at`` the log ``origin`` had ``seq`` entries that end in ``hash``."""

    origin: str
    seq: int
    hash: bytes
    at: int
    name: str = "the checkpoint"
    """Of the file that it was read from."""


class Checkpoints:
    """Signs the present state of the log, hourly into ``folder`` and the server's own log."""

    def __init__(self, chain: Chain, keys: AuditKeys, clock: Clock, folder: Path | None):
        self._chain, self._keys, self._clock, self._folder = chain, keys, clock, folder

    def schedule(self, jobs: Jobs) -> None:
        """Sign once an hour, on whichever node runs jobs."""

        async def run(_job: Job, _payload: None) -> None:
            await self.write()

        jobs.register(CHECKPOINT, type(None), run)
        jobs.every(EVERY, CHECKPOINT)

    async def sign(self) -> str:
        """A checkpoint of everything that is committed now: it is chained first."""
        await self._chain.sequence()
        return self._note(await self._chain.head())

    async def write(self) -> None:
        """Sign, and keep the note: a synced file of its own, and a line of the server's log."""
        text = await self.sign()
        _LOG.info("audit checkpoint: %s", msgspec.json.encode(text).decode())
        if self._folder is not None:
            seq = int(text.split("\n")[1])
            name = f"{_time(self._clock.now()).strftime('%Y%m%dT%H%M%SZ')}-{seq:012}{SUFFIX}"
            await asyncio.to_thread(_keep, self._folder, name, text)

    def _note(self, head: Head) -> str:
        hash = base64.b64encode(head.hash).decode()
        time = _time(self._clock.now()).isoformat(timespec="milliseconds")
        text = f"{self._keys.origin}\n{head.seq}\n{hash}\ntime {time}\n"
        signature = base64.b64encode(self._keys.sign(text.encode())).decode()
        return f"{text}\n{_SIGNED}{self._keys.origin} {signature}\n"


def read_note(text: str, keys: Sequence[PublicKey], name: str = "the checkpoint") -> Checkpoint:
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
        return Checkpoint(origin, int(seq), raw, int(at.timestamp() * 1000), name)
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


def read_folder(folder: Path, keys: Sequence[PublicKey]) -> tuple[list[Checkpoint], list[Fault]]:
    """Every checkpoint in ``folder``, and what is wrong with those that nobody signed. Raises ``OSError``."""
    found, faults = [], []
    for path in sorted(folder.iterdir()):
        if path.name.endswith(SUFFIX):
            try:
                found.append(read_note(path.read_bytes()[:MAX_NOTE].decode(), keys, path.name))
            except ValueError as error:
                faults.append(Fault(0, "checkpoint", f"{path.name}: {error}"))
    return found, faults


def last_at(folder: Path) -> int | None:
    """When the newest checkpoint in ``folder`` was signed, by its name; None if there is none."""
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIX))
    for name in reversed(names):
        try:
            return int(datetime.fromisoformat(name.partition("-")[0]).timestamp() * 1000)
        except ValueError:
            continue
    return None


def _keep(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.draft"
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / name)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
