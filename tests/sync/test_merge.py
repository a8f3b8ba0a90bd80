"""The merge, case by case: what is in the record afterwards, and what is in the journal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from lowtide import (
    App,
    Boolean,
    Counter,
    Integer,
    List,
    Model,
    Number,
    Refused,
    Set,
    Text,
    anyone,
    me,
    member,
    owner,
)
from lowtide.kernel.clock import Stamp
from lowtide.kernel.schema import Principal, Resolving
from lowtide.kernel.values import coerce_fields, complete
from lowtide.sync import fields as merging
from lowtide.sync.merge import Merge
from lowtide.sync.model import Mutation, Result, StoredRecord, Transaction
from lowtide.sync.state import State
from lowtide.sync.streams import Streams
from lowtide.sync.system import with_system

NOW = 1_790_000_000_000
ANN = Principal(user="ann")
SERVER = Principal(user="app", server=True)

app = App("merge")


def furthest(base: Any, mine: Any, theirs: Any, context: Resolving) -> Any:
    """An app's own rule."""
    if mine == "explode":
        raise RuntimeError("boom")
    return max(mine, theirs)


@app.model(unique=["slug"])
class Item:
    """A field of each merge kind."""

    title = Text(max_length=40)
    slug = Text(optional=True)
    votes = Counter()
    tags = Set()
    steps = List()
    notes = Text(merge="text", optional=True)
    best = Integer(merge="max", optional=True)
    least = Number(merge="min", optional=True)
    opener = Text(merge="first", optional=True)
    state = Text(merge=furthest, default="a")
    done = Boolean()
    price = Integer(server_only=True, optional=True)
    write = anyone


@app.model(on_delete="revive")
class Diary:
    """An edit undoes a deletion that did not know of it."""

    text = Text()
    mood = Text(optional=True)
    votes = Counter()
    tags = Set()
    opener = Text(merge="first", optional=True)
    write = anyone


@app.model
class Private:
    """Only its owner writes it."""

    owner_id = Text()
    text = Text()
    write = owner("owner_id")

    def before_write(me, before, after):  # type: ignore[no-untyped-def]  # noqa: N805 - me, as the docs have it
        if after is not None and after.text == "rude":
            raise Refused("be kind", code="rude")
        if after is not None and after.text == "shout":
            return {"text": after.text.upper()}
        return None


ODD: dict[str, Any] = {"list": ["text"], "number": 1, "mixed": {"tags": {1, "a"}}, "unknown": {"nix": 1}}


@app.model
class Odd:
    """Its hook is wrong."""

    text = Text()
    tags = Set()
    write = anyone

    def before_write(me, before, after):  # type: ignore[no-untyped-def]  # noqa: N805 - me, as the docs have it
        return ODD.get(after.text, after)


@app.model
class Closed:
    """No device writes here."""

    text = Text()


@app.model
class Membership(Model):
    """Who is in which team."""

    user_id = Text()
    team_id = Text()
    write = anyone


@app.model
class Loan(Model):
    """Who may read a team for a while; nobody yet."""

    user_id = Text(optional=True)
    team_id = Text()
    write = anyone


@app.model
class Task:
    """A team's."""

    team_id = Text()
    write = member("team", "team_id")


app.stream("all", carries=[Item, Diary, Private, Odd, Closed, Membership])
app.stream("team", carries={Task: "team_id"}, keys=Membership.where(user_id=me).team_id)
app.stream("lent", carries={Task: "team_id"}, keys=Loan.where(user_id=me).team_id)

SCHEMA = with_system(app.compile())
STREAMS = Streams(SCHEMA)


def record(model: str, at: int = 50, by: str = "theirs", **fields: Any) -> StoredRecord:
    """A stored record whose fields were all written at one time by one device."""
    declared = SCHEMA.models[model]
    stamp: Stamp = (at, by)
    return StoredRecord(complete(declared, coerce_fields(declared, fields)), {"": stamp}, False, 1, 1)


