"""What a declaration means: the schema that it compiles to, and the rules that it is written with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import lowtide
from lowtide import App, Refused, anyone, both, either, member, nobody, owner
from lowtide.declare.app import snake_case
from lowtide.declare.check import check
from lowtide.declare.rules import streams_of, words
from lowtide.kernel.errors import LowtideError
from lowtide.kernel.schema import Claim, Everyone, Lookup, Me, Parameter, Schema
from tests.declare import whole_app

TEAMS = Lookup("membership", "user_id", "team_id")


@pytest.fixture(scope="module")
def schema() -> Schema:
    return whole_app.app.compile()


def test_an_app_with_every_word_has_no_mistake() -> None:
    """Everything that the declaration offers goes together without an error or a warning."""
    findings = check(whole_app.app)
    assert [(f.severity, f.code) for f in findings] == [("note", "bucket-limit")]


def test_compiling_twice_gives_the_same_schema() -> None:
    """Compiling changes nothing of the declaration."""
    assert whole_app.app.compile() == whole_app.app.compile()


def test_models_have_the_names_and_options_that_were_written(schema: Schema) -> None:
    """A class is named in snake_case, or as it says; fields come in the order of the class, bases first."""
    assert list(schema.models) == [
        "membership",
        "team",
        "task",
        "draft",
        "town",
        "notice",
        "message",
        "badge",
    ]
    task = schema.models["task"]
    assert list(task.fields)[:3] == ["made_at", "title", "slug"]
    assert task.unique == (("slug", "team_id"),)
    assert task.on_delete == "revive"
    assert schema.models["town"].on_delete == "delete"
    assert schema.models["badge"].removed
    assert not task.removed


def test_fields_that_streams_look_up_are_indexed(schema: Schema) -> None:
    """The store finds a user's memberships without being told."""
    assert schema.models["membership"].indexes == ("team_id", "user_id")
    assert schema.models["task"].indexes == ("status",)


@pytest.mark.parametrize(
    ("name", "kind", "merge", "optional", "default"),
    [
        ("title", "text", "latest", False, None),
        ("slug", "text", "first", False, ""),
        ("notes", "text", "text", True, None),
        ("body", "text", "collaborative", True, None),
        ("done", "boolean", "latest", False, 0),
        ("sure", "boolean", "latest", True, None),
        ("votes", "integer", "counter", False, 0),
        ("score", "integer", "counter", False, 10),
        ("weight", "number", "counter", False, 0.0),
        ("tags", "json", "set", False, "[]"),
        ("labels", "json", "set", False, '["new"]'),
        ("steps", "json", "list", False, "[]"),
        ("place", "json", "latest", False, '{"city":"Oslo"}'),
        ("best", "number", "max", True, None),
        ("least", "integer", "min", True, None),
        ("status", "text", "custom", False, "todo"),
        ("rank", "integer", "server", False, 0),
        ("photo", "attachment", "latest", True, None),
        ("made_at", "timestamp", "latest", False, "2026-01-02T00:00:00.000Z"),
        ("team_id", "reference", "latest", False, None),
        # A removed field need not be given; old versions see what they saw when nobody said.
        ("old", "integer", "latest", True, None),
        ("flag", "boolean", "latest", True, 0),
    ],
)
def test_a_constructor_says_what_a_field_is(
    schema: Schema, name: str, kind: str, merge: str, optional: bool, default: object
) -> None:
    """Kind, merge, emptiness and the default on the wire follow from what was written."""
    field = schema.models["task"].fields[name]
    assert (field.name, field.kind, field.merge, field.optional) == (name, kind, merge, optional)
    assert field.default == default
    assert type(field.default) is type(default)


