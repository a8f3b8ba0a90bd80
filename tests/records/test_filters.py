"""The filter language: what it reads, what it refuses, and what it means on both databases."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowtide.kernel.errors import BadFilter
from lowtide.kernel.schema import Model
from lowtide.kernel.values import coerce_fields, complete
from lowtide.records.conditions import columns, condition
from lowtide.records.filters import (
    MAX_FILTER_DEPTH,
    MAX_FILTER_LENGTH,
    MAX_FILTER_TERMS,
    MAX_FILTER_VALUES,
    And,
    Compare,
    In,
    Node,
    Not,
    Or,
    parse,
    show,
)
from lowtide.storage.db import Database, Dialect, Query, Tx
from lowtide.storage.db.migrate import Component, migrate
from tests.records.app import SCHEMA

TASK = SCHEMA.models["task"]
KNOWN = columns(TASK)


def plain(node: Node) -> Node:
    """The tree without the places in its text."""
    match node:
        case Compare() | In():
            return msgspec.structs.replace(node, at=0)
        case Not():
            return Not(plain(node.item))
        case And() | Or():
            return type(node)(tuple(map(plain, node.items)))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a=1", Compare("a", "=", 1)),
        (" a  >=  -1.5e3 ", Compare("a", ">=", -1500.0)),
        ("a != 'it\\'s'", Compare("a", "!=", "it's")),
        ('a ~ "x\\n\\\\\\""', Compare("a", "~", 'x\n\\"')),
        ("a = null", Compare("a", "=", None)),
        ("true = true", Compare("true", "=", True)),
        ("a in (1)", In("a", (1,))),
        ("a not in (1,'x')", Not(In("a", (1, "x")))),
        ("a=1 and b=2 and c=3", And((Compare("a", "=", 1), Compare("b", "=", 2), Compare("c", "=", 3)))),
        ("a=1 or b=2 and c=3", Or((Compare("a", "=", 1), And((Compare("b", "=", 2), Compare("c", "=", 3)))))),
        ("not a=1 and b=2", And((Not(Compare("a", "=", 1)), Compare("b", "=", 2)))),
        ("not (a=1 or b=2)", Not(Or((Compare("a", "=", 1), Compare("b", "=", 2))))),
        ("((a=1))", Compare("a", "=", 1)),
        ("a=9223372036854775807", Compare("a", "=", 2**63 - 1)),
    ],
)
def test_a_filter_is_read_by_its_grammar(text: str, tree: Node) -> None:
    """'and' binds closer than 'or', 'not' closest; literals have a type of their own."""
    assert plain(parse(text)) == tree


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("a", 1),
        ("a == 1", 3),
        ("a = ", 4),
        ("a = b", 4),
        ("(a=1", 4),
        ("a=1)", 3),
        ("a=1 b=2", 4),
        ("a in ()", 6),
        ("a in (1", 7),
        ("a = 1;", 5),
        ("a = 12x", 4),
        ("a = 1e999", 4),
        ("a = 9223372036854775808", 4),
        ("a = 'x", 4),
        ("a = 'x\\q'", 4),
        ("a = 'x\0'", 4),
        ("and = 1", 0),
        ("a.b = 1", 1),
        ("a = 1 or", 8),
        ("a not 1", 6),
        ("é = 1", 0),
        ("a = TRUE", 4),
        ("(" * (MAX_FILTER_DEPTH + 1) + "a=1", MAX_FILTER_DEPTH + 1),
        ("not " * (MAX_FILTER_DEPTH + 1) + "a=1", 4 * (MAX_FILTER_DEPTH + 1)),
    ],
)
def test_what_is_no_filter_is_refused_with_its_place(text: str, position: int) -> None:
    """The position is where it goes wrong, in characters from the start."""
    with pytest.raises(BadFilter) as caught:
        parse(text)
    assert caught.value.details["position"] == position


def test_a_filter_is_bounded() -> None:
    """By its length, its comparisons, its values and its depth: at the bound read, beyond it refused."""
    terms = ["a=1"] * MAX_FILTER_TERMS
    parse(" or ".join(terms))
    values = ",".join(["1"] * MAX_FILTER_VALUES)
    parse(f"a in ({values})")
    parse("(" * MAX_FILTER_DEPTH + "a=1" + ")" * MAX_FILTER_DEPTH)
    parse("a=1".ljust(MAX_FILTER_LENGTH))
    for text in (
        " or ".join([*terms, "a=1"]),
        f"a in ({values},1)",
        "a=1".ljust(MAX_FILTER_LENGTH + 1),
        "(" * 3_000 + "a=1" + ")" * 900,
        "not " * 900 + "a=1",
    ):
        with pytest.raises(BadFilter):
            parse(text)


NAMES = [
    "title", "notes", "remark", "team_id", "votes", "estimate", "price", "urgent", "approved", "due", "tags",
    "steps", "extra", "id", "created", "updated",
]  # fmt: skip
TEXTS = st.text(st.sampled_from("aAbBéÉß'\"\\%_ \n0\U0001f600"), max_size=4)
NUMBERS = st.floats(-1e6, 1e6).map(lambda number: round(number, 3))
INTEGERS = st.integers(-5, 5) | st.sampled_from([2**63 - 1, -(2**63)])
TIMES = st.integers(0, 40).map(lambda days: f"2026-{days // 28 + 1:02}-{days % 28 + 1:02}T08:00:00.000Z")
LITERALS: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "integer": INTEGERS,
    "number": NUMBERS | st.integers(-3, 3),
    "boolean": st.booleans(),
    "timestamp": TIMES,
    "moment": TIMES,
}
ELEMENTS = st.sampled_from(["a", "A", "b", "1"]) | st.integers(0, 2) | st.booleans() | st.just(1.5)


@st.composite
def comparisons(draw: st.DrawFn) -> Node:
    name = draw(st.sampled_from(NAMES))
    kind = KNOWN[name].kind
    if draw(st.integers(0, 5)) == 0:
        return Compare(name, draw(st.sampled_from(["=", "!="])), None)
    if kind == "json":
        return Compare(name, "=", None)
    if kind == "items":
        return Compare(name, "~", draw(ELEMENTS))
    literal = LITERALS[kind]
    if draw(st.integers(0, 4)) == 0:
        return In(name, tuple(draw(st.lists(literal, min_size=1, max_size=3))))
    operators = ["=", "!="] if kind == "boolean" else ["=", "!=", "<", "<=", ">", ">="]
    if kind == "text":
        operators.append("~")
    return Compare(name, draw(st.sampled_from(operators)), draw(literal))


TREES = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda items: And(tuple(items))),
        st.lists(inner, min_size=2, max_size=3).map(lambda items: Or(tuple(items))),
    ),
    max_leaves=6,
)


@given(TREES)
def test_a_printed_filter_reads_the_same(tree: Node) -> None:
    """``parse(show(tree))`` is ``tree``."""
    assert plain(parse(show(tree))) == tree


@given(st.text(max_size=60) | st.text(st.sampled_from("ab=<>~!()'\"\\ ,.1-eandorti\0\ud800"), max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Whatever is sent is a filter or a BadFilter."""
    position = 0
    try:
        tree = parse(text)
    except BadFilter as error:
        position = error.details["position"]
    else:
        assert plain(parse(show(tree))) == plain(tree)
    assert 0 <= position <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "nope = 1",
        "password = 'x'",
        "title = 1",
        "title < null",
        "estimate = '1'",
        "estimate = 1.5",
        "estimate = true",
        "price = 'x'",
        "urgent = 1",
        "urgent < true",
        "due = 'yesterday'",
        "due = 5",
        "due ~ '2026'",
        "created > 1",
        "extra = 'x'",
        "extra ~ 'x'",
        "tags = 'a'",
        "tags in ('a')",
        "estimate ~ 1",
        "title in ('a', null)",
        "title ~ 5",
        "title ~ null",
    ],
)
def test_a_literal_has_the_type_of_its_field(text: str) -> None:
    """What does not fit is refused with its place, and no database is asked."""
    with pytest.raises(BadFilter) as caught:
        condition(parse(text), KNOWN, "sqlite", lambda value: "?")
    assert "position" in caught.value.details


