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
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import msgspec
from cryptography.exceptions import InvalidSignature

from lowtide.audit.chain import Chain, Head
from lowtide.audit.keys import AuditKeys, PublicKey
from lowtide.audit.verify import Fault
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import NotFound, TooLarge
from lowtide.storage.blobs import MAX_LIST, Blobs, put_once
from lowtide.storage.jobs import Job, Jobs

CHECKPOINT = "lowtide.audit_checkpoint"
EVERY = 3600.0
"""Seconds between two checkpoints."""
SUFFIX = ".note"
MAX_NOTE = 4_096
"""Bytes of a checkpoint."""
READ_AT_ONCE = 16
"""Checkpoints that are fetched at a time."""
LATELY = 86_400_000
"""Milliseconds: how far back the newest checkpoint is looked for first."""
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
    """Signs the present state of the log, hourly into ``blobs`` and the server's own log."""

    def __init__(self, chain: Chain, keys: AuditKeys, clock: Clock, blobs: Blobs | None):
        self._chain, self._keys, self._clock, self._blobs = chain, keys, clock, blobs

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
        """Sign, and keep the note: a line of the server's log, then a blob that is never overwritten.

        Raises as ``Blobs.put`` does.
        """
        text = await self.sign()
        _LOG.info("audit checkpoint: %s", msgspec.json.encode(text).decode())
        if self._blobs is not None:
            seq = int(text.split("\n")[1])
            name = f"{_moment(self._clock.now())}-{seq:012}{SUFFIX}"
            await put_once(self._blobs, name, text.encode())

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


async def read_notes(blobs: Blobs, keys: Sequence[PublicKey]) -> tuple[list[Checkpoint], list[Fault]]:
    """Every checkpoint in ``blobs``, and what is wrong with those that nobody signed.

    Raises as ``Blobs.get`` and ``list`` do: what cannot be read is no proof. Reads 16 at a time.
    """

    async def read(name: str) -> Checkpoint | Fault | None:
        async with places:
            try:
                text = (await blobs.get(name, limit=MAX_NOTE)).decode()
                return read_note(text, keys, name)
            except (ValueError, TooLarge) as error:
                return Fault(0, "checkpoint", f"{name}: {error}")
            except NotFound:
                return None  # it was carried away meanwhile

    places = asyncio.Semaphore(READ_AT_ONCE)
    found: list[Checkpoint | Fault | None] = []
    async for page in _names(blobs):
        found += await asyncio.gather(*map(read, page))
    return [one for one in found if isinstance(one, Checkpoint)], [
        one for one in found if isinstance(one, Fault)
    ]


async def last_at(blobs: Blobs, now: int) -> int | None:
    """When the newest checkpoint in ``blobs`` was signed, by its name; None if there is none.

    Looks among those of the last day first. Raises as ``Blobs.list`` does.
    """
    for after in (_moment(max(0, now - LATELY)), ""):
        times = [at async for page in _names(blobs, after) for name in page if (at := _time_of(name))]
        if times:
            return max(times)
    return None


async def _names(blobs: Blobs, after: str = "") -> AsyncIterator[list[str]]:
    page = await blobs.list(after=after)
    while page:
        yield [blob.key for blob in page if blob.key.endswith(SUFFIX)]
        if len(page) < MAX_LIST:
            return
        page = await blobs.list(after=page[-1].key)


def _time_of(name: str) -> int | None:
    try:
        return int(datetime.fromisoformat(name.partition("-")[0]).timestamp() * 1000)
    except ValueError:
        return None


def _moment(milliseconds: int) -> str:
    return _time(milliseconds).strftime("%Y%m%dT%H%M%SZ")


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