def test_the_rest_of_a_field_is_kept(schema: Schema) -> None:
    """Lengths, targets, resolvers, former names and removals reach the schema."""
    fields = schema.models["task"].fields
    assert fields["title"].max_length == 200
    assert fields["team_id"].model == "team"
    assert fields["status"].resolve is whole_app.furthest
    assert fields["heading"].renamed_from == "caption"
    assert fields["old"].removed
    assert [f.name for f in fields.values() if f.resolve] == ["status"]
    assert [f.name for f in fields.values() if f.removed] == ["old", "flag"]


def test_streams_say_who_holds_which_keys(schema: Schema) -> None:
    """Each kind of keys compiles to its value."""
    keys = {name: stream.keys for name, stream in schema.streams.items()}
    assert keys == {
        "team": TEAMS,
        "own_teams": TEAMS,
        "mine": Me(),
        "catalogue": Everyone(),
        "platform": Claim("platform"),
        "chat": Parameter("room_id", TEAMS),
    }
    catalogue = schema.streams["catalogue"]
    assert catalogue.carries == {"town": None}
    assert (catalogue.priority, catalogue.on_metered, catalogue.space) == (3, "defer", "shared")
    assert schema.streams["own_teams"].carries == {"team": "team_id", "membership": "team_id"}
    assert [s.name for s in schema.streams.values() if not s.default] == ["chat"]


def test_functions_have_the_types_of_their_arguments(schema: Schema) -> None:
    """ctx is the server's; what has no default is required."""
    archive, ping = schema.functions["archive"], schema.functions["ping"]
    assert list(archive.parameters) == ["before", "team_ids", "dry"]
    assert archive.required == {"before", "team_ids"}
    assert msgspec.json.decode(b'["a"]', type=archive.parameters["team_ids"]) == ["a"]
    assert ping.parameters == {"text": str | None}
    assert ping.required == frozenset()
    assert archive.call is whole_app.archive


def test_hooks_are_plain_functions_with_and_without_staticmethod() -> None:
    """A hook is written as any function in a class body, and is called with what it declares."""
    app = App("hooks")

    @app.model
    class Task:
        title = lowtide.Text()
        write = lambda me, before, after: after.title == me  # noqa: E731

        def before_write(me: Any, before: Any, after: Any) -> Any:  # noqa: N805
            return {"title": me}

        @staticmethod
        async def after_commit(event: Any) -> None: ...

    model = app.compile().models["task"]
    assert model.before_write is not None
    assert model.before_write("ann", None, None) == {"title": "ann"}
    assert model.write is not None
    assert model.write("ann", None, Record(title="ann"))
    assert not model.write("bob", None, Record(title="ann"))
    assert model.after_commit is Task.after_commit


def test_what_is_declared_stays_what_it_was() -> None:
    """Decorators answer the class and the function, which tests of the app use."""
    assert whole_app.Task.__name__ == "Task"
    assert whole_app.answer.__name__ == "answer"
    assert not hasattr(whole_app.Task, "name")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Task", "task"),
        ("TodoList", "todo_list"),
        ("HTTPServer", "http_server"),
        ("PageV2", "page_v2"),
        ("already_there", "already_there"),
        ("A", "a"),
    ],
)
def test_a_class_is_named_in_snake_case(name: str, expected: str) -> None:
    """Words and abbreviations are told apart."""
    assert snake_case(name) == expected


class Record:
    def __init__(self, **fields: Any):
        self.__dict__.update(fields)


class Caller:
    def __init__(self, user: str, *keys: tuple[str, str]):
        self.user = user
        self.space = "main"
        self.claims: Mapping[str, Any] = {}
        self._keys = keys

    def holds(self, stream: str, key: str) -> bool:
        return (stream, key) in self._keys


ANN, BOB = Caller("ann", ("team", "t1"), ("team", "t2")), Caller("bob")
MINE, THEIRS, NOBODYS = Record(by="ann", team="t1"), Record(by="bob", team="t9"), Record(by=None, team=None)
ALSO_MINE = Record(by="ann", team="t2")


