"""The playground in a real browser: three phones with the unmodified SDK, and what people do with them.

One run of Chromium does it all (``tests/node/playground.mjs``); each test looks at a part of what it saw.
"""

from __future__ import annotations

import pytest

from tests.playground.play import Seen, play


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What the browser saw."""
    return play("playground", tmp_path_factory.mktemp("playground"))


def first(phone: Seen) -> Seen:
    todo: Seen = phone["todos"][0]
    return todo


def test_a_newcomer_finds_three_phones_in_step(seen: Seen) -> None:
    """The page founds a team with a list, and loads nothing from anywhere else."""
    assert seen["begin"]["titles"] == ["Firewood", "Coffee and a pot", "Maps of the coast", "A tent for four"]
    assert seen["begin"]["members"] == ["ann", "ben", "cleo"]
    assert seen["begin"]["strangers"] == []


def test_edits_outlive_a_reload_without_a_network(seen: Seen) -> None:
    """Each offline phone shows its own edits and nobody else's; the third shows neither."""
    before, offline = seen["merge"]["before"], seen["merge"]["offline"]
    ann, ben = first(offline["ann"]), first(offline["ben"])
    assert (ann["title"], ben["title"]) == ("From ann", "From ben")
    assert (ann["votes"], ben["votes"]) == (before["votes"] + 3, before["votes"] + 2)
    assert "wet" not in ann["labels"]
    assert "Or buy" not in ann["notes"]
    assert [step["text"] for step in ben["steps"]] == ["Axe"]
    assert offline["cleo"] == before
    assert offline["ann"]["waiting"] >= 7
    assert "airplane mode" in offline["ann"]["shown"]


def test_each_kind_of_field_merges_by_its_rule(seen: Seen) -> None:
    """Title: the later. Votes: both. Labels: both. Notes: both. Steps: both. On all phones alike."""
    before, after = seen["merge"]["before"], seen["merge"]["after"]
    assert first(after[0]) == first(after[1]) == first(after[2])
    todo = first(after[0])
    assert todo["title"] == "From ben"
    assert todo["votes"] == before["votes"] + 5
    assert {"dry", "wet"} < set(todo["labels"])
    assert todo["notes"] == f"Dry. {before['notes']} Or buy."
    assert sorted(step["text"] for step in todo["steps"]) == ["Axe", "Saw"]
    assert all(phone["waiting"] == 0 and phone["refusals"] == [] for phone in after)


def test_who_loses_is_told_and_restores_it(seen: Seen) -> None:
    """The loser's phone offers the value back and the winner's does not; the journal says whose it was."""
    ann, ben, cleo = seen["merge"]["after"]
    assert [(one["field"], one["lost"]) for one in ann["lost"]] == [("title", "From ann")]
    assert ben["lost"] == cleo["lost"] == []
    assert "Put mine back" in ann["shown"]
    assert "Put mine back" not in ben["shown"]
    assert "From ann of ann gave way to From ben of ben" in seen["merge"]["server"]
    assert seen["merge"]["restored"] == []


def test_another_clock_stamps_and_wins_nothing(seen: Seen) -> None:
    """A phone a year ahead stamps its changes so, in its database's own words; who was later still wins."""
    year = 365 * 24 * 3600 * 1000
    assert seen["clock"]["year"] == 1
    assert abs(seen["clock"]["stamp"] - year) < 600_000


@pytest.mark.parametrize(("step", "votes"), [("killed", 2), ("basement", 4)])
def test_what_is_sent_twice_counts_once(seen: Seen, step: str, votes: int) -> None:
    """A tab that dies in mid upload, and a network that loses answers: every vote counts, and counts once."""
    assert seen[step]["after"] == [seen[step]["before"] + votes] * 3


def test_a_bad_network_is_one(seen: Seen) -> None:
    """The basement loses or breaks off something, or the test before it proves nothing."""
    assert {"answer lost", "request lost", "cut off"} & set(seen["basement"]["fates"])


def test_a_phone_may_be_open_twice(seen: Seen) -> None:
    """Two tabs write to one database; both show both writes, and each counts once."""
    assert seen["tabs"]["after"] == seen["tabs"]["before"] + 2
    assert seen["tabs"]["second"]


def test_another_user_sees_nothing_of_the_one_before(seen: Seen) -> None:
    """On the same phone, somebody of no team has an empty screen and an empty database."""
    user = seen["user"]
    assert (user["todos"], user["members"], user["list"], user["rows"]) == ([], [], None, 0)
    assert "kitchen" not in user["shown"]
    assert "kitchen" in seen["user_before"]["shown"]


def test_revocation_takes_the_rows_away(seen: Seen) -> None:
    """Offline the rows stay; at the first checkpoint they are gone, and the late vote counts nowhere."""
    offline, after = seen["revoked"]["offline"], seen["revoked"]["after"]
    assert offline["todos"]
    assert (after["todos"], after["list"], after["members"]) == ([], None, [])
    assert after["rows"] == len(after["refusals"]) == 1  # the refusal is all that it holds
    assert "From ann" not in after["shown"].partition("Refused by the server")[0]
    assert seen["revoked"]["others"]["after"] == seen["revoked"]["others"]["before"]


def test_the_tour_goes_with_a_keyboard_alone(seen: Seen) -> None:
    """Each stop shows the focus, Enter plays the stories to their ends, Space ticks a to-do in a phone."""
    tour = seen["tour"]
    assert tour["stops"][0][0] == "Start over"
    assert tour["stops"][-1][0] == "Begin"
    assert {outline for _, outline in tour["stops"]} == {"solid"}
    assert not any("takes longer" in told for told in tour["told"])
    assert tour["told"][-1].startswith("Nothing of Emma is left")
    assert len(tour["told"]) == 24
    assert tour["inside"].endswith("done")
    assert tour["done"]
    live, lines = tour["log"]
    assert live == "polite"
    assert "refused a change of ben" in lines


def test_starting_over_leaves_nothing(seen: Seen) -> None:
    """Other data on the server, and phones that know nothing of before."""
    for phone in seen["over"]:
        assert [one["title"] for one in phone["todos"]] == seen["begin"]["titles"]
        assert first(phone)["votes"] == 2
        assert (phone["lost"], phone["refusals"], phone["waiting"]) == ([], [], 0)


def test_a_database_that_does_not_open_is_opened_anew(seen: Seen) -> None:
    """One phone opens at a time; one that hangs says so, starts anew twice, and is itself once it can."""
    opening = seen["opening"]
    assert opening["opened"] == 1
    assert (opening["told"], opening["anew"]) == (True, True)
    assert opening["after"] is None
    assert opening["todos"] > 0


def test_no_page_said_a_word(seen: Seen) -> None:
    """No error of a script, no breach of a policy, no request that the server did not understand."""
    assert seen["faults"] == []
