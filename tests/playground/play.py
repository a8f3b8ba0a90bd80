"""The playground played by a program in Chromium, for tests that look at what it saw."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
Seen = dict[str, Any]


def play(program: str, folder: Path) -> Seen:
    """What ``tests/node/<program>.mjs`` saw of the app that 'lowtide new' writes, served by 'lowtide dev'."""
    template = ROOT / "src/lowtide/templates/app.py"
    with ServerProcess(folder, template, "starter", command=("-m", "lowtide", "dev")) as server:
        command = ["node", str(ROOT / f"tests/node/{program}.mjs"), server.url]
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
        assert run.returncode == 0, run.stderr[-6000:]
        assert "Traceback" not in server.log()
    seen: Seen = json.loads(run.stdout)
    return seen
