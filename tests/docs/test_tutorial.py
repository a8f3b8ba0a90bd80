"""The tutorial, done as it says: every command, every program, every line that it shows."""

from __future__ import annotations

import json
from pathlib import Path

from tests.docs.pages import DOCS, ROOT, Block, blocks, like, same
from tests.docs.story import Story

TUTORIAL = DOCS / "tutorial.md"


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
        installed = story.installed()
    assert played > 30, "most of the page was not recognised"

    # What the reader installs is what was tested.
    pinned = json.loads((ROOT / "tests/package.json").read_text("utf-8"))["dependencies"]
    assert installed[0] == "install"
    asked_for = dict(word.rsplit("@", 1) for word in installed[1:])
    assert asked_for.keys() <= pinned.keys()
    for name, version in asked_for.items():
        assert pinned[name].lstrip("^").startswith(f"{version}."), name