@pytest.mark.parametrize(
    ("rule", "before", "after", "allowed"),
    [
        (owner("by"), None, MINE, True),
        (owner("by"), MINE, MINE, True),
        (owner("by"), MINE, None, True),
        (owner("by"), None, THEIRS, False),
        (owner("by"), THEIRS, None, False),
        (owner("by"), MINE, THEIRS, False),
        (owner("by"), THEIRS, MINE, False),
        (owner("by"), None, NOBODYS, False),
        (member("team", "team"), None, MINE, True),
        (member("team", "team"), MINE, ALSO_MINE, True),
        (member("team", "team"), MINE, None, True),
        (member("team", "team"), None, THEIRS, False),
        (member("team", "team"), MINE, THEIRS, False),
        (member("team", "team"), THEIRS, MINE, False),
        (member("team", "team"), THEIRS, None, False),
        (member("team", "team"), None, NOBODYS, False),
        (member("team", "team"), NOBODYS, MINE, False),
        (member("other", "team"), None, MINE, False),
        (anyone, None, THEIRS, True),
        (anyone, THEIRS, None, True),
        (nobody, MINE, MINE, False),
        (either(owner("by"), nobody), None, MINE, True),
        (either(owner("by"), nobody), None, THEIRS, False),
        (either(owner("by"), member("team", "team")), Record(by="ann", team="t9"), MINE, True),
        (either(), None, MINE, False),
        (both(owner("by"), member("team", "team")), None, MINE, True),
        (both(owner("by"), member("team", "team")), None, Record(by="ann", team="t9"), False),
        (both(owner("by"), nobody), None, MINE, False),
    ],
)
def test_a_rule_holds_before_and_after(rule: Any, before: Any, after: Any, allowed: bool) -> None:
    """Nobody takes what is not theirs, gives away what is, or writes under an empty key."""
    assert rule(ANN, before, after) is allowed


def on_sundays(me: Any, before: Any, after: Any) -> bool:
    return False


def test_a_rule_is_told_in_the_words_of_the_declaration() -> None:
    """What a developer is told of a refusal can be found in the app: also a function, by its line."""
    rule = either(both(owner("by"), member("team", "in")), nobody, on_sundays)
    told = f"on_sundays (test_declare.py:{on_sundays.__code__.co_firstlineno})"
    assert words(rule) == f'either(both(owner("by"), member("team", "in")), nobody, {told})'
    assert (words(anyone), words(None)) == ("anyone", "none")
    assert streams_of(rule) == {"team"}


def test_a_user_without_keys_is_no_member() -> None:
    """Holding nothing allows nothing."""
    assert not member("team", "team")(BOB, None, MINE)
    assert not owner("by")(BOB, MINE, None)


def test_a_refusal_is_an_answer_and_no_fault() -> None:
    """It has no HTTP status, keeps what the user is told, and cannot fill a device."""
    refused = Refused("closed on sundays", code="closed", hint="Come tomorrow.")
    assert (refused.message, refused.code, refused.hint) == ("closed on sundays", "closed", "Come tomorrow.")
    assert str(refused) == "closed on sundays"
    assert not isinstance(refused, LowtideError)
    assert Refused("no").code == "refused"
    assert {len(x) for x in (Refused("x" * 5000, code="y" * 5000, hint="z" * 5000).__dict__.values())} == {
        1000
    }


def test_every_public_name_can_be_imported_and_no_other() -> None:
    """The package offers the words of the declaration."""
    for name in lowtide.__all__:
        assert getattr(lowtide, name) is not None
    with pytest.raises(AttributeError, match="'Txt'"):
        lowtide.Txt  # noqa: B018
    assert {"App", "Text", "Refused", "me", "owner", "removed"} <= set(lowtide.__all__)


def test_importing_the_package_loads_nothing_of_it() -> None:
    """A command line that only shows its help does not pay for the declaration."""
    code = "import sys, lowtide; print([m for m in sys.modules if m.startswith(('lowtide.', 'msgspec'))])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