def mutation(op: Any, model: str, at: int = 100, base: Any = None, n: int = 1, **data: Any) -> Mutation:
    """What a device sends, in wire form."""
    declared = SCHEMA.models[model]
    return Mutation(
        n=n,
        op=op,
        model=model,
        id="x",
        data=coerce_fields(declared, data),
        base=None if base is None else coerce_fields(declared, base),
        at=at,
    )


def run(
    stored: StoredRecord | None, *mutations: Mutation, who: Principal = ANN, holdings: Any = None
) -> tuple[Merge, list[Result], StoredRecord | None]:
    """Merge one device's transaction with one stored record."""
    model = mutations[0].model
    key = ("main", model, "x")
    others = {("main", m.model, m.id): None for m in mutations}
    state = State({**others, key: stored}, {}, holdings or {("main", who.user): {}})
    merge = Merge(SCHEMA, STREAMS, state, NOW)
    results = merge.apply(Transaction(principal=who, client_id="mine", mutations=mutations))
    return merge, results, state.records[key]


def losses(merge: Merge) -> list[tuple[str, Any, str]]:
    """(field, the value that lost, who wrote it)."""
    return [(loss.field, msgspec.json.decode(loss.lost), loss.lost_by) for loss in merge.losses]


# (name, field, base, theirs, mine, mine is later, value afterwards, value lost or None)
FIELDS: list[tuple[str, str, Any, Any, Any, bool, Any, Any]] = [
    ("plain: nobody else wrote", "title", "a", "a", "b", False, "b", None),
    ("plain: both wrote the same", "title", "a", "b", "b", False, "b", None),
    ("plain: the later write wins", "title", "a", "t", "m", True, "m", "t"),
    ("plain: the earlier write loses", "title", "a", "t", "m", False, "t", "m"),
    ("counter: increments add up", "votes", 5, 7, 6, False, 8, None),
    ("counter: the same increment twice is two", "votes", 5, 6, 6, True, 7, None),
    ("counter: a decrement too", "votes", 5, 7, 2, True, 4, None),
    ("set: both additions stay", "tags", ["a"], ["a", "t"], ["a", "m"], True, ["a", "t", "m"], None),
    ("set: a removal removes", "tags", ["a", "b"], ["a", "b", "t"], ["a"], True, ["a", "t"], None),
    ("list: both inserts stay in order", "steps", [1, 2], [1, 9, 2], [1, 2, 3], True, [1, 9, 2, 3], None),
    (
        "text: both edits stay",
        "notes",
        "one two",
        "one two three",
        "zero one two",
        True,
        "zero one two three",
        None,
    ),
    ("max: the greater, even if earlier", "best", 1, 9, 5, True, 9, None),
    ("max: mine if greater", "best", 1, 5, 9, False, 9, None),
    ("min: the less", "least", 9.0, 2.0, 5.0, True, 2.0, None),
    ("first: theirs stays", "opener", None, "t", "m", True, "t", "m"),
    ("first: an empty one is filled", "opener", None, None, "m", False, "m", None),
    ("custom: the rule decides for mine", "state", "a", "b", "c", False, "c", "b"),
    ("custom: the rule decides for theirs", "state", "a", "c", "b", True, "c", "b"),
]


@pytest.mark.parametrize(
    ("field", "base", "theirs", "mine", "later", "value", "lost"),
    [case[1:] for case in FIELDS],
    ids=[case[0] for case in FIELDS],
)
def test_a_field_merges_by_its_rule(
    field: str, base: Any, theirs: Any, mine: Any, later: bool, value: Any, lost: Any
) -> None:
    """Each kind of field has one answer, and a value that is not in it is in the journal."""
    stored = record("item", title="stays")
    stored = msgspec.structs.replace(
        stored, data={**stored.data, **coerce_fields(SCHEMA.models["item"], {field: theirs})}
    )
    change = mutation("patch", "item", at=100 if later else 10, base={field: base}, **{field: mine})
    merge, results, after = run(stored, change)
    assert after is not None
    assert after.data[field] == coerce_fields(SCHEMA.models["item"], {field: value})[field]
    others = {name: v for name, v in after.data.items() if name != field}
    assert others == {name: v for name, v in stored.data.items() if name != field}
    if lost is None:
        assert merge.losses == []
        assert results[0].conflicts == ()
    else:
        assert losses(merge) == [(field, lost, "mine" if lost == mine else "theirs")]
        assert results == [Result(n=1, status="merged", conflicts=(field,))]
    assert merge.rejections == []


