"""The page on bridges: the programs that it prints are the ones that the acceptance tests run."""

from __future__ import annotations

import pytest

from tests.docs.pages import DOCS, ROOT, blocks


@pytest.mark.parametrize("name", ["watermelon-sync", "rxdb-sync"])
def test_the_program_is_the_one_that_is_tested(name: str) -> None:
    """What a reader copies is, to the letter, what was run against a server."""
    (block,) = [block for block in blocks(DOCS / "bridges.md") if block.words == (name,)]
    assert block.text == (ROOT / "tests/node" / f"{name.replace('-', '_')}.mjs").read_text("utf-8")
