"""Power cuts: the server's database is on a disk of its own, whose power is cut under load.

The disk is an ext4 on a loop device that is shut down without flushing (``EXT4_IOC_SHUTDOWN``): what was
not synced is gone, as after a power cut. It needs root, loop devices and ``mkfs.ext4``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from random import Random

import msgspec

from tests.crash.load import Load, half_there
from tests.crash.rounds import APP, Broken, miscounted, missing
from tests.server_process import ServerProcess
from tests.storage.disks import PowerDisk, can_mount, power_disk

REASON = "needs root, loop devices and mkfs.ext4, and this machine does not allow or have them"


class Cut(msgspec.Struct, frozen=True):
    """What one power cut left."""

    after: float
    acknowledged: int
    lost: int
    """Acknowledged transactions that are gone. A database that syncs its commits loses none."""
    seconds: float


def possible() -> bool:
    """Whether this machine lets us cut the power of a disk."""
    return can_mount("ext4")


def cut(seed: int, *, fault: str | None = None) -> Cut:
    """A fresh server on a fresh disk, a load, a power cut, and the count.

    Raises ``Broken`` for anything but lost acknowledgements, which are counted: the caller knows whether
    this server was to lose some.
    """
    started = time.monotonic()
    random = Random(seed)
    command = ("-m", "lowtide", "serve") if fault is None else ("-m", "tests.crash.planted", fault)
    with tempfile.TemporaryDirectory(prefix="lowtide-power-") as folder, power_disk(128) as disk:
        settings = {"database": str(disk.folder / "data.db")}
        with (
            ServerProcess(Path(folder), APP, "crash", settings=settings, command=command) as server,
            Load(server, random) as load,
        ):
            after = random.uniform(0.3, 1.2)
            return _cut(server, load, disk, after, started, sure=fault is None)


def _cut(
    server: ServerProcess, load: Load, disk: PowerDisk, after: float, started: float, *, sure: bool
) -> Cut:
    load.do(load.go())
    time.sleep(after)
    # First the processor and then the disk: a sync that is under way when an ext4 is shut down may return as
    # if it had succeeded, and a computer without power would not have told anybody.
    server.freeze()
    disk.cut()
    server.kill()
    load.do(load.rest())
    promised = [made for writer in load.writers for made in writer.acknowledged]
    by_phones = load.acknowledged_on_phones()
    disk.repower()
    server.start()
    if not sure:
        load.renew_tokens()  # it may have lost its keys, too
    content = load.do(load.judge())
    lost = list(missing(content, [made.mark for made in promised if not made.refused] + by_phones))
    wrong = half_there(content)
    if sure and not lost:
        load.do(load.settle())
        settled = load.do(load.judge())
        wrong += half_there(settled)
        wrong += [line for writer in load.writers for line in miscounted(settled, writer)]
        wrong += load.faults()
    if wrong:
        raise Broken("\n".join(wrong[:40]))
    return Cut(after, len(promised) + len(by_phones), len(lost), time.monotonic() - started)
