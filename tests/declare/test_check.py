"""``check`` finds each mistake of a declaration, in its line, and nothing else."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
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
    owner,
    parameter,
)
from lowtide.declare.check import check
from lowtide.declare.evolve import snapshot
from lowtide.declare.findings import Finding
from lowtide.declare.load import check_path, load_app
from lowtide.kernel.errors import DeclarationError

HEAD = "from lowtide import *\napp = App('shop')\n"
SOUND = """
@app.model
class Team:
    name = Text()
    write = nobody
app.stream("teams", carries=[Team])
"""


def field(line: str, *, head: str = "", options: str = "", more: str = "") -> str:
    """A sound model, received by everyone, with one more line in its body."""
    indented = textwrap.indent(textwrap.dedent(line).strip("\n"), "    ")
    return f"""
{head}
@app.model{options}
class Task:
    title = Text(default="x")
{indented}
    write = anyone
{more}
app.stream("all", carries=[Task])
"""


def stream(call: str) -> str:
    """Sound models and one stream."""
    return f"""
@app.model
class Membership:
    team_id = Text()
    number = Integer()
    user_id = Text()
    places = Set()
    write = nobody
@app.model
class Task:
    team_id = Text()
    body = Text(merge="collaborative", optional=True)
    price = Number()
    tags = Set()
    write = nobody
class Other(Model):
    team_id = Text()
