"""An unmodified WatermelonDB against a real server, with the sync of docs/bridges.md."""

from __future__ import annotations

import json

from tests.acceptance.conftest import Scenario


def test_what_two_phones_change_offline_comes_together_on_both(scenario: Scenario) -> None:
    """Counters and sets add up, nobody's field is lost, and a lost answer adds nothing twice."""
    seen = scenario("melon_merge")
    assert seen["lost"] == "fetch failed"
    assert seen["anna"] == seen["ben"]
    task, new = seen["anna"]["task"], seen["anna"]["new"]
    assert (task["title"], task["estimate"], task["votes"]) == ("Anna", 3, 10)
    assert json.loads(task["tags"]) == ["b", "c"]
    assert (new["title"], new["votes"]) == ("Fresh", 2)
    assert seen["dirty"] == [0, 0]


def test_a_phone_survives_refusals_vanishing_records_and_teams(scenario: Scenario) -> None:
    """What is refused returns as a row, what is revived is back, and what is revoked leaves."""
    seen = scenario("melon_life")
    assert seen["refused"] == [["mine", "forbidden"], ["stray", "forbidden"]]
    assert {id: task["team_id"] for id, task in seen["after"]["anna"].items()} == {"mine": "red"}
    assert seen["after"]["cards"] == {"card": {"team_id": "red", "body": "two"}}
    assert (seen["left"], seen["back"], seen["dirty"]) == ({}, ["mine"], 0)
