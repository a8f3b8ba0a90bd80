"""``@lowtide/client`` as it is handed out: made from its sources, and small."""

from __future__ import annotations

import gzip
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

from tests import client_package
from tests.client_package import FOLDER, ROOT

RUNTIME = ROOT / "src" / "lowtide" / "clients" / "runtime"
MOST = 15_000
"""Bytes of the whole package, minified and compressed."""


def test_what_is_handed_out_is_what_is_written_here(tmp_path: Path) -> None:
    """The two files are those that the sources give. Stale: ``make client``."""
    client_package.build()
    subprocess.run(["node", FOLDER / "bundle.mjs", tmp_path], check=True)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["lowtide.d.ts", "lowtide.js"]
    for name in made:
        assert (RUNTIME / name).read_text("utf-8") == (tmp_path / name).read_text("utf-8"), name


def test_the_client_is_small(tmp_path: Path) -> None:
    """Minified and compressed, with everything that an app may use of it: below 15 KB. It imports nothing."""
    # In a folder without packages whatever it imported would be missing.
    (source := tmp_path / "lowtide.js").write_bytes((RUNTIME / "lowtide.js").read_bytes())
    small = tmp_path / "small.js"
    words = ["--bundle", "--minify", "--format=esm", f"--outfile={small}", "--log-level=warning"]
    subprocess.run([ROOT / "node_modules/.bin/esbuild", source, *words], check=True)
    assert 5_000 < len(gzip.compress(small.read_bytes(), 9)) < MOST


def test_modules_need_each_other_in_no_circle() -> None:
    """Each can be read after those that it imports, types too. ``TopologicalSorter`` refuses a circle."""
    needs = {
        path.stem: re.findall(r"from '\./([\w-]+)\.js'", path.read_text("utf-8"))
        for path in (FOLDER / "src").glob("*.ts")
    }
    order = list(TopologicalSorter(needs).static_order())
    assert order[-1] == "index"
    assert order.index("sign-in") < order.index("session") < order.index("lowtide")
