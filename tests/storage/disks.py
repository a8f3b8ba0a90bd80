"""Disks that fail on purpose: a small one that fills up, and one whose power can be cut.

Both are mounted, which only root may do where the kernel allows it: ``can_mount`` says whether.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# _IOR('X', 125, __u32) of linux/ext4.h; 2 is GOING_FLAGS_NOLOGFLUSH: what was not synced is gone.
_EXT4_SHUTDOWN, _NO_FLUSH = 0x8004587D, 2


@functools.cache
def can_mount(kind: str) -> bool:
    """Whether this machine lets the tests mount a ``tmpfs``, or an ``ext4`` on a loop device."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    try:
        with small_disk(1) if kind == "tmpfs" else power_disk():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A disk with that much room."""
    with tempfile.TemporaryDirectory(prefix="lowtide-disk-") as folder:
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder)
        try:
            yield Path(folder)
        finally:
            _run("umount", "-l", folder)


class PowerDisk:
    """An ext4 file system on a loop device."""

    def __init__(self, folder: Path, image: Path):
        self.folder = folder
        self._image = image

    def cut(self) -> None:
        """Cut the power: nothing reaches the disk any more, and what was not synced is lost."""
        file = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(file, _EXT4_SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(file)

    def repower(self) -> None:
        """Mount what reached the disk. Nobody may have files open."""
        _run("umount", str(self.folder))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.folder))


@contextlib.contextmanager
def power_disk(megabytes: int = 64) -> Iterator[PowerDisk]:
    """A disk whose power can be cut."""
    with tempfile.TemporaryDirectory(prefix="lowtide-power-") as top:
        folder, image = Path(top, "disk"), Path(top, "image")
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-F", str(image))
        disk = PowerDisk(folder, image)
        disk.mount()
        try:
            yield disk
        finally:
            _run("umount", "-l", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
