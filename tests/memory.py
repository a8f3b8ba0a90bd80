"""Where tests keep what is thrown away with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FOLDER = Path("/dev/shm")
ROOM = 4 * 1024**3


def memory() -> Path | None:
    """The folder that lies in memory, if programs run there and there is room; None: a disk it is.

    A new PostgreSQL database takes 30 ms there and 330 on a slow disk, a new SQLite database a half.
    """
    if not os.access(FOLDER, os.W_OK) or os.statvfs(FOLDER).f_flag & os.ST_NOEXEC:
        return None
    return FOLDER if shutil.disk_usage(FOLDER).free >= ROOM else None