app.stream("all", carries=[Membership, Task])
{call}
"""


def keys(text: str, codes: str) -> str:
    """Sound models and one stream with ``keys=text``, which is a mistake."""
    return stream(f"app.stream('s', carries={{Task: 'team_id'}}, keys={text})  #! {codes}")


def function(text: str) -> str:
    return f"{SOUND}\n@app.function\n{text}\n"


FIELDS = {
    "a name that is not ASCII": field("größe = Text()  #! name"),
    "a name of 64 characters": field(f"{'a' * 64} = Text()  #! name"),
    "the name id": field("id = Text()  #! reserved-name"),
    "a name of the database": field("xmin = Text()  #! reserved-name"),
    "a name with an underscore first": field("_deleted = Integer()  #! reserved-name"),
    "the metadata column": field("_metadata = Text()  #! reserved-name"),
    "a name of Lowtide's": field("lowtide_state = Text()  #! reserved-name"),
    "a name of a hook": field("before_write = Text()  #! reserved-name"),
    "the name where": field("where = Text()  #! reserved-name"),
    "names that differ in case only": field("Title = Text()  #! field-twice"),
    "a name bound twice": field("""
        done = Boolean()
        done = Integer(default=0)  #! field-twice
    """),
    "a constructor that was not called": field("done = Boolean  #! not-a-field"),
    "a type instead of a constructor": field("done: bool  #! not-a-field"),
    "a function named where": field("""
        def where(me):  #! not-a-field
            return None
    """),
    "a plain value": field("done = False  #! not-a-field"),
    "a comma too many": field("done = Boolean(),  #! not-a-field"),
    "a hook with a wrong name": field("""
        def before_writes(me, before, after):  #! not-a-field
            return None
    """),
    "an option with a wrong name": field("done = Boolean(optinal=True)  #! unknown-option"),
    "an option of another constructor": field("done = Boolean(max_length=5)  #! unknown-option"),
    "an optional counter": field("votes = Counter(optional=True)  #! unknown-option"),
    "optional that is no boolean": field("note = Text(optional='yes', default='')  #! option-type"),
    "server_only that is no boolean": field("note = Text(server_only=1, default='')  #! option-type"),
    "max_length of zero": field("note = Text(max_length=0)  #! option-type"),
    "max_length that is a boolean": field("note = Text(max_length=True)  #! option-type"),
    "max_length beyond a record": field("note = Text(max_length=1_000_000)  #! option-type"),
    "a default of another type": field("note = Text(default=5)  #! default"),
    "a default that is too long": field("note = Text(max_length=3, default='long')  #! default"),
    "a default of None": field("note = Text(default=None)  #! default"),
    "a default that is no time": field("due = Timestamp(default='tomorrow')  #! default"),
    "a default that is no array": field("tags = Set(default={'a': 1})  #! default"),
    "a default of mixed sets": field("tags = Set(default={1, 'a'})  #! default"),
    "a default that is infinite": field("price = Number(default=float('inf'))  #! default"),
    "a default beyond 64 bits": field("votes = Counter(default=2**63)  #! default"),
    "a default in a long call": field("""
        note = Text(
            max_length=10,
            default=[],  #! default
        )
    """),
    "a default of a Yjs document": field("body = Text(merge='collaborative', default='hello')  #! default"),
    "a merge that does not exist": field("note = Text(merge='newest', default='')  #! merge-unknown"),
    "a merge that is no text": field("note = Text(merge=5, default='')  #! merge-unknown"),
    "a set asked for by merge": field("tags = Json(merge='set', default=[])  #! merge-unknown"),
    "a counter of text": field("note = Text(merge='counter', default='')  #! merge-kind"),
    "a collaborative number": field("price = Number(merge='collaborative')  #! merge-kind"),
    "the largest of JSON": field("place = Json(merge='max')  #! merge-kind"),
    "server_only and a merge": field(
        "price = Number(server_only=True, merge='max', default=0)  #! merge-server-only"
    ),
    "a resolver of three arguments": field(
        "state = Text(merge=first, default='')",
        head="def first(base, mine, theirs):  #! resolve-signature\n    return mine",
    ),
    "an async resolver": field(
        "state = Text(merge=first, default='')",
        head="async def first(base, mine, theirs, context):  #! resolve-async\n    return mine",
    ),
    "a type as resolver": field("state = Text(merge=str, default='')  #! resolve-type"),
    "a reference to nothing": field("list_id = Reference('Lst')  #! reference-unknown"),
    "a reference to an undeclared class": field("list_id = Reference(int)  #! reference-unknown"),
    "a former name that is taken": field("name = Text(renamed_from='title', default='')  #! renamed-twice"),
    "its own name as former name": field("name = Text(renamed_from='name', default='')  #! renamed-twice"),
    "one former name for two": field("""
        a = Text(renamed_from='old', default='')
        b = Text(renamed_from='old', default='')  #! renamed-twice
    """),
    "a former name that is none": field("a = Text(renamed_from='the old', default='')  #! name"),
    "a value that only the server gives": field("rank = Integer(server_only=True)  #! never-created"),
    "an inherited field": field(
        "pass",
        head="class Named:\n    label = Text(default=5)  #! default",
    ).replace("class Task:", "class Task(Named):"),
}

MODELS = {
    "an app's name with a capital": "app2 = App('Shop')  #! app-name\n"
    + SOUND.replace("app.", "app2.")
    + "app = app2",
    "no fields": """
@app.model  #! no-fields
class Task:
    write = anyone
app.stream("all", carries=[Task])
""",
    "two models of one name": """
@app.model
class Task:
    title = Text()
    write = anyone
Old = Task
@app.model  #! model-twice
class Task:
    title = Text()
    write = anyone
app.stream("all", carries=[Old, Task])
""",
    "two models whose names differ in case": SOUND
    + """
@app.model(name="Team")  #! model-twice
class Crew:
    title = Text()
    write = anyone
