"""What a list is asked for, given anything: filters down to their SQL, sort orders, cursors."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.kernel.errors import BadFilter, Malformed
from lowtide.records.conditions import columns, condition, fixed
from lowtide.records.filters import parse
from lowtide.records.ordering import (
    MAX_CURSOR_LENGTH,
    after_sql,
    cursor_text,
    cursor_values,
    fingerprint,
    order_sql,
    ordered,
)
from lowtide.storage.db import Dialect
from tests.fuzz.bounds import answers, is_linear, thorough
from tests.records.app import SCHEMA

TASK = SCHEMA.models["task"]
KNOWN = columns(TASK)
MARK = fingerprint("task", None, None)
names = st.sampled_from([*KNOWN, "nope", "ID", "r.data", "id--", "not", "in", ""])
literals = st.sampled_from(
    [
        *("null", "true", "false", "0", "-1", "1.5", "1e308", "1e999", "9" * 30, "-0", "0x1", "1_0", "nan"),
        *('"a"', "'a'", '""', "'", '"', '"\\', '"\\x"', "'\\''", '"\0"', '"\ud800"', "''';--", '"%_*"'),
        *(
            '"2026-11-22T00:00:00Z"',
            '"2026-02-30T00:00:00Z"',
            '"9999-12-31T23:59:60Z"',
            '"' + "z" * 200 + '"',
        ),
    ]
)
operators = st.sampled_from(
    ["=", "!=", "<", "<=", ">", ">=", "~", "==", "<>", "in", "not in", "like", "is", ""]
)
joints = st.sampled_from([" and ", " or ", " not ", "(", ")", ",", " ", "", ";", "\n", "--", "/*"])
comparisons = st.tuples(names, operators, literals).map(" ".join) | st.tuples(
    names, st.lists(literals, max_size=4).map(lambda values: f" in ({', '.join(values)})")
).map("".join)
fitting = st.sampled_from(
    [
        *("title = 'a'", "title != null", "title ~ '%_*'", "title in ('a', '')", "title not in ('a')"),
        *(
            "estimate > 1",
            "estimate in (1, -2, 9007199254740993)",
            "price <= 1.5e300",
            "price = -0",
            "urgent = true",
        ),
        *("tags ~ 'x'", "id > ''", "created < '2026-11-22T00:00:00Z'", "updated != null", "votes >= 0"),
    ]
)
joined = st.tuples(
    st.lists(
        st.sampled_from(["", "not ", "(", "not ("]).flatmap(
            lambda before: fitting.map(lambda text: before + text + ")" * before.count("("))
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([" and ", " or ", "  AND ", " and\n"]),
).map(lambda parts: parts[1].join(parts[0]))
filters = joined | st.text(max_size=60) | st.lists(comparisons | joints, max_size=9).map("".join)
dialects = st.sampled_from(["sqlite", "postgres"])
sorts = st.text(max_size=20) | st.lists(
    st.tuples(st.sampled_from(["", "-", "--", " ", "+"]), names).map("".join), max_size=6
).map(",".join)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["x" * 2000, "\0", 2**63, -(2**63), 2**1024, [], {}])
)


def sent(values: Any) -> str:
    """A cursor made by hand, with a right mark."""
    return base64.urlsafe_b64encode(json.dumps([MARK, values]).encode()).decode()


word = st.none() | st.text(max_size=4)
number = st.none() | st.integers(-(2**64), 2**64) | st.floats()
shapes = {
    "id": (word,),
    "-created,id": (number, word),
    "title": (word, word),
    "-price": (number, word),
    "estimate,urgent": (number, number | st.booleans(), word),
}
cursors = (
    st.text(max_size=60)
    | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
    | st.lists(scalars, max_size=4).map(sent)
)
places = st.sampled_from(list(shapes)).flatmap(
    lambda sort: st.tuples(st.just(sort), cursors | st.tuples(*shapes[sort]).map(sent))
)


def read(text: str, dialect: Dialect) -> tuple[str, list[Any]]:
    """The SQL of a filter and what it binds."""
    parameters: list[Any] = []

    def add(value: Any) -> str:
        parameters.append(value)
        return f"${len(parameters)}"

    node = parse(text)
    sql = condition(node, KNOWN, dialect, add)
    fixed(node, KNOWN)
    return sql, parameters


class TestFilters:
    @thorough
    @given(filters, dialects)
    def test_any_filter_is_sql_or_refused(self, text: str, dialect: Dialect) -> None:
        """SQL and values that a database can take, or a refusal with a place in the text."""
        found = answers(lambda: read(text, dialect), BadFilter)
        if isinstance(found, BadFilter):
            assert 0 <= found.details["position"] <= len(text)
            return
        sql, parameters = found
        assert all(f"${n}" in sql for n in range(1, len(parameters) + 1))
        for value in parameters:
            assert isinstance(value, str | int | float)
            if isinstance(value, int):
                assert -(2**63) <= value < 2**63

    @thorough
    @given(st.text(st.sampled_from("'\";-\\ )(aé%"), max_size=12), dialects)
    def test_no_text_of_a_client_gets_into_the_sql(self, text: str, dialect: Dialect) -> None:
        """The same filter with another text is the same SQL: texts are bound, whatever they hold."""
        literal = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for shape in ("title = {}", "title != {} or notes ~ {}", "title in ({}, {})", "tags ~ {}"):
            sql, parameters = read(shape.format(literal, literal), dialect)
            assert sql == read(shape.format('"x"', '"x"'), dialect)[0]
            assert parameters

    @pytest.mark.parametrize("part", ["not ", "(", "title = 'x' and ", "'", "title in (", "1,", '"\\"', "~"])
    def test_a_long_filter_costs_its_length(self, part: str) -> None:
        """Steps grow with the text, not with its square, whether it is a filter or none."""
        assert is_linear(lambda n: lambda: parse(part * n), 100)

    @thorough
    @given(st.integers(0, 4000), st.sampled_from(["(", "not ", "title = 1 and ", "title in (1,"]))
    def test_limits_are_refusals(self, count: int, part: str) -> None:
        """However deep or long: a BadFilter, and never a stack that overflows."""
        assert isinstance(answers(lambda: parse(part * count), BadFilter), BadFilter)


class TestSorting:
    @thorough
    @given(sorts, dialects)
    def test_any_sort_is_an_order_or_refused(self, sort: str, dialect: Dialect) -> None:
        """Known columns, the last of them unique; or malformed."""
        keys = answers(lambda: ordered(sort, KNOWN), Malformed)
        if isinstance(keys, tuple):
            assert keys[-1].unique
            assert len({key.column.name for key in keys}) == len(keys)
            assert order_sql(keys, dialect)


class TestCursors:
    @thorough
    @given(places, dialects)
    def test_any_cursor_is_read_or_refused(self, place: tuple[str, str], dialect: Dialect) -> None:
        """Values that the order's columns can be compared with, or malformed."""
        sort, cursor = place
        keys = ordered(sort, KNOWN)
        found = answers(lambda: cursor_values(cursor, MARK, keys), Malformed)
        if isinstance(found, Malformed):
            return
        assert len(found) == len(keys)
        for value in found:
            assert value is None or isinstance(value, str | int | float)
            assert value == value, "not NaN"
            if isinstance(value, str):
                assert "\0" not in value
                value.encode()
        assert after_sql(keys, [value is None for value in found], dialect, lambda i: f"${i}")

    @thorough
    @given(
        st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60)
    )
    def test_a_cursor_that_was_given_out_is_read(self, created: int, id: str) -> None:
        """It brings back what it was made of, and fits no other list."""
        keys = ordered("-created,id", KNOWN)
        cursor = cursor_text(MARK, [created, id])
        assert cursor_values(cursor, MARK, keys) == [created, id]
        other = fingerprint("task", "title = 'x'", None)
        assert isinstance(answers(lambda: cursor_values(cursor, other, keys), Malformed), Malformed)

    @thorough
    @given(st.integers(1, 60), st.integers(0, 255))
    def test_a_cursor_that_was_changed_is_read_or_refused(self, place: int, value: int) -> None:
        """One byte of a good cursor changed: nothing but malformed, or values of the same types."""
        good = cursor_text(MARK, [7, "record"])
        raw = bytearray(good.encode())
        raw[place % len(raw)] = value
        found = answers(
            lambda: cursor_values(raw.decode("latin-1"), MARK, ordered("-created,id", KNOWN)), Malformed
        )
        if isinstance(found, list):
            created, id = found
            assert isinstance(created, int)
            assert isinstance(id, str)

    def test_a_long_cursor_is_not_looked_at(self) -> None:
        """Its length alone refuses it."""
        with pytest.raises(Malformed, match="longer"):
            cursor_values("A" * (MAX_CURSOR_LENGTH + 1), MARK, ordered(None, KNOWN))
