"""``@lowtide/client`` as its users have it: compiled."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "clients" / "typescript"


def build() -> Path:
    """The folder of the compiled package; compiled first if a source is newer. Safe in several processes."""
    made = FOLDER / "dist" / "index.js"
    sources = [FOLDER / "tsconfig.json", *(FOLDER / "src").glob("*.ts")]
    with (FOLDER / "tsconfig.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        newest = max(source.stat().st_mtime for source in sources)
        if not made.exists() or made.stat().st_mtime < newest:
            subprocess.run([ROOT / "node_modules/.bin/tsc", "-p", FOLDER], check=True)
            made.touch()
    return made.parent