app.stream("all", carries=[Crew])
""",
    "a model name of the client SDKs": field("", options="(name='ps_task')  #! reserved-name"),
    "a model name of Lowtide's": field("", options="(name='lowtide_task')  #! reserved-name"),
    "a model name with a space": field("", options="(name='my task')  #! name"),
    "a model name of 51 characters": field("", options=f"(name='{'a' * 51}')  #! name"),
    "an index on nothing": field("", options="(indexes=['titel'])  #! index-unknown"),
    "an index on a set": field("tags = Set()", options="(indexes=['tags'])  #! index-kind"),
    "an index on a merged text": field("n = Text(merge='text')", options="(indexes=['n'])  #! index-kind"),
    "an index that is a text": field("", options="(indexes='title')  #! option-type"),
    "unique on nothing": field("", options="(unique=[('title', 'slug')])  #! unique-unknown"),
    "unique on JSON": field("place = Json()", options="(unique=['place'])  #! unique-kind"),
    "unique that may mean two things": field("", options="(unique=('title', 'title'))  #! option-type"),
    "unique in the middle of a long list": field(
        "",
        options="(\n    unique=[\n        'title',\n        ('title', 'slug'),  #! unique-unknown\n    ],\n)",
    ),
    "an unknown policy": field("", options="(on_delete='keep')  #! option-type"),
    "removed that is no boolean": field("", options="(removed='yes')  #! option-type"),
    "no write rule": """
@app.model  #! closed-model
class Task:
    title = Text()
app.stream("all", carries=[Task])
""",
    "in no stream": """
@app.model  #! not-in-a-stream
class Task:
    title = Text()
    write = anyone
""",
}


def rule(text: str) -> str:
    return f"""
@app.model
class Task:
    title = Text()
    tags = Set()
    votes = Counter()
{textwrap.indent(text, "    ")}
app.stream("all", carries=[Task])
"""


HOOKS = {
    "a rule that is a value": rule("write = True  #! rule-type"),
    "a rule that is a class": rule("write = dict  #! rule-type"),
    "a rule with self": rule("def write(self, me, before, after):  #! rule-signature\n    return True"),
    "a rule without after": rule("write = lambda me, before: True  #! rule-signature"),
    "an async rule": rule("async def write(me, before, after):  #! rule-async\n    return False"),
    "a rule that yields": rule("def write(me, before, after):  #! rule-async\n    yield False"),
    "an owner in no field": rule("write = owner('owner_id')  #! rule-field"),
    "an owner in a counter": rule("write = owner('votes')  #! rule-field"),
    "a member of no stream": rule("write = member('team', 'title')  #! rule-stream"),
    "a member by no field": rule("write = member('all', 'team_id')  #! rule-field"),
    "a member by a set": rule("write = member('all', 'tags')  #! rule-field"),
    "a wrong rule inside a joined one": rule(
        "write = either(nobody, both(anyone, owner('who')))  #! rule-field"
    ),
    "a rule of no rules": rule("write = both()  #! rule-empty"),
    "a joined rule that is a text": rule("write = either('owner')  #! rule-type"),
    "a hook with two arguments": rule(
        "write = anyone\ndef before_write(before, after):  #! hook-signature\n    return None"
    ),
    "an async hook in the transaction": rule(
        "write = anyone\nasync def before_write(me, before, after):  #! hook-async\n    return None"
    ),
    "a hook after the commit that is not async": rule(
        "write = anyone\ndef after_commit(event):  #! hook-async\n    return None"
    ),
    "a hook after the commit with two arguments": rule(
        "write = anyone\nasync def after_commit(me, event):  #! hook-signature\n    return None"
    ),
    "a hook that is a value": rule("write = anyone\nbefore_write = 5  #! hook-type"),
}

STREAMS = {
    "a name with a space": stream("app.stream('my stream', carries=[Task])  #! name"),
    "the name of the device's stream": stream("app.stream('lowtide', carries=[Task])  #! reserved-name"),
    "two streams of one name": stream("app.stream('all', carries=[Task])  #! stream-twice"),
    "a priority of four": stream("app.stream('s', carries=[Task], priority=4)  #! priority"),
    "a priority that is a boolean": stream("app.stream('s', carries=[Task], priority=True)  #! priority"),
    "a priority in its own line": stream("""
