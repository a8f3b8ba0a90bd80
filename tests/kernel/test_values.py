"""What a field takes, what it becomes on the wire, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from lowtide.kernel.schema import Field, Kind, MergeRule
from lowtide.kernel.values import coerce, decode

MOMENT = "2026-01-02T03:04:05.678Z"


def field(kind: Kind, merge: MergeRule = "latest", max_length: int | None = None) -> Field:
    """A field of this kind."""
    return Field(name="f", kind=kind, merge=merge, max_length=max_length)


@pytest.mark.parametrize(
    ("declared", "value", "wire"),
    [
        (field("text"), "ü🍇", "ü🍇"),
        (field("text", max_length=2), "🍇🍇", "🍇🍇"),
        (field("integer"), -(2**63), -(2**63)),
        (field("integer"), 2.0, 2),
        (field("integer"), True, 1),
        (field("integer"), "-12", -12),
        (field("number"), 3, 3.0),
        (field("number"), -0.0, 0.0),
        (field("number"), "2.5e3", 2500.0),
        (field("boolean"), True, 1),
        (field("boolean"), 0, 0),
        (field("boolean"), "1", 1),
        (field("timestamp"), "2026-01-02T04:04:05.6789+01:00", MOMENT),
        (field("timestamp"), "2026-01-02", "2026-01-02T00:00:00.000Z"),
        (field("timestamp"), 1767323045678, MOMENT),
        (field("timestamp"), datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC), MOMENT),
        (field("json"), {"b": 1, "a": [None]}, '{"a":[null],"b":1}'),
        (field("json"), '{ "b": 1 }', '{"b":1}'),
        (field("json", "set"), ["b", "a", "b"], '["b","a"]'),
        (field("json", "list"), "[2, 1, 2]", "[2,1,2]"),
    ],
)
def test_equal_values_are_equal_bytes(declared: Field, value: object, wire: Any) -> None:
    """However a value is written, it has one form; and that form is taken again as it is."""
    made = coerce(declared, value)
    assert made == wire
    assert type(made) is type(wire)
    assert coerce(declared, made) == wire
    assert coerce(declared, decode(declared, made)) == wire


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (field("text"), 5),
        (field("text"), "a\x00b"),
        (field("text"), "\ud800"),
        (field("text", max_length=2), "abc"),
        (field("integer"), 2**63),
        (field("integer"), 2.5),
        (field("integer"), "2.5"),
        (field("integer"), "9" * 19),
        (field("integer"), "9" * 100),
        (field("integer"), " 1"),
        (field("integer"), "\u0661"),
        (field("number"), "nan"),
        (field("number"), float("inf")),
        (field("number"), "1e999"),
        (field("number"), 10**400),
        (field("number"), True),
        (field("boolean"), 2),
        (field("boolean"), "yes"),
        (field("timestamp"), "soon"),
        (field("timestamp"), 10**18),
        (field("timestamp"), True),
        (field("json"), "{"),
        (field("json"), {"a": "\x00"}),
        (field("json"), {"a": float("nan")}),
        (field("json", max_length=5), {"a": "long"}),
        (field("json", "set"), {"a": 1}),
        (field("json", "list"), "5"),
    ],
)
def test_what_does_not_fit_is_refused_in_plain_words(declared: Field, value: object) -> None:
    """And is nothing but a ValueError."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the kind of error is the rule
        coerce(declared, value)
    assert str(refused.value)
    assert "Traceback" not in str(refused.value)