# What a filter means.


def fold(text: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in text)


def same_element(found: Any, wanted: Any) -> bool:
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def holds(node: Node, record: dict[str, Any]) -> bool:
    """The meaning of a filter, in plain Python, on a record as it is answered."""
    match node:
        case And():
            return all(holds(item, record) for item in node.items)
        case Or():
            return any(holds(item, record) for item in node.items)
        case Not():
            return not holds(node.item, record)
        case In():
            return any(holds(Compare(node.name, "=", value), record) for value in node.values)
    value, wanted = record[node.name], node.value
    if node.op == "!=":
        return not holds(Compare(node.name, "=", wanted), record)
    if wanted is None:
        return value is None
    if value is None:
        return False
    if node.op == "~":
        if isinstance(value, list):
            return any(same_element(item, wanted) for item in value)
        return fold(str(wanted)) in fold(value)
    outcomes: dict[str, bool] = {
        "=": value == wanted,
        "<": value < wanted,
        "<=": value <= wanted,
        ">": value > wanted,
        ">=": value >= wanted,
    }
    return outcomes[node.op]


RECORDS = st.fixed_dictionaries(
    {"title": TEXTS, "team_id": st.sampled_from(["red", "blue"])},
    optional={
        "notes": TEXTS,
        "votes": INTEGERS,
        "estimate": INTEGERS,
        "price": NUMBERS,
        "urgent": st.booleans(),
        "approved": st.booleans(),
        "due": TIMES,
        "tags": st.lists(ELEMENTS, max_size=3),
        "steps": st.lists(ELEMENTS | st.just(["a"]), max_size=3),
        "extra": st.just({"a": 1}),
    },
)


