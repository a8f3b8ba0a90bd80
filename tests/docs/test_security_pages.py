"""What the security pages name is there: every test, every command, every address."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from lowtide.cli import build_parser
from tests.docs.pages import DOCS, ROOT

PAGES = sorted((DOCS / "security").glob("*.md"))
_TEST = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)*)`")
_COMMAND = re.compile(r"(?:`|^)(lowtide [a-z][^`\n#]*)", re.MULTILINE)


def named(pattern: re.Pattern[str]) -> list[tuple[str, ...]]:
    return sorted({found for page in PAGES for found in pattern.findall(page.read_text("utf-8"))})


def test_the_pages_are_there() -> None:
    """Playbook, threat model, runbooks and audit log, naming a fair number of proofs."""
    assert [page.stem for page in PAGES] == ["audit", "incidents", "playbook", "threat-model"]
    assert len(named(_TEST)) > 30


@pytest.mark.parametrize(("file", "names"), named(_TEST))
def test_each_test_that_proves_something_exists(file: str, names: str) -> None:
    """A proof that was renamed or removed fails here, by its name."""
    path = ROOT / file
    assert path.is_file()
    nodes: list[ast.stmt] = ast.parse(path.read_text("utf-8")).body
    for name in names.split("::")[1:]:
        inside = [
            node
            for node in nodes
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
        ]
        assert inside, f"{file}{names}"
        nodes = inside[0].body


@pytest.mark.parametrize(
    "command", sorted({text for page in PAGES for text in _COMMAND.findall(page.read_text("utf-8"))})
)
def test_each_command_can_be_typed(command: str) -> None:
    """The command line reads it."""
    typed, _, _ = command.partition(" > ")  # where its output goes is the shell's to read
    words = shlex.split(typed.replace('"$(cat /srv/audit.key)"', "KEY"))
    build_parser().parse_args(words[1:])


def test_the_sections_are_in_the_order_of_use() -> None:
    """The playbook goes from the first deployment to every year."""
    text = Path(DOCS / "security/playbook.md").read_text("utf-8")
    wanted = ["Before the first deployment", "Identities", "Data rules", "Network edge", "Secrets"]
    wanted += ["Mobile client", "Monitoring and audit", "Incident response", "Every year"]
    assert [head for head in re.findall(r"^## (.+)$", text, re.MULTILINE) if head in wanted] == wanted