app.stream(
    's',
    carries=[Task],
    priority=-1,  #! priority
)
"""),
    "an unknown answer to metered networks": stream(
        "app.stream('s', carries=[Task], on_metered='wait')  #! option-type"
    ),
    "default that is no boolean": stream("app.stream('s', carries=[Task], default=None)  #! option-type"),
    "an empty space": stream("app.stream('s', carries=[Task], space='')  #! option-type"),
    "a space with a slash": stream("app.stream('s', carries=[Task], space='a/b')  #! option-type"),
    "carrying nothing": stream("app.stream('s', carries=[])  #! carries"),
    "carrying one class without a list": stream("app.stream('s', carries=Task)  #! carries"),
    "carrying a class of no app": stream("app.stream('s', carries=[Other])  #! carries-model"),
    "carrying a name": stream("app.stream('s', carries=['Task'])  #! carries-model"),
    "a key field that is not there": stream(
        "app.stream('s', carries={Task: 'team'}, keys=me)  #! carries-field"
    ),
    "a key field in its own line": stream("""
app.stream(
    's',
    carries={
        Membership: 'team_id',
        Task: 'team',  #! carries-field
    },
    keys=me,
)
"""),
    "a set as key": stream("app.stream('s', carries={Task: 'tags'}, keys=me)  #! carries-kind"),
    "a number as key": stream("app.stream('s', carries={Task: 'price'}, keys=me)  #! carries-kind"),
    "a document as key": stream("app.stream('s', carries={Task: 'body'}, keys=me)  #! carries-kind"),
    "an integer compared with a text": stream(
        "app.stream('s', carries={Membership: 'number'}, keys=me)  #! carries-kind"
    ),
    "a text compared with an integer": stream("""
app.stream(
    's',
    carries={Task: 'team_id'},  #! carries-kind
    keys=Membership.where(user_id=me).number,  #! bucket-limit
)
"""),
    "no key field where keys are held": stream("app.stream('s', carries=[Task], keys=me)  #! carries-key"),
    "a key field where everyone receives": stream(
        "app.stream('s', carries={Task: 'team_id'})  #! carries-key"
    ),
    "keys that are a text": keys("'me'", "keys"),
    "a lookup that takes nothing": keys("Membership.where(user_id=me)", "keys"),
    "a lookup of two fields": keys("Membership.where(user_id=me, team_id=me).team_id", "keys"),
    "a lookup of a constant": keys("Membership.where(user_id='u1').team_id", "keys"),
    "a lookup in a class of no app": keys("Other.where(user_id=me).team_id", "keys-model"),
    "a lookup by a field that is not there": stream("""
teams = Membership.where(user=me).team_id  #! keys-field bucket-limit
app.stream('s', carries={Task: 'team_id'}, keys=teams)
app.stream('t', carries={Task: 'team_id'}, keys=teams)
"""),
    "a lookup of a field that is not there": keys(
        "Membership.where(user_id=me).team", "keys-field bucket-limit"
    ),
    "a lookup by a set": keys("Membership.where(places=me).team_id", "keys-kind bucket-limit"),
    "a lookup of a set": keys("Membership.where(user_id=me).places", "keys-kind bucket-limit"),
    "a claim without a name": keys("claim('')", "claim"),
    "a parameter that is sent unasked": keys("parameter('team', within=me)", "parameter-default"),
    "a parameter with a bad name": stream("""
app.stream('s', carries={Task: 'team_id'}, default=False, keys=parameter('a b', within=me))  #! name
"""),
    "a parameter that nothing bounds": stream("""
app.stream('s', carries={Task: 'team_id'}, default=False, keys=parameter('team'))  #! open-parameter
"""),
    "a parameter in a parameter": stream("""
inner = parameter('team')
app.stream('s', carries={Task: 'team_id'}, default=False, keys=parameter('a', within=inner))  #! keys
"""),
    "a membership that users give themselves": stream("""
@app.model
class Seat:
    user_id = Text()
    team_id = Text()
    write = either(nobody, owner("user_id"))