def stored(model: Model, number: int, given: dict[str, Any], created: str) -> tuple[tuple[Any, ...], Any]:
    """(the parameters of an insert, the record as it is answered)"""
    data = complete(model, coerce_fields(model, given))
    text = msgspec.json.encode({**data, "remark": data["notes"]}).decode()
    moment = msgspec.convert(created, type=__import__("datetime").datetime)
    at = int(moment.timestamp()) * 1000
    shown: dict[str, Any] = dict(data)
    for name in ("urgent", "approved"):
        shown[name] = None if data[name] is None else bool(data[name])
    for name in ("tags", "steps"):
        shown[name] = None if data[name] is None else msgspec.json.decode(str(data[name]))
    shown |= {"remark": data["notes"], "id": f"r{number}", "created": created, "updated": created}
    return ("main", "task", f"r{number}", text, "{}", 0, number, at, at), shown


INSERT = Query(
    "insert",
    "INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    "INSERT INTO record VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
)
CLEAR = Query("clear", "DELETE FROM record", "DELETE FROM record")


@pytest.mark.anyio
async def test_a_filter_means_the_same_on_both_databases_and_in_python(
    database: Database, dialect: Dialect, clock: Any
) -> None:
    """Random records and filters: the SQL lets through exactly what plain Python does."""
    components = [Component("jobs", "lowtide.storage.jobs"), Component("sync", "lowtide.sync")]
    await migrate(database, components, clock)
    drawn: list[tuple[list[dict[str, Any]], list[str], list[Node]]] = []

    @settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(
        st.lists(RECORDS, min_size=3, max_size=12),
        st.lists(TIMES, min_size=12, max_size=12),
        st.lists(TREES, min_size=8, max_size=8),
    )
    def draw(records: list[dict[str, Any]], times: list[str], trees: list[Node]) -> None:
        drawn.append((records, times, trees))

    draw()
    kept = 0
    for records, times, trees in drawn:
        rows = [stored(TASK, i, given, times[i]) for i, given in enumerate(records)]

        async def work(tx: Tx, rows: Any = rows, trees: list[Node] = trees) -> list[set[str]]:
            await tx.execute(CLEAR)
            await tx.execute_many(INSERT, [row for row, _ in rows])
            found = []
            for tree in trees:
                parameters: list[Any] = []

                def add(value: Any, parameters: list[Any] = parameters) -> str:
                    parameters.append(value)
                    return f"${len(parameters)}"

                sql = f"SELECT r.id FROM record r WHERE {condition(tree, KNOWN, dialect, add)}"
                query = Query("filter", sql.replace("$", "?"), sql)
                found.append({row[0] for row in await tx.fetch(query, *parameters)})
            return found

        for tree, found in zip(trees, await database.write(work), strict=True):
            expected = {shown["id"] for _, shown in rows if holds(tree, shown)}
            assert found == expected, (show(tree), [shown for _, shown in rows])
            kept += bool(expected) and len(expected) < len(rows)
    assert kept > 40, "the filters let some through and others not"
    assert list(itertools.chain.from_iterable(d[2] for d in drawn))
