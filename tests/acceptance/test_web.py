"""The unmodified SDK for browsers, in a real one, on both databases."""

from __future__ import annotations

import json
from typing import Any

from tests.acceptance.conftest import Scenario


def own(content: dict[str, Any]) -> dict[str, Any]:
    """What every phone of the team must hold alike."""
    return {name: rows for name, rows in content.items() if name not in ("membership", "lowtide_rejections")}


def test_a_web_app_and_a_phone_converge_through_a_reload_without_a_network(scenario: Scenario) -> None:
    """Both edited one record of every kind unseen; the page was reloaded in between, and had two tabs."""
    seen = scenario("web")
    assert seen["waiting"] == [{"n": 2}], "a reload must not lose what was not sent"
    assert own(seen["anna"]) == own(seen["ben"])
    tasks = {task["id"]: task for task in seen["anna"]["task"]}
    assert "hidden" not in tasks
    assert "task2" not in tasks
    assert tasks["task1"]["votes"] == 5
    assert sorted(json.loads(tasks["task1"]["tags"])) == ["node", "web"]
    assert tasks["task1"]["notes"] == "anna was here"
    assert tasks["task1"]["title"] in ("By Anna", "By Ben")
    assert seen["anna"]["lowtide_rejections"] == []
    assert seen["faults"] == []


def test_a_first_sync_into_a_browser_goes_on_where_it_was(scenario: Scenario) -> None:
    """It tells how far it is; after a cut and a reload only the rest is sent, and no part is shown."""
    rows = 20_000
    seen = scenario("web_first_sync", given={"rows": rows})
    assert seen["count"] == rows
    assert seen["partial"] == 0, "a part of a checkpoint was shown"
    before, after = seen["progress"]
    for told in (before, after):
        assert told == sorted(told), "it went back"
        assert all(done <= total for done, total in told)
    assert rows / 3 < before[-1][0] < rows
    # What arrived before the cut is not sent again.
    assert after[0][0] > 0
    sent_before, sent_after = seen["bytes"]
    assert sent_after < (sent_before + sent_after) * 0.9