# (field, theirs, mine, mine is later, value afterwards, value lost or None)
UNSEEN: list[tuple[str, Any, Any, bool, Any, Any]] = [
    ("title", "t", "m", True, "m", "t"),
    ("title", "t", "m", False, "t", "m"),
    ("title", "t", "t", False, "t", None),
    ("votes", 7, 6, True, 6, 7),
    ("notes", "theirs", "mine", True, "mine", "theirs"),
    ("tags", ["a"], ["m"], True, ["a", "m"], None),
    ("best", 9, 5, True, 9, None),
    ("state", "a", "b", False, "a", "b"),
]


@pytest.mark.parametrize(("field", "theirs", "mine", "later", "value", "lost"), UNSEEN)
@pytest.mark.parametrize("base", [None, {}])
def test_a_write_that_does_not_say_what_it_replaced_loses_nothing_silently(
    base: Any, field: str, theirs: Any, mine: Any, later: bool, value: Any, lost: Any
) -> None:
    """Whoever's value is gone afterwards, it is in the journal."""
    stored = record("item", **{"title": "stays", field: theirs})
    change = mutation("patch", "item", at=100 if later else 10, base=base, **{field: mine})
    merge, _, after = run(stored, change)
    assert after is not None
    assert after.data[field] == coerce_fields(SCHEMA.models["item"], {field: value})[field]
    assert [entry[1] for entry in losses(merge)] == ([] if lost is None else [lost])


def test_a_device_knows_what_it_wrote_itself() -> None:
    """Without base values, a device's second write replaces its own first one and nobody's else."""
    stored = record("item", by="mine", title="first")
    merge, results, after = run(stored, mutation("patch", "item", title="second"))
    assert after is not None
    assert after.data["title"] == "second"
    assert merge.losses == []
    assert results[0].status == "applied"
    # A set that it wrote to may hold what others added since: of that it knows nothing.
    stored = record("item", by="mine", title="t", tags=["mine", "theirs"])
    _, _, after = run(stored, mutation("patch", "item", tags=["mine", "more"]))
    assert after is not None
    assert after.data["tags"] == '["mine","theirs","more"]'


def test_two_fields_changed_by_two_devices_do_not_conflict() -> None:
    """The unit of a conflict is the field, not the record."""
    stored = record("item", title="new title", slug=None)
    merge, _, after = run(stored, mutation("patch", "item", base={"done": False}, done=True))
    assert after is not None
    assert (after.data["title"], after.data["done"]) == ("new title", 1)
    assert merge.losses == []


def test_equal_times_are_decided_the_same_way_everywhere() -> None:
    """The device's name breaks a tie, so that the order of arrival does not matter."""
    for mine, by in (("mine", "a"), ("mine", "z")):
        stored = record("item", at=100, by=by, title="theirs")
        _, _, after = run(stored, mutation("patch", "item", at=100, base={"title": "old"}, title=mine))
        assert after is not None
        assert after.data["title"] == ("mine" if by < "mine" else "theirs")


def test_a_write_that_saw_the_other_supersedes_it_whatever_its_clock_says() -> None:
    """What was read before it was overwritten is no conflict; the stamp moves on, never back."""
    stored = record("item", at=500, title="theirs")
    merge, _, after = run(stored, mutation("patch", "item", at=3, base={"title": "theirs"}, title="mine"))
    assert after is not None
    assert after.data["title"] == "mine"
    assert after.stamp("title") == (500, "mine")
    assert merge.losses == []


def test_two_creations_of_one_id_merge() -> None:
    """Two devices may make the same record, such as a settings record, without knowing of each other."""
    stored = record("item", title="theirs", votes=2, tags=["t"])
    merge, results, after = run(stored, mutation("put", "item", title="mine", votes=3, tags=["m"]))
    assert after is not None
    assert (after.data["title"], after.data["votes"], after.data["tags"]) == ("mine", 5, '["t","m"]')
    assert losses(merge) == [("title", "theirs", "theirs")]
    assert results[0].status == "merged"


