"""Who holds which buckets, and which buckets a record is in."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide import App, Boolean, Integer, Model, Reference, Text, anyone, claim, everyone, me, parameter
from lowtide.kernel.schema import Lookup, Principal
from lowtide.sync.streams import Streams, Subscription
from lowtide.sync.system import with_system

app = App("streams")


@app.model
class Team(Model):
    """A team; its members receive its own row."""

    name = Text()


@app.model
class Membership(Model):
    """Who is in which team."""

    user_id = Text()
    team_id = Reference("Team")
    write = anyone


@app.model
class Note(Model):
    """Carried by many streams."""

    owner_id = Text()
    team_id = Reference("Team", optional=True)
    platform = Text(optional=True)
    room = Integer(optional=True)
    public = Boolean()


TEAMS = Membership.where(user_id=me).team_id
app.stream("teams", carries={Team: "id", Note: "team_id"}, keys=TEAMS, priority=1)
app.stream("mine", carries={Note: "owner_id"}, keys=me, priority=2)
app.stream("platform", carries={Note: "platform"}, keys=claim("platform"))
app.stream("all", carries=[Membership], keys=everyone)
app.stream("catalogue", carries=[Team], space="catalogue", on_metered="defer")
app.stream("rooms", carries={Note: "room"}, keys=parameter("room"), default=False)
app.stream("one_team", carries={Note: "team_id"}, keys=parameter("team", within=TEAMS), default=False)
STREAMS = Streams(with_system(app.compile()))
LOOKUP = Lookup("membership", "user_id", "team_id")
RED: dict[Lookup, dict[str, int]] = {LOOKUP: {'"red"': 1}}
DEVICE = 'main/lowtide["ann/phone"]'


def held(holdings: Any = None, defaults: bool = True, subscriptions: Any = (), **who: Any) -> dict[str, Any]:
    """What ann's phone holds, by topic."""
    principal = Principal(**{"user": "ann", **who})
    found = STREAMS.held(principal, "phone", holdings or {}, defaults, tuple(subscriptions))
    assert [one.priority for one in found] == sorted(one.priority for one in found)
    return {one.topic: one for one in found}


BASE = {DEVICE, 'main/mine["ann"]', "main/all[]", "catalogue/catalogue[]"}


@pytest.mark.parametrize(
    ("holdings", "claims", "more"),
    [
        ({}, {}, set()),
        (RED, {}, {'main/teams["red"]'}),
        ({LOOKUP: {'"red"': 1, '"blue"': 2}}, {}, {'main/teams["red"]', 'main/teams["blue"]'}),
        ({}, {"platform": "ios"}, {'main/platform["ios"]'}),
        (
            {},
            {"platform": ["ios", "beta", 7]},
            {'main/platform["ios"]', 'main/platform["beta"]', "main/platform[7]"},
        ),
        ({}, {"platform": {"a": 1}}, set()),
        ({}, {"platform": None}, set()),
    ],
)
def test_a_user_holds_the_keys_that_records_and_claims_give(
    holdings: Any, claims: dict[str, Any], more: set[str]
) -> None:
    """And no other; a claim of another shape gives nothing."""
    assert held(holdings, claims=claims).keys() == BASE | more


def test_another_space_has_its_own_buckets_but_for_mounted_ones() -> None:
    """Only the stream that names a space reaches out of one's own."""
    assert held(space="acme").keys() == {
        'acme/lowtide["ann/phone"]',
        'acme/mine["ann"]',
        "acme/all[]",
        "catalogue/catalogue[]",
    }


@pytest.mark.parametrize(
    ("stream", "parameters", "more"),
    [
        ("rooms", {"room": 5}, {"main/rooms[5]"}),
        ("rooms", {"room": [5, 6]}, {"main/rooms[5]", "main/rooms[6]"}),
        ("rooms", {"room": None}, set()),
        ("rooms", {"room": {"$gt": 0}}, set()),
        ("rooms", {}, set()),
        ("one_team", {"team": "red"}, {'main/one_team["red"]'}),
        ("one_team", {"team": "blue"}, set()),
        ("one_team", {"team": ["red", "blue"]}, {'main/one_team["red"]'}),
        ("lowtide", {}, set()),
        ("nothing", {}, set()),
    ],
)
def test_a_subscription_gives_what_was_asked_for_and_may_be_held(
    stream: str, parameters: dict[str, Any], more: set[str]
) -> None:
    """A parameter chooses among the keys that the user holds; it never grants one."""
    found = held(RED, subscriptions=[Subscription(stream, parameters)])
    assert found.keys() == BASE | {'main/teams["red"]'} | more
    for topic in more:
        assert found[topic].subscriptions == (0,)


def test_defaults_may_be_left_out_but_the_device_keeps_its_own() -> None:
    """Rejections arrive whatever an app subscribes to."""
    assert held(RED, defaults=False).keys() == {DEVICE}


def test_what_is_asked_for_twice_is_held_once_at_the_better_priority() -> None:
    """Both reasons are told, so that the SDK knows when each is complete."""
    asked = [Subscription("mine", {}, 3), Subscription("mine", {}, 0)]
    one = held(subscriptions=asked)['main/mine["ann"]']
    assert (one.priority, one.subscriptions) == (0, (None, 0, 1))


@pytest.mark.parametrize(
    ("space", "model", "data", "names"),
    [
        ("main", "team", {"name": "Red"}, {'main/teams["t1"]'}),
        ("catalogue", "team", {"name": "Red"}, {'catalogue/teams["t1"]', "catalogue/catalogue[]"}),
        ("main", "membership", {"user_id": "ann", "team_id": "red"}, {"main/all[]"}),
        (
            "main",
            "note",
            {"owner_id": 'a"]b', "team_id": None, "platform": "", "room": 0, "public": 1},
            {'main/mine["a\\"]b"]', 'main/platform[""]', "main/rooms[0]"},
        ),
        ("main", "note", None, set()),
    ],
)
def test_a_record_is_in_the_buckets_of_its_values(space: str, model: str, data: Any, names: set[str]) -> None:
    """None is in no bucket, zero and the empty text are values, and no value forges another's name."""
    assert set(STREAMS.buckets_of(space, model, "t1", data)) == names


def test_holding_is_by_kind_as_well_as_by_value() -> None:
    """The number 1 and the text "1" are two keys; an unknown stream, or no key, is never held."""
    ann = Principal(user="ann", claims={"platform": 1})
    assert STREAMS.holds(ann, "platform", 1, {})
    assert not STREAMS.holds(ann, "platform", "1", {})
    assert STREAMS.holds(ann, "teams", "red", RED)
    assert not STREAMS.holds(ann, "teams", "blue", RED)
    assert STREAMS.holds(ann, "all", "anything", {})
    assert not STREAMS.holds(ann, "lowtide", "ann/phone", {})
    assert not STREAMS.holds(ann, "nothing", "red", RED)
    assert not STREAMS.holds(ann, "teams", None, RED)
