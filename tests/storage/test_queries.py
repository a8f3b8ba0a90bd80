"""The file of statements: one text for both dialects, or one each."""

from __future__ import annotations

import pytest

from lowtide.storage.db import Query, parse_queries


def test_a_statement_has_a_form_for_each_dialect() -> None:
    """``$1`` is PostgreSQL's form; SQLite gets ``?1``."""
    assert parse_queries("-- name: a\nSELECT $1, $12") == {
        "a": Query("a", "SELECT ?1, ?12", "SELECT $1, $12")
    }


def test_a_variant_replaces_the_text_on_postgres() -> None:
    """``-- postgres`` starts the other text, which ends with the next name."""
    queries = parse_queries("-- name: a\nSELECT 1\n-- postgres\nSELECT 2\n-- name: b\nSELECT 3\n")
    assert queries["a"] == Query("a", "SELECT 1", "SELECT 2")
    assert queries["b"] == Query("b", "SELECT 3", "SELECT 3")


def test_comments_do_not_swallow_what_follows() -> None:
    """A comment on a line of its own is dropped; one behind SQL ends with its line."""
    queries = parse_queries("-- About a.\n-- name: a\n-- Why.\nSELECT 1, -- the first\n  2\n")
    assert queries["a"].sqlite == "SELECT 1, -- the first\n2"


@pytest.mark.parametrize("text", ["'costs $1'", "'it''s $1'", "'$.path'", "$.path"])
def test_text_in_quotes_is_not_a_parameter(text: str) -> None:
    """A dollar in a literal, or before anything but a digit, stays."""
    (query,) = parse_queries(f"-- name: a\nSELECT {text} WHERE $2").values()
    assert query.sqlite == f"SELECT {text} WHERE ?2"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1", "without a name"),
        ("-- postgres\nSELECT 1", "without a name"),
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "two statements"),
        ("-- name: a\n-- name: b\nSELECT 1", "'a' has no text"),
        ("-- name: a\nSELECT 1\n-- postgres\n", "'a' has no text"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, complaint: str) -> None:
    """What could only be a mistake is told when the file is loaded."""
    with pytest.raises(ValueError, match=complaint):
        parse_queries(text)