def test_a_resolver_that_raises_falls_back_to_the_later_write_and_is_reported() -> None:
    """A mistake in the app's rule loses nothing and blocks nobody."""
    stored = record("item", title="t", state="b")
    merge, _, after = run(stored, mutation("patch", "item", base={"state": "a"}, state="explode"))
    assert after is not None
    assert after.data["state"] == "explode"
    assert losses(merge) == [("state", "b", "theirs")]
    assert merge.faults == ["item.state: resolve raised RuntimeError: boom"]


def test_a_resolver_that_is_slow_counts_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who writes waits for it: its author hears of it, and its answer is kept."""
    times = iter([10.0, 10.0 + 2 * merging.SLOW_RESOLVE])
    monkeypatch.setattr(merging, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    stored = record("item", title="t", state="b")
    merge, _, after = run(stored, mutation("patch", "item", base={"state": "a"}, state="c"))
    assert after is not None
    assert merge.faults == ["item.state: resolve took 0.100 s; every writer waits for it"]


# Deletions.


def test_a_deletion_wins_and_the_edit_that_it_did_not_know_goes_to_the_journal() -> None:
    """Default policy, the deletion arriving second."""
    stored = record("item", title="edited")
    merge, results, after = run(stored, mutation("delete", "item", base={"title": "old", "votes": 0}))
    assert after is not None
    assert after.deleted
    assert losses(merge) == [("title", "edited", "theirs")]
    assert results[0].status == "merged"


def test_a_deletion_wins_over_an_edit_that_arrives_later() -> None:
    """Default policy, the edit arriving second: no resurrection."""
    gone = msgspec.structs.replace(record("item", title="t"), deleted=True)
    merge, results, after = run(gone, mutation("patch", "item", at=10**6, base={"title": "t"}, title="mine"))
    assert after is gone
    assert losses(merge) == [("title", "mine", "mine")]
    assert results == [Result(n=1, status="merged", conflicts=("title",))]
    assert list(merge.changes()) == []


def test_an_edit_revives_where_the_model_says_so() -> None:
    """Policy "revive", the edit arriving second: the whole record is back."""
    gone = msgspec.structs.replace(record("diary", text="t", mood="fine"), deleted=True)
    merge, _, after = run(gone, mutation("patch", "diary", base={"text": "t"}, text="mine"))
    assert after is not None
    assert not after.deleted
    assert (after.data["text"], after.data["mood"]) == ("mine", "fine")
    assert [loss.lost for loss in merge.losses] == ['"deleted"']


def test_what_revives_a_record_merges_with_what_it_held() -> None:
    """Each field by its rule, as if it had never been deleted; what loses is in the journal."""
    gone = msgspec.structs.replace(
        record("diary", at=200, text="t", votes=7, tags=["a", "t"], opener="bob"), deleted=True
    )
    base = {"text": "a", "votes": 5, "tags": ["a"], "opener": None}
    mine: dict[str, Any] = {"text": "m", "votes": 6, "tags": ["a", "m"], "opener": "ann"}
    merge, results, after = run(gone, mutation("patch", "diary", 100, base, **mine))
    assert after is not None
    assert not after.deleted
    assert after.data == {"text": "t", "mood": None, "votes": 8, "tags": '["a","t","m"]', "opener": "bob"}
    assert ("text", "m", "mine") in losses(merge)
    assert ("opener", "ann", "mine") in losses(merge)
    assert ("", "deleted", "theirs") in losses(merge)
    assert results[0].status == "merged"


def test_a_deletion_that_did_not_know_of_an_edit_is_undone_where_the_model_says_so() -> None:
    """Policy "revive", the deletion arriving second."""
    stored = record("diary", text="edited")
    merge, results, after = run(stored, mutation("delete", "diary", base={"text": "old"}))
    assert after is stored
    assert [loss.lost for loss in merge.losses] == ['"deletion"']
    assert results[0].status == "merged"


def test_a_deletion_that_saw_everything_deletes_under_both_policies() -> None:
    """Nothing is journalled where nobody disagreed."""
    cases: list[tuple[str, dict[str, Any]]] = [("item", {"title": "t"}), ("diary", {"text": "t"})]
    for model, fields in cases:
        stored = record(model, **fields)
        merge, results, after = run(stored, mutation("delete", model, base=fields))
        assert after is not None
        assert after.deleted
        assert merge.losses == []
        assert results == [Result(n=1, status="applied")]


def test_deleting_what_is_not_there_changes_nothing() -> None:
    """Twice, or never created: fine."""
    gone = msgspec.structs.replace(record("item", title="t"), deleted=True)
    for stored in (None, gone):
        merge, results, _ = run(stored, mutation("delete", "item"))
        assert results == [Result(n=1, status="unchanged")]
        assert list(merge.changes()) == []


def test_a_deleted_id_may_be_created_again() -> None:
    """A new record, not the old one edited: its defaults are fresh."""
    gone = msgspec.structs.replace(record("item", title="t", votes=7), deleted=True)
    _, results, after = run(gone, mutation("put", "item", title="again"))
    assert after is not None
    assert (after.deleted, after.data["title"], after.data["votes"]) == (False, "again", 0)
    assert results == [Result(n=1, status="applied")]


# Refusals: (name, stored, mutation, who, code)
REFUSALS: list[tuple[str, StoredRecord | None, Mutation, Principal, str]] = [
    ("a field that must not be empty", None, mutation("put", "item"), ANN, "invalid"),
    ("emptied", record("item", title="t"), mutation("patch", "item", title=None), ANN, "invalid"),
    ("an edit of what never was", None, mutation("patch", "item", title="t"), ANN, "no_record"),
    ("a server's field", record("item", title="t"), mutation("patch", "item", price=1), ANN, "server_only"),
    ("a server's field at creation", None, mutation("put", "item", title="t", price=1), ANN, "server_only"),
    (
        "another's record",
        record("private", owner_id="bob", text="t"),
        mutation("patch", "private", text="x"),
        ANN,
        "forbidden",
    ),
    ("given to another", None, mutation("put", "private", owner_id="bob", text="t"), ANN, "forbidden"),
    (
        "another's deletion",
        record("private", owner_id="bob", text="t"),
        mutation("delete", "private"),
        ANN,
        "forbidden",
    ),
    (
        "taken over",
        record("private", owner_id="bob", text="t"),
        mutation("patch", "private", owner_id="ann"),
        ANN,
        "forbidden",
    ),
    ("a closed model", None, mutation("put", "closed", text="t"), ANN, "closed"),
    ("the app's hook says no", None, mutation("put", "private", owner_id="ann", text="rude"), ANN, "rude"),
    ("not in the team", None, mutation("put", "task", team_id="t1"), ANN, "forbidden"),
    (
        "a counter beyond 64 bits",
        record("item", title="t", votes=2**63 - 1),
        mutation("patch", "item", base={"votes": 0}, votes=1),
        ANN,
        "invalid",
    ),
    ("too large a record", None, mutation("put", "diary", text="x" * 300_000), ANN, "record_too_large"),
]


@pytest.mark.parametrize(
    ("stored", "change", "who", "code"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_what_may_not_be_is_refused_and_comes_back(
    stored: StoredRecord | None, change: Mutation, who: Principal, code: str
) -> None:
    """A refusal has a code, goes back to its device, and leaves nothing behind."""
    merge, results, after = run(stored, change, who=who)
    assert [(r.status, r.code) for r in results] == [("refused", code)]
    assert [r.refusal.code for r in merge.rejections] == [code]
    assert after is stored
    assert list(merge.changes()) == []
    assert merge.losses == []


def test_the_server_is_not_bound_by_write_rules_but_by_types() -> None:
    """The app's own code writes what devices may not, and nothing that does not fit."""
    _, results, after = run(None, mutation("put", "closed", text="t"), who=SERVER)
    assert results[0].status == "applied"
    assert after is not None
    _, results, _ = run(None, mutation("put", "closed"), who=SERVER)
    assert results[0].code == "invalid"


