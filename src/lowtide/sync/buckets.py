"""A device's place in a bucket: its name, its checksum and where to read on.

A bucket is known to a device as ``team["t1"]@<epoch>.<id>.<generation>.<floor>``. Epoch: a restored
backup starts a new one. Generation: a device whose content diverged starts a new one. Floor: removals
up to it are forgotten; a device keeps its bucket's name while it has seen them or never needed them,
else the old bucket is swapped for a new one in one checkpoint. All evidence is in the device's own
request: the server keeps none about what a device holds.

Checksums telescope: an op's checksum is hash(op) - hash(the op before it on this connection), so that
whatever was skipped, the sum is the hash of the last op. A device whose sum differs has missed
something and downloads the bucket again.
"""

from __future__ import annotations

import zlib

import msgspec

from lowtide.sync.model import Bucket
from lowtide.sync.store import OPS_PER_GROUP


class BucketPlace(msgspec.Struct, frozen=True):
    """Where a device stands in one bucket."""

    name: str
    cursor: int
    """Entries with greater op ids are still to be sent."""
    last: int
    """The op that the device's checksum stands for: the last one that it received."""
    forget: int = 0
    """Removals up to this op mean nothing to a device that started later."""


def name_of(topic: str, bucket: Bucket, epoch: str, generation: int) -> str:
    """The name under which a device that starts now knows the bucket."""
    return f"{topic.partition('/')[2]}@{epoch}.{bucket.id}.{generation}.{bucket.floor}"


def checksum(name: str, op: int) -> int:
    """The hash of ``op`` in the bucket: what a device's checksums sum up to. Of no op: 0."""
    return zlib.crc32(str(op).encode(), zlib.crc32(name.encode())) if op else 0


def start(topic: str, bucket: Bucket, epoch: str, generation: int, head_op: int) -> BucketPlace:
    """The place of a device that holds nothing of the bucket."""
    return BucketPlace(name_of(topic, bucket, epoch, generation), 0, 0, min(head_op, bucket.last))


def keeps(
    name: str, after: int, topic: str, bucket: Bucket, epoch: str, generation: int, head_op: int
) -> bool:
    """May a device that holds ``name`` up to ``after`` go on under this name?"""
    stem, _, suffix = name.rpartition("@")
    parts = suffix.split(".")
    if stem != topic.partition("/")[2] or len(parts) != 4:
        return False
    if parts[:3] != [epoch, str(bucket.id), str(generation)]:
        return False
    if not parts[3].isdecimal() or len(parts[3]) > 19:
        return False
    # A device ahead of the head saw a history that is gone. One that has had the latest lacks nothing.
    return after <= head_op and max(after, int(parts[3])) >= min(bucket.floor, bucket.last)


def at_checkpoint(after: int) -> bool:
    """Is ``after`` the end of a checkpoint, rather than the last op of a download that was cut?"""
    return after % OPS_PER_GROUP == OPS_PER_GROUP - 1
