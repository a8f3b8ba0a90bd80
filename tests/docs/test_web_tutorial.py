"""The tutorial for the browser: the app that its reader ends up with, and what they see on the way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.acceptance import scenarios
from tests.docs.pages import DOCS, ROOT, blocks
from tests.docs.story import Story
from tests.server_process import ServerProcess

PAGE = DOCS / "web-tutorial.md"
PACKAGES = ("@powersync", "@journeyapps", "comlink")
SOURCES = ["src/app.ts", "src/main.ts", "src/account.ts"]
OPTIONS = {
    "target": "es2023",
    "module": "esnext",
    "moduleResolution": "bundler",
    "lib": ["es2023", "dom", "dom.iterable", "dom.asynciterable"],
    "types": [],
    "strict": True,
    "noUncheckedIndexedAccess": True,
    "skipLibCheck": True,
    "noEmit": True,
}


def test_the_app_of_the_page_is_built_and_used_as_it_says(tmp_path: Path) -> None:
    """Without a network, a sign-in, a merge, a refusal, a sign-out that asks, a page from its cache."""
    found = blocks(PAGE)
    (app,) = [block.text for block in found if block.words == ("web-app",)]
    (setup, page, built) = [block for block in found if block.words[:1] == ("shop",)]
    firsts = [block.text for block in found if block.words == ("first-line",)]
    (tmp_path / "shop.py").write_text(app, "utf-8")
    command = ("-m", "lowtide", "dev")
    with (
        ServerProcess(tmp_path / "app", tmp_path / "shop.py", "shop", command=command) as server,
        Story(tmp_path) as story,
    ):
        (story.folder / "app.py").write_text(app, "utf-8")
        story.run(setup.text)
        story.copy_packages(*PACKAGES)
        files = {
            block.words[0]: block.text.replace("http://127.0.0.1:8420", server.url)
            for block in found
            if block.language in ("html", "js", "ts") and block.words != ("first-line",)
        }
        given = {
            "folder": str(story.folder),
            "files": files,
            "firstLines": firsts,
            "commands": {
                block.words[1]: block.text.replace("npx", str(story.tools / "npx")) for block in (page, built)
            },
            "shows": [block.text for block in found if block.words == ("shows",)],
            "gone": next(block.text for block in found if block.words == ("gone",)),
        }
        seen = scenarios.run("web_tutorial", server, tmp_path, given=given)
        assert seen == {"asked": 2, "faults": []}

        # The types hold, too: Vite does not look at them.
        (story.folder / "tsconfig.json").write_text(
            json.dumps({"compilerOptions": OPTIONS, "files": SOURCES}), "utf-8"
        )
        compiled = subprocess.run(
            [ROOT / "node_modules/.bin/tsc"], cwd=story.folder, capture_output=True, text=True, check=False
        )
        assert compiled.returncode == 0, compiled.stdout
        story.check_packages()