def test_a_hook_may_change_what_is_written() -> None:
    """before_write returns the fields that it sets."""
    _, _, after = run(None, mutation("put", "private", owner_id="ann", text="shout"))
    assert after is not None
    assert after.data["text"] == "SHOUT"


@pytest.mark.parametrize("text", sorted([*ODD, "the record"]))
def test_a_hook_that_returns_what_is_no_fields_has_failed(text: str) -> None:
    """As one that raises: that one change is refused and the log says why; the queue goes on."""
    merge, results, after = run(None, mutation("put", "odd", text=text))
    assert after is None
    assert results[0].code == "rule_failed"
    assert len(merge.faults) == 1
    assert merge.faults[0].startswith("odd: before_write raised ")


def test_a_transaction_is_applied_whole_or_not_at_all() -> None:
    """One bad mutation refuses its neighbours too, each with a reason that points at the culprit."""
    good = mutation("put", "item", title="good", n=1)
    bad = mutation("put", "closed", text="bad", n=2)
    merge, results, after = run(None, good, bad)
    assert after is None
    assert [(r.n, r.code) for r in results] == [(1, "transaction"), (2, "closed")]
    assert "mutation 2" in (results[0].message or "")
    assert [r.n for r in merge.rejections] == [1, 2]
    assert list(merge.changes()) == []