seats = Seat.where(user_id=me).team_id  #! grants-itself bucket-limit
app.stream('s', carries={Task: 'team_id'}, keys=seats)
"""),
}

FUNCTIONS = {
    "not async": function("def archive(ctx): ...").replace(
        "@app.function", "@app.function  #! function-async"
    ),
    "an async generator": function("async def archive(ctx):\n    yield 1").replace(
        "@app.function", "@app.function  #! function-async"
    ),
    "no ctx": function("async def archive(): ...").replace(
        "@app.function", "@app.function  #! function-signature"
    ),
    "two of one name": function("async def a(ctx): ...")
    + "@app.function(name='a')  #! function-twice\nasync def b(ctx): ...\n",
    "a reserved name": function("async def lowtide_a(ctx): ...").replace(
        "@app.function", "@app.function  #! reserved-name"
    ),
    "no type": function("async def archive(ctx, before): ...  #! parameter-type"),
    "no type in a long list": function("""async def archive(
    ctx,
    since: str,
    before,  #! parameter-type
): ..."""),
    "a type that nobody knows": function("""async def archive(
    ctx,
    since: 'str',
    before: 'Day',  #! parameter-type
): ..."""),
    "a plain class": function("async def archive(ctx, team: Team): ...  #! parameter-type"),
    "a plain class inside a list": function(
        "async def archive(ctx, team: list[Team]): ...  #! parameter-type"
    ),
    "an argument without a name": function("async def archive(ctx, *days: str): ...  #! function-signature"),
    "arguments of any name": function("async def archive(ctx, **days: str): ...  #! function-signature"),
    "an argument by position only": function(
        "async def archive(ctx, day: str, /): ...  #! function-signature"
    ),
}

MISTAKES = {"field": FIELDS, "model": MODELS, "hook": HOOKS, "stream": STREAMS, "function": FUNCTIONS}


def write(folder: Path, body: str) -> Path:
    file = folder / "app.py"
    file.write_text(HEAD + textwrap.dedent(body), "utf-8")
    return file


def marked(file: Path) -> list[tuple[int, str]]:
    """What the comments ``#! code code`` in a file announce."""
    lines = file.read_text("utf-8").splitlines()
    return [
        (n, code) for n, line in enumerate(lines, 1) if "#! " in line for code in line.split("#! ")[1].split()
    ]


def told(findings: list[Finding]) -> list[tuple[int, str]]:
    return [(finding.line, finding.code) for finding in findings]


@pytest.mark.parametrize(
    "body",
    [pytest.param(b, id=f"{kind}: {name}") for kind, rows in MISTAKES.items() for name, b in rows.items()],
)
def test_a_mistake_is_found_in_its_line_and_nothing_else_is(tmp_path: Path, body: str) -> None:
    """Each mistake has a code, a line, a message and a hint; no other finding appears beside it."""
    file = write(tmp_path, body)
    findings = check_path(tmp_path)
    assert marked(file), "the row announces nothing"
    assert told(findings) == marked(file)
    for finding in findings:
        assert finding.file == str(file)
        assert finding.message
        assert finding.hint


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    """An app with many mistakes is not shown them one by one."""
    file = write(
        tmp_path,
        """
        @app.model(unique=['slug'])  #! unique-unknown
        class Task:
            title = Text(default=5)  #! default
            list_id = Reference('Lst')  #! reference-unknown
            write = owner('user_id')  #! rule-field
        app.stream('s', carries={Task: 'team'}, keys=me, priority=9)  #! priority carries-field
        @app.function
        async def archive(ctx, before): ...  #! parameter-type
        """,
    )
    assert told(check_path(tmp_path)) == marked(file)
    with pytest.raises(DeclarationError) as raised:
        load_app(tmp_path).compile()
    assert told(raised.value.details["findings"]) == marked(file)
    assert "7 mistakes" in raised.value.message
    for line, code in marked(file):
        assert f"{file}:{line}: error: " in raised.value.message
        assert f"[{code}]" in raised.value.message


def test_a_warning_or_a_note_stops_nothing(tmp_path: Path) -> None:
    """Only errors keep an app from starting."""
    write(tmp_path, "@app.model\nclass Task:\n    title = Text()\n")
    app = load_app(tmp_path)
    assert {f.severity for f in check(app)} == {"warning", "note"}
    assert list(app.compile().models) == ["task"]


