"""An unmodified RxDB against a real server, with the replication of docs/bridges.md."""

from __future__ import annotations

from tests.acceptance.conftest import Scenario


def test_what_two_phones_change_offline_comes_together_on_both(scenario: Scenario) -> None:
    """Counters and sets add up, nobody's field is lost, lost answers add nothing twice, and it is live."""
    seen = scenario("rx_merge")
    assert seen["lost"] == 2
    assert seen["anna"] == seen["ben"]
    task, new = seen["anna"]["task"], seen["anna"]["new"]
    assert (task["title"], task["estimate"], task["votes"], task["tags"]) == ("Anna", 3, 9, ["b", "c"])
    assert (new["title"], new["votes"], new["state"]) == ("Fresh", 3, "done")


def test_a_phone_survives_refusals_vanishing_records_and_teams(scenario: Scenario) -> None:
    """What is refused returns as a document, what is revived is back, and what is revoked leaves."""
    seen = scenario("rx_life")
    assert seen["refused"] == [["mine", "forbidden"], ["stray", "forbidden"]]
    assert {id: task["team_id"] for id, task in seen["after"].items()} == {"mine": "red"}
    assert seen["errors"] == 0


def test_a_page_that_ends_early_is_filled_with_what_the_app_never_hears_of(scenario: Scenario) -> None:
    """More than a page's bytes: every document comes once, and what fills the page up is kept once."""
    seen = scenario("rx_large")
    assert seen["told"] == sorted(f"card{number}" for number in range(60))
    first, *others = seen["pages"]
    assert (first["documents"], first["filled"]) == (100, True)
    assert first["bytes"] < 11 * 1024 * 1024
    assert others
    assert not any(page["filled"] for page in others)
    assert (seen["kept"], seen["pushed"], seen["errors"]) == ([True], 0, 0)


def test_a_phone_that_was_away_too_long_begins_anew_and_keeps_what_it_wrote(own_scenario: Scenario) -> None:
    """After a restored backup what is not there leaves the phone; what was not pushed reaches the server."""
    seen = own_scenario("rx_restored")
    assert seen == {"before": ["kept", "lost"], "after": ["kept", "mine"], "server": ["kept", "mine"]}


def test_an_event_that_is_late_takes_no_edit_back(scenario: Scenario) -> None:
    """Sent before the answer to a push, it is old after it: the next edit builds on the user's own."""
    assert scenario("rx_late") == {"shown": 13, "end": 14, "errors": 0}