def test_a_rule_sees_what_its_own_transaction_did_before() -> None:
    """A device that joins a team and writes its first task in one transaction is believed; and not
    any more once that transaction was refused."""
    join = mutation("put", "membership", user_id="ann", team_id="t1", n=1)
    task = mutation("put", "task", team_id="t1", n=2)
    holdings: Any = {("main", "ann"): {}}
    _, results, _ = run(None, join, task, holdings=holdings)
    assert [r.status for r in results] == ["applied", "applied"]

    holdings = {("main", "ann"): {}}
    bad = mutation("put", "closed", text="bad", n=3)
    merge, results, _ = run(None, join, task, bad, holdings=holdings)
    assert {r.status for r in results} == {"refused"}
    assert not merge.holds(ANN, "team", "t1")


def test_a_membership_of_nobody_is_nobodys() -> None:
    """Not even of a user who is called as Python calls nothing."""
    who = Principal(user="None")
    join = mutation("put", "loan", team_id="t1", n=1)
    merge, results, _ = run(None, join, who=who)
    assert results[0].status == "applied"
    assert not merge.holds(who, "lent", "t1")


def test_a_device_does_not_lose_to_its_own_earlier_write() -> None:
    """Its clock was set right in between, or a write came without a time: its order is its numbers'."""
    stored = record("item", at=200, by="mine", title="t", notes="earlier")
    merge, results, after = run(stored, mutation("patch", "item", at=100, notes="later"))
    assert after is not None
    assert after.data["notes"] == "later"
    assert after.stamp("notes") == (200, "mine")
    # Another device's words may be among those that it replaced.
    assert losses(merge) == [("notes", "earlier", "mine")]
    assert results[0].status == "merged"
    _, _, after = run(
        record("item", at=200, by="other", title="t", notes="o"), mutation("patch", "item", notes="m")
    )
    assert after is not None
    assert after.data["notes"] == "o"


def test_a_unique_value_is_taken_once() -> None:
    """The second to take it is refused; a value that was given up is free again."""
    state = State({("main", "item", id): None for id in "xyz"}, {}, {("main", "ann"): {}})
    merge = Merge(SCHEMA, STREAMS, state, NOW)

    def put(id: str, slug: str | None) -> str | None:
        change = msgspec.structs.replace(mutation("put", "item", title="t", slug=slug), id=id)
        result = merge.apply(Transaction(principal=ANN, client_id="mine", mutations=[change]))[0]
        return result.code

    assert put("x", "home") is None
    assert put("y", "home") == "unique"
    assert put("y", None) is None
    assert put("z", None) is None
    free = msgspec.structs.replace(mutation("patch", "item", slug="house"), id="x")
    merge.apply(Transaction(principal=ANN, client_id="mine", mutations=[free]))
    take = msgspec.structs.replace(mutation("patch", "item", slug="home"), id="y")
    assert merge.apply(Transaction(principal=ANN, client_id="mine", mutations=[take]))[0].code is None