def test_a_near_name_is_suggested(tmp_path: Path) -> None:
    """A hint names what was probably meant."""
    write(tmp_path, field("", options="(indexes=['titel'])"))
    (finding,) = check_path(tmp_path)
    assert finding.hint == "Did you mean 'title'?"


def test_checking_calls_nothing_of_the_app(tmp_path: Path) -> None:
    """Hooks, rules, resolvers and functions are looked at, never run."""
    write(
        tmp_path,
        """
        def explode(*arguments): raise SystemExit("called")
        @app.model
        class Task:
            title = Text(merge=explode)
            write = explode
            before_write = explode
        app.stream("all", carries=[Task])
        """,
    )
    assert check_path(tmp_path) == []


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=2),
    st.lists(st.text(max_size=2) | st.integers() | st.lists(st.none(), max_size=1), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from([object(), int, len, print, lambda: None, ..., NotImplemented, me, everyone, anyone]),
)
OPTIONS = ["default", "merge", "optional", "max_length", "renamed_from", "server_only"]
CONSTRUCTORS = [Text, Integer, Number, Boolean, Timestamp, Json, Attachment, Counter, Set, List]
RULES = [lambda x: x, owner, lambda x: member(x, "title"), lambda x: member("s", x), both, either]
KEYS = [
    lambda cls, x: x,
    lambda cls, x: claim(x),
    lambda cls, x: parameter(x, me),
    lambda cls, x: parameter("p", x),
    lambda cls, x: cls.where(user_id=x).title,
    lambda cls, x: cls.where(user_id=me),
]
CARRIES = [lambda cls, x: x, lambda cls, x: [x], lambda cls, x: {cls: x}, lambda cls, x: [cls, x]]
PLACES = [
    "app",
    "attribute",
    "option",
    "reference",
    "hook",
    "rule",
    "keys",
    "carries",
    "call",
    *(f"model {option}" for option in ("name", "unique", "indexes", "on_delete", "removed")),
    *(f"stream {option}" for option in ("name", "priority", "default", "on_metered", "space")),
    "function name",
]


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(PLACES), junk=JUNK, draw=st.data())
def test_no_declaration_breaks_the_check(place: str, junk: Any, draw: st.DataObject) -> None:
    """Whatever is written wherever, it is found or it compiles; nothing else is raised."""

    def options(what: str, sound: dict[str, Any]) -> dict[str, Any]:
        return {**sound, place.removeprefix(f"{what} "): junk} if place.startswith(f"{what} ") else sound

    def choose(among: Any) -> Any:
        return draw.draw(st.sampled_from(among))

    app: Any = App(junk if place == "app" else "sound")
    attributes: dict[str, Any] = {"title": Text(), "user_id": Text(), "write": anyone}
    if place == "attribute":
        attributes["other"] = junk
    if place == "option":
        attributes["other"] = choose(CONSTRUCTORS)(**{choose(OPTIONS): junk})
    if place == "reference":
        attributes["other"] = Reference(junk)
    if place == "hook":
        attributes[choose(["write", "before_write", "after_commit"])] = junk
    if place == "rule":
        attributes["write"] = choose(RULES)(junk)
    cls: Any = app.model(**options("model", {}))(type("Task", (), attributes))
    keys = choose(KEYS)(cls, junk) if place == "keys" else cls.where(user_id=me).title
    try:
        carries = choose(CARRIES)(cls, junk) if place == "carries" else {cls: "title"}
        app.stream(**options("stream", {"name": "s", "carries": carries, "keys": keys}))
    except TypeError:
        assume(False)
    call: Any = junk if place == "call" else call_nothing
    app.function(**options("function", {}))(call)
    findings = check(app)
    assert all(finding.line > 0 for finding in findings)
    if any(finding.severity == "error" for finding in findings):
        with pytest.raises(DeclarationError):
            app.compile()
    else:
        snapshot(app.compile())


async def call_nothing(ctx: Any) -> None: ...
