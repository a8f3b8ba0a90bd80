"""The tutorial, done as it says: every command, every program, every line that it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.docs.pages import DOCS, Block, blocks, like, same
from tests.docs.story import Story

TUTORIAL = DOCS / "tutorial.md"

IMPORTED = "import { Lowtide } from './lowtide.js';\n"
IMPORTS = "import { once } from 'node:events';\nimport { fileStore, Lowtide, Session } from './lowtide.js';\n"


def play(story: Story, block: Block, before: Block | None) -> bool:
    """Do what a block says; False for one that is not part of the story."""
    match block.language, block.words:
        case "sh", ("tutorial",):
            story.run(block.text)
        case "sh", ("tutorial", name):
            story.start(name, block.text)
        case "text", ("tutorial",):
            shown = block.text.splitlines()
            ended = story.shown.strip().splitlines()[-len(shown) :]
            assert like("\n".join(shown), "\n".join(ended)), story.shown
        case "json", ("tutorial",):
            assert same(json.loads(block.text), json.loads(story.shown)), story.shown
        case "text", ("code", name):
            story.run("cd ..\nlowtide outbox\ncd phone")
            story.programs[name].type(re.findall(r"\d{4} ?\d{4}", story.shown)[0])
        case "text", (name,):
            if before is not None and before.words[1:] == ("eventually",):
                story.programs[name].answers(before.text.strip(), block.text)
            else:
                story.expect(name, block.text)
        case "sql", (name,):
            for line in block.text.splitlines():
                story.programs[name].say(line)
        case "sql", (_, "eventually"):
            pass  # asked until the answer that follows it is there
        case "js", ("account.mjs",):
            phone = (story.folder / "account.mjs").read_text("utf-8")
            program, count = re.subn(r"const lowtide =.*?\}\);\n", lambda _: block.text, phone, flags=re.S)
            assert count == 1
            story.write("account.mjs", f"{IMPORTS}{program.replace(IMPORTED, '')}")
        case "js", (name,):
            story.write(name, block.text)
        case "python", ("part-of-app",):
            assert block.text in (story.folder / "app.py").read_text("utf-8")
        case _:
            return False
    return True


def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    """Two phones, airplane mode, a conflict, a refusal and a revocation, exactly as the page shows them."""
    played = 0
    before = None
    with Story(tmp_path) as story:
        for block in blocks(TUTORIAL):
            try:
                played += play(story, block, before)
            except AssertionError as error:
                raise AssertionError(f"{TUTORIAL.name}:{block.line}: {error}") from error
            before = block
        story.check_packages()
    assert played > 30, "most of the page was not recognised"
