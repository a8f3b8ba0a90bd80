"""A mixed fleet: every kind of unmodified client on the same records, with lost answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest

from tests.acceptance.conftest import Scenario

STEPS = 150


def unaccounted(report: dict[str, Any]) -> list[str]:
    """What the end of a run does not account for: the sums, the sets, the words, and each title."""
    end, log, journal = report["ends"][0], report["log"], report["journal"]
    wrong = []
    votes = Counter({id: 100 for id in end if id.startswith("t")})
    tags: defaultdict[str, set[str]] = defaultdict(set)
    for entry in log:
        votes[entry["id"]] += entry.get("votes", 0)
        tags[entry["id"]] |= {entry["added"]} if "added" in entry else set()
        tags[entry["id"]] -= {entry["removed"]} if "removed" in entry else set()
    known = {(entry["id"], entry["before"]) for entry in log if "before" in entry}
    for id, task in end.items():
        if task["votes"] != votes[id]:
            wrong.append(f"{id} has {task['votes']} votes, and {votes[id]} were given")
        if set(task["tags"]) != tags[id] or len(task["tags"]) != len(tags[id]):
            wrong.append(f"{id} has the tags {sorted(task['tags'])}, and they should be {sorted(tags[id])}")
        words = Counter(task["notes"].split())
        for entry in log:
            if entry["id"] != id:
                continue
            if "word" in entry and words[entry["word"]] != 1:
                wrong.append(f"{id} has the word {entry['word']} {words[entry['word']]} times")
            title = entry.get("title")
            # Who replaced a title saw it, or it is in the journal.
            kept = title in (None, task["title"]) or (id, title) in known or ["title", title] in journal[id]
            if not kept:
                wrong.append(f"the title {title!r} of {id} is gone without a trace")
    missing = {entry["id"] for entry in log} - end.keys()
    return wrong + [f"{id} is missing" for id in sorted(missing)]


@pytest.mark.parametrize("seed", [1, 2])
def test_all_kinds_of_clients_come_together_and_nothing_is_lost(scenario: Scenario, seed: int) -> None:
    """Every phone ends with the same records; sums, sets and words are exact, and no title left silently."""
    report = scenario("fleet", given={"seed": seed, "steps": STEPS})
    assert report["lost"] > 3
    assert report["dirty"] == [0] * len(report["ends"])
    for other in report["ends"][1:]:
        assert other == report["ends"][0]
    assert unaccounted(report) == []


def test_the_checker_notices_what_is_wrong() -> None:
    """A doubled increment, a lost tag, a doubled word, a title without a trace, a missing record."""
    task = {"title": "a 1", "votes": 103, "tags": ["x"], "notes": "w"}
    right: dict[str, Any] = {
        "ends": [{"t0": task}],
        "log": [
            {"id": "t0", "title": "a 1", "before": "Start", "votes": 3},
            {"id": "t0", "title": "b 2"},
            {"id": "t0", "added": "x"},
            {"id": "t0", "word": "w"},
        ],
        "journal": {"t0": [["title", "b 2"]]},
    }
    assert unaccounted(right) == []
    faults: list[dict[str, Any]] = [
        {"votes": 106},
        {"tags": []},
        {"notes": "w w"},
        {"notes": ""},
        {"title": "b 2"},
    ]
    for fault in faults:
        assert len(unaccounted(right | {"ends": [{"t0": task | fault}]})) == 1, fault
    assert len(unaccounted(right | {"journal": {"t0": []}})) == 1
    assert unaccounted(right | {"log": [*right["log"], {"id": "n1"}]}) == ["n1 is missing"]
