"""Makes a file of leaked passwords from what has been published: digests, or plain lists."""

from __future__ import annotations

import heapq
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from lowtide.auth.methods.blocklist import DIGEST, MARK, leaked_digest

RUN = 4_000_000
"""Digests that are sorted in memory at once: about 250 MB."""
_LINE = re.compile(rb"([0-9A-Fa-f]{40})(?::(\d+))?")


def build(source: Iterable[bytes], target: Path, *, least: int = 1, run: int = RUN) -> int:
    """Write the passwords of ``source`` to ``target``, which is whole or not there; how many there are.

    A line is a SHA-1 in hexadecimal, with a colon and a count or without, or else a password itself. Counts
    below ``least`` are left out. Takes the memory of one ``run``, and beside ``target`` as much disk as it.
    """
    runs: list[BinaryIO] = []
    draft = target.with_name(target.name + ".draft")
    try:
        waiting: list[bytes] = []
        for digest in _digests(source, least):
            waiting.append(digest)
            if len(waiting) >= run:
                runs.append(_spilled(waiting, target.parent))
                waiting.clear()
        waiting.sort()
        count, last = 0, b""
        with draft.open("wb") as file:
            file.write(MARK)
            for digest in heapq.merge(waiting, *map(_read, runs)):
                if digest != last:
                    file.write(digest)
                    count, last = count + 1, digest
        draft.replace(target)
        return count
    finally:
        for spilled in runs:
            spilled.close()
        draft.unlink(missing_ok=True)


def _digests(source: Iterable[bytes], least: int) -> Iterator[bytes]:
    for line in source:
        bare = line.rstrip(b"\r\n")
        found = _LINE.fullmatch(bare)
        if found is not None:
            if found[2] is None or int(found[2]) >= least:
                yield bytes.fromhex(found[1].decode())[:DIGEST]
        elif bare:
            yield leaked_digest(bare.decode("utf-8", "replace"))


def _spilled(digests: list[bytes], folder: Path) -> BinaryIO:
    digests.sort()
    file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed where it is read
    file.write(b"".join(digests))
    file.seek(0)
    return file


def _read(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(DIGEST * 8192):
        for at in range(0, len(block), DIGEST):
            yield block[at : at + DIGEST]
