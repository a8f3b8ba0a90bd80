"""``compare`` tells what a new schema does to the devices in the field and to stored records."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide import (
    App,
    Attachment,
    Boolean,
    Counter,
    Integer,
    Json,
    List,
    Number,
    Reference,
    Set,
    Text,
    Timestamp,
    anyone,
    both,
    claim,
    either,
    everyone,
    me,
    member,
    nobody,
    owner,
    parameter,
    removed,
)
from lowtide.declare.evolve import compare, snapshot, stale_models
from lowtide.kernel.errors import NewerDatabase, SetupError
from lowtide.kernel.schema import Field, Model, Schema


def resolve(base: Any, mine: Any, theirs: Any, context: Any) -> Any:
    return mine


async def call(ctx: Any, days: int) -> None: ...


async def call_more(ctx: Any, days: int, strict: bool) -> None: ...


async def call_gently(ctx: Any, days: int, strict: bool = False) -> None: ...


async def call_less(ctx: Any) -> None: ...


async def call_text(ctx: Any, days: str) -> None: ...


OLD_FIELDS = {"title": Text(), "team_id": Text(), "user_id": Text()}


def app(
    fields: dict[str, Any] | None = None,
    *,
    name: str = "tasks",
    write: Any = anyone,
    model: str = "task",
    streams: list[dict[str, Any]] | None = None,
    functions: dict[str, Any] | None = None,
    **options: Any,
) -> Schema:
    """A schema of one model with three usual fields, ``fields`` and one stream for everyone."""
    declared = App(name)
    attributes = {k: v for k, v in {**OLD_FIELDS, **(fields or {})}.items() if v is not None}
    task = type("Task", (), {**attributes, "write": write})
    declared.model(name=model, **options)(task)
    for stream in [{"name": "all", "carries": [task]}] if streams is None else streams:
        given = dict(stream)
        given["carries"] = {task: given["by"]} if "by" in given else [task]
        given.pop("by", None)
        if callable(given.get("keys")):
            given["keys"] = given["keys"](task)
        declared.stream(**given)
    for function, code in (functions or {}).items():
        declared.function(name=function)(code)
    return declared.compile()


def teams(task: Any) -> Any:
    return task.where(user_id=me).team_id


def crews(task: Any) -> Any:
    return task.where(user_id=me).crew_id


TEAM = {"name": "team", "by": "team_id", "keys": teams}

# What was deployed, what is declared now, and every change: (severity, code, subject).
FIELD_ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str, str]]]] = {
    "an optional field is new": ({}, {"x": Text(optional=True)}, [("ok", "field-added", "task.x")]),
    "a field with a default is new": ({}, {"x": Text(default="")}, [("ok", "field-added", "task.x")]),
    "a boolean is new": ({}, {"x": Boolean()}, [("ok", "field-added", "task.x")]),
    "a counter is new": ({}, {"x": Counter()}, [("ok", "field-added", "task.x")]),
    "a set is new": ({}, {"x": Set()}, [("ok", "field-added", "task.x")]),
    "a required field is new": ({}, {"x": Text()}, [("refuse", "field-required", "task.x")]),
    "a required server-only field is new": (
        {},
        {"x": Integer(server_only=True)},
        [("refuse", "field-required", "task.x")],
    ),
    "a field is gone": ({"x": Text()}, {}, [("refuse", "field-removed", "task.x")]),
    "an optional field is gone": ({"x": Text(optional=True)}, {}, [("refuse", "field-removed", "task.x")]),
    "a field is declared as removed": (
        {"x": Text()},
        {"x": removed(Text())},
        [("warn", "field-retired", "task.x")],
    ),
    "a field is removed with a default": (
        {"x": Text()},
        {"x": removed(Text(default="-"))},
        [("ok", "field-retired", "task.x")],
    ),
    "a boolean is removed": (
        {"x": Boolean()},
        {"x": removed(Boolean())},
        [("ok", "field-retired", "task.x")],
    ),
    "a removed field is dropped": ({"x": removed(Text())}, {}, [("warn", "field-dropped", "task.x")]),
    "a removed field is back, optional": (
        {"x": removed(Text())},
        {"x": Text(optional=True)},
        [("ok", "field-back", "task.x")],
    ),
    "a removed field is back, required": (
        {"x": removed(Text())},
        {"x": Text()},
        [("refuse", "field-required", "task.x"), ("ok", "field-back", "task.x")],
    ),
    "a removed field has another kind": (
        {"x": Text()},
        {"x": removed(Integer(default=0))},
        [("refuse", "kind-changed", "task.x"), ("ok", "field-retired", "task.x")],
    ),
    "a field is renamed": ({"x": Text()}, {"y": Text(renamed_from="x")}, [("ok", "field-renamed", "task.y")]),
    "a field is renamed without saying so": (
        {"x": Text()},
        {"y": Text()},
        [("refuse", "field-removed", "task.x"), ("refuse", "field-required", "task.y")],
    ),
    "a field is renamed and has another kind": (
        {"x": Text()},
        {"y": Boolean(renamed_from="x")},
        [
            ("refuse", "kind-changed", "task.y"),
            ("ok", "default-changed", "task.y"),
            ("ok", "field-renamed", "task.y"),
        ],
    ),
    "a former name is dropped": (
        {"y": Text(renamed_from="x")},
        {"y": Text()},
        [("refuse", "former-name-dropped", "task.y")],
    ),
    "a field is renamed twice": (
        {"y": Text(renamed_from="x")},
        {"z": Text(renamed_from="y")},
        [("refuse", "former-name-dropped", "task.z"), ("ok", "field-renamed", "task.z")],
    ),
    "a renamed field stays": ({"y": Text(renamed_from="x")}, {"y": Text(renamed_from="x")}, []),
    "an integer becomes a number": ({"x": Integer()}, {"x": Number()}, [("warn", "kind-widened", "task.x")]),
    "a number becomes an integer": (
        {"x": Number()},
        {"x": Integer()},
        [("refuse", "kind-changed", "task.x")],
    ),
    "a boolean becomes an integer": (
        {"x": Boolean()},
        {"x": Integer(default=0)},
        [("warn", "kind-widened", "task.x")],
    ),
    "a text becomes a boolean": (
        {"x": Text(default="")},
        {"x": Boolean()},
        [("refuse", "kind-changed", "task.x"), ("ok", "default-changed", "task.x")],
    ),
    "a text becomes a time": ({"x": Text()}, {"x": Timestamp()}, [("refuse", "kind-changed", "task.x")]),
    "a text becomes an attachment": (
        {"x": Text()},
        {"x": Attachment()},
        [("refuse", "kind-changed", "task.x")],
    ),
    "a text becomes a reference": (
        {"x": Text()},
        {"x": Reference("Task")},
        [("ok", "kind-changed", "task.x")],
    ),
    "a reference becomes a text": (
        {"x": Reference("Task")},
        {"x": Text()},
        [("ok", "kind-changed", "task.x")],
    ),
    "the largest becomes a counter": (
        {"x": Integer(merge="max", default=0)},
        {"x": Counter()},
        [("warn", "merge-changed", "task.x")],
    ),
    "the later becomes a resolver": (
        {"x": Text()},
        {"x": Text(merge=resolve)},
        [("warn", "merge-changed", "task.x")],
    ),
    "text becomes a Yjs document": (
        {"x": Text(optional=True)},
        {"x": Text(merge="collaborative", optional=True)},
        [("refuse", "merge-changed", "task.x")],
    ),
    "a Yjs document becomes text": (
        {"x": Text(merge="collaborative", optional=True)},
        {"x": Text(merge="text", optional=True)},
        [("refuse", "merge-changed", "task.x")],
    ),
    "JSON becomes a set": (
        {"x": Json(default=[])},
        {"x": Set()},
        [("refuse", "merge-changed", "task.x")],
    ),
    "a set becomes a list": ({"x": Set()}, {"x": List()}, [("warn", "merge-changed", "task.x")]),
    "a list becomes a set": ({"x": List()}, {"x": Set()}, [("warn", "merge-changed", "task.x")]),
    "a list becomes JSON": ({"x": List()}, {"x": Json(default=[])}, [("warn", "merge-changed", "task.x")]),
    "only the server writes it from now on": (
        {"x": Text(default="")},
        {"x": Text(server_only=True, default="")},
        [("warn", "rights-removed", "task.x")],
    ),
    "devices write it from now on": (
        {"x": Text(server_only=True, default="")},
        {"x": Text(default="")},
        [("ok", "rights-added", "task.x")],
    ),
    "a required field becomes optional": (
        {"x": Text()},
        {"x": Text(optional=True)},
        [("warn", "field-optional", "task.x")],
    ),
    "an optional field becomes required": (
        {"x": Text(optional=True)},
        {"x": Text()},
        [("refuse", "field-required", "task.x")],
    ),
    "an optional field becomes required with a default": (
        {"x": Text(optional=True)},
        {"x": Text(default="")},
        [("warn", "field-required", "task.x")],
    ),
    "a default is gone": ({"x": Text(default="")}, {"x": Text()}, [("refuse", "field-required", "task.x")]),
    "a default is new": ({"x": Text()}, {"x": Text(default="")}, [("ok", "default-changed", "task.x")]),
    "a length is shorter": (
        {"x": Text(max_length=20)},
        {"x": Text(max_length=10)},
        [("warn", "max-length-shorter", "task.x")],
    ),
    "a length is new": (
        {"x": Text()},
        {"x": Text(max_length=10)},
        [("warn", "max-length-shorter", "task.x")],
    ),
    "a length is longer": (
        {"x": Text(max_length=10)},
        {"x": Text(max_length=20)},
        [("ok", "max-length-longer", "task.x")],
    ),
    "a length is gone": ({"x": Text(max_length=10)}, {"x": Text()}, [("ok", "max-length-longer", "task.x")]),
}

ROWS: dict[str, tuple[Schema, Schema, list[tuple[str, str, str]]]] = {
    "nothing changed": (app(), app(), []),
    "the app has another name": (app(), app(name="notes"), [("warn", "app-renamed", "notes")]),
    "a model has another name": (
        app(),
        app(model="job"),
        [
            ("refuse", "model-removed", "task"),
            ("warn", "carries-removed", "stream all"),
            ("ok", "model-added", "job"),
            ("ok", "carries-added", "stream all"),
        ],
    ),
    "a model is declared as removed": (app(), app(removed=True), [("ok", "model-retired", "task")]),
    "a removed model is dropped": (
        app(removed=True),
        app(model="job"),
        [
            ("warn", "carries-removed", "stream all"),
            ("warn", "model-dropped", "task"),
            ("ok", "model-added", "job"),
            ("ok", "carries-added", "stream all"),
        ],
    ),
    "a removed model is back": (app(removed=True), app(), [("ok", "model-back", "task")]),
    "uniqueness is new": (app(), app(unique=["title"]), [("warn", "unique-added", "task")]),
    "uniqueness is gone": (app(unique=["title"]), app(), [("ok", "unique-removed", "task")]),
    "uniqueness is named in another order": (
        app(unique=[("title", "team_id")]),
        app(unique=[("team_id", "title")]),
        [],
    ),
    "a unique field is renamed": (
        app(unique=["title"]),
        app({"title": None, "name": Text(renamed_from="title")}, unique=["name"]),
        [("ok", "field-renamed", "task.name")],
    ),
    "an integer that is looked up becomes a number": (
        app({"x": Integer()}, indexes=["x"]),
        app({"x": Number()}, indexes=["x"]),
        [("refuse", "kind-changed", "task.x")],
    ),
    "an index is new": (app(), app(indexes=["title"]), [("ok", "indexes-changed", "task")]),
    "a deletion is undone by edits": (
        app(),
        app(on_delete="revive"),
        [("warn", "on-delete-changed", "task")],
    ),
    "devices may write": (app(write=None), app(), [("ok", "rights-added", "task")]),
    "devices may write no longer": (app(), app(write=nobody), [("warn", "rights-removed", "task")]),
    "closed is said aloud": (app(write=None), app(write=nobody), []),
    "others may write": (
        app(write=owner("user_id")),
        app(write=anyone),
        [("warn", "rights-changed", "task")],
    ),
    "a rule is joined in another order": (
        app(write=either(owner("user_id"), member("all", "team_id"))),
        app(write=either(member("all", "team_id"), owner("user_id"))),
        [],
    ),
    "a rule is joined in another way": (
        app(write=either(owner("user_id"), member("all", "team_id"))),
        app(write=both(owner("user_id"), member("all", "team_id"))),
        [("warn", "rights-changed", "task")],
    ),
    "a rule is code": (
        app(write=owner("user_id")),
        app(write=lambda me, before, after: True),
        [("warn", "rights-changed", "task")],
    ),
    "a stream is new": (
        app(streams=[{"name": "all"}]),
        app(streams=[{"name": "all"}, TEAM]),
        [("ok", "stream-added", "stream team"), ("ok", "indexes-changed", "task")],
    ),
    "a stream is gone": (
        app(streams=[{"name": "all"}, {"name": "more"}]),
        app(streams=[{"name": "all"}]),
        [("warn", "stream-removed", "stream more")],
    ),
    "other users hold the keys": (
        app(streams=[{"name": "s", "by": "team_id", "keys": me}]),
        app(streams=[{"name": "s", "by": "team_id", "keys": claim("team")}]),
        [("warn", "stream-keys-changed", "stream s")],
    ),
    "keys are held by everyone": (
        app(streams=[{"name": "s", "by": "team_id", "keys": me}]),
        app(streams=[{"name": "s", "keys": everyone}]),
        [("warn", "carries-changed", "stream s"), ("warn", "stream-keys-changed", "stream s")],
    ),
    "a parameter is no longer bounded": (
        app(streams=[{"name": "s", "by": "team_id", "default": False, "keys": parameter("t", within=me)}]),
        app(streams=[{"name": "s", "by": "team_id", "default": False, "keys": parameter("t")}]),
        [("warn", "stream-keys-changed", "stream s")],
    ),
    "rows are those of another space": (
        app(streams=[{"name": "s"}]),
        app(streams=[{"name": "s", "space": "shared"}]),
        [("warn", "stream-keys-changed", "stream s")],
    ),
    "rows are grouped by another field": (
        app(streams=[{"name": "s", "by": "team_id", "keys": me}]),
        app(streams=[{"name": "s", "by": "user_id", "keys": me}]),
        [("warn", "carries-changed", "stream s")],
    ),
    "the field of the keys is renamed": (
        app(streams=[TEAM]),
        app(
            {"team_id": None, "crew_id": Text(renamed_from="team_id")},
            streams=[{"name": "team", "by": "crew_id", "keys": crews}],
        ),
        [("ok", "field-renamed", "task.crew_id")],
    ),
    "a stream is sent on request only": (
        app(streams=[{"name": "s"}]),
        app(streams=[{"name": "s", "default": False}]),
        [("warn", "stream-on-request", "stream s")],
    ),
    "a stream is sent by default": (
        app(streams=[{"name": "s", "default": False}]),
        app(streams=[{"name": "s"}]),
        [("ok", "stream-by-default", "stream s")],
    ),
    "rows arrive in another order": (
        app(streams=[{"name": "s"}]),
        app(streams=[{"name": "s", "priority": 1, "on_metered": "defer"}]),
        [("ok", "stream-order-changed", "stream s")],
    ),
    "a function is new": (app(), app(functions={"f": call}), [("ok", "function-added", "function f")]),
    "a function is gone": (app(functions={"f": call}), app(), [("warn", "function-removed", "function f")]),
    "a function needs more": (
        app(functions={"f": call}),
        app(functions={"f": call_more}),
        [("refuse", "parameter-required", "function f")],
    ),
    "a function may be given more": (
        app(functions={"f": call}),
        app(functions={"f": call_gently}),
        [("ok", "parameter-added", "function f")],
    ),
    "a parameter needs a value from now on": (
        app(functions={"f": call_gently}),
        app(functions={"f": call_more}),
        [("refuse", "parameter-required", "function f")],
    ),
    "a function takes less": (
        app(functions={"f": call}),
        app(functions={"f": call_less}),
        [("refuse", "parameter-removed", "function f")],
    ),
    "a parameter has another type": (
        app(functions={"f": call}),
        app(functions={"f": call_text}),
        [("warn", "parameter-changed", "function f")],
    ),
    "another function does the same": (app(functions={"f": call}), app(functions={"f": call}), []),
} | {name: (app(old), app(new), changes) for name, (old, new, changes) in FIELD_ROWS.items()}


@pytest.mark.parametrize("name", ROWS)
def test_each_change_is_told_with_its_effect_and_no_other_is(name: str) -> None:
    """A change has a severity, a code and a subject; nothing else appears beside it."""
    old, new, expected = ROWS[name]
    changes = compare(snapshot(old), new)
    assert [(c.severity, c.code, c.subject) for c in changes] == expected
    for change in changes:
        assert change.message
        assert change.hint or change.severity == "ok"
        assert change.code in str(change)


@pytest.mark.parametrize("name", ROWS)
def test_a_schema_does_not_differ_from_its_own_snapshot(name: str) -> None:
    """What was deployed can be deployed again without a word."""
    for schema in ROWS[name][:2]:
        assert compare(snapshot(schema), schema) == []


def shuffled(schema: Schema, seed: int) -> Schema:
    """The same schema, with every dict and every list without meaning in another order."""
    order = random.Random(seed)

    def mixed(mapping: Any) -> dict[str, Any]:
        return dict(order.sample(list(mapping.items()), len(mapping)))

    def model(m: Model) -> Model:
        return msgspec.structs.replace(
            m,
            fields=mixed(m.fields),
            indexes=tuple(order.sample(m.indexes, len(m.indexes))),
            unique=tuple(order.sample([tuple(order.sample(u, len(u))) for u in m.unique], len(m.unique))),
        )

    return msgspec.structs.replace(
        schema,
        models=mixed({name: model(m) for name, m in schema.models.items()}),
        streams=mixed(
            {name: msgspec.structs.replace(s, carries=mixed(s.carries)) for name, s in schema.streams.items()}
        ),
        functions=mixed(
            {
                name: msgspec.structs.replace(f, parameters=mixed(f.parameters))
                for name, f in schema.functions.items()
            }
        ),
    )


@given(
    names=st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=8, unique=True),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_a_snapshot_is_the_same_bytes_in_whatever_order_it_was_declared(
    names: list[str], seed: int, data: st.DataObject
) -> None:
    """The snapshot depends on what is declared and on nothing else, and says all of it."""
    fields = {
        name: Field(name=name, kind="text", default=data.draw(st.none() | st.text(max_size=5)), optional=True)
        for name in names
    }
    whole = app(streams=[TEAM, {"name": "all"}], functions={"f": call_gently, "g": call})
    task = msgspec.structs.replace(
        whole.models["task"], fields=fields, unique=(tuple(names), tuple(names[:1])), indexes=tuple(names)
    )
    schema = msgspec.structs.replace(whole, models={"task": task, "other": task})
    assert snapshot(shuffled(schema, seed)) == snapshot(schema)
    assert compare(snapshot(schema), shuffled(schema, seed)) == []
    changed = {**fields, names[0]: msgspec.structs.replace(fields[names[0]], max_length=7)}
    other = msgspec.structs.replace(schema, models={"task": msgspec.structs.replace(task, fields=changed)})
    assert snapshot(other) != snapshot(schema)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", SetupError),
        (b"{}", SetupError),
        (b"[" * 100_000, SetupError),
        (b'{"format": 1}', SetupError),
        (b'{"format": 2, "of": "tomorrow"}', NewerDatabase),
        (b"\xff", SetupError),
    ],
)
def test_a_snapshot_that_cannot_be_read_is_an_error_of_its_own(data: bytes, error: type[SetupError]) -> None:
    """A damaged snapshot is not taken for an empty one, which would let every change pass."""
    with pytest.raises(error) as raised:
        compare(data, app())
    assert type(raised.value) is error


STALE = {
    "a boolean is new": True,
    "a field with a default is new": True,
    "an optional field is new": False,
    "a field is renamed": True,
    "a renamed field stays": False,
    "a field is declared as removed": False,
    "an integer becomes a number": False,
    "the largest becomes a counter": False,
    "a default is new": False,
    "uniqueness is new": True,
    "uniqueness is gone": True,
    "uniqueness is named in another order": False,
    "an index is new": True,
    "devices may write": False,
    "a stream is new": True,
    "a stream is gone": True,
    "other users hold the keys": False,
    "rows are grouped by another field": True,
    "rows are those of another space": True,
    "rows arrive in another order": False,
    "a function is new": False,
    "nothing changed": False,
}


@pytest.mark.parametrize("name", STALE)
def test_records_are_stale_when_what_is_kept_beside_them_would_be_another(name: str) -> None:
    """A model is named when its rows would reach devices, or be found, otherwise if written again."""
    old, new, _ = ROWS[name]
    assert stale_models(snapshot(old), new) == (frozenset({"task"}) if STALE[name] else frozenset())
    assert stale_models(snapshot(new), new) == frozenset()
