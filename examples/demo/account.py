"""The account at the end: are the phones equal, and where did every edit go?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from examples.demo.people import Person

Journal = Mapping[str, Sequence[Any]]
"""Item -> the titles of it that lost a conflict."""


def differences(people: Sequence[Person]) -> list[str]:
    """Where the phones' rows are not the same bytes; none when they are."""
    found = []
    first = people[0].session.phone
    for table in ("item", "membership"):
        wanted = first.stored(table)
        for person in people[1:]:
            have = person.session.phone.stored(table)
            found += [
                f"{table} {id}: {people[0].name} and {person.name} differ"
                for id in sorted(wanted.keys() | have.keys())
                if wanted.get(id) != have.get(id)
            ]
    return found


def rejections_missing(people: Sequence[Person]) -> bool:
    """Has a refused edit not come back to its phone yet?"""
    return any(
        len(person.session.phone.rows("lowtide_rejections"))
        < sum(1 for result in person.session.results.values() if result["status"] == "refused")
        for person in people
    )


def unaccounted(people: Sequence[Person], journal: Journal) -> list[str]:
    """Every edit that is neither in the list, nor in the journal, nor a rejection on its phone."""
    missing = []
    items = people[0].session.phone.rows("item")
    edits = [(person, edit) for person in people for edit in person.edits]
    for person, edit in edits:
        where = f"{person.name}'s {edit.field} of {edit.item} (n = {edit.n})"
        result = person.session.results.get(edit.n)
        rejected = {row["n"] for row in person.session.phone.rows("lowtide_rejections").values()}
        if result is None:
            missing.append(f"{where} was never answered")
        elif not edit.valid:
            if result["status"] != "refused" or edit.n not in rejected:
                missing.append(f"{where} should be a rejection on the phone")
        elif result["status"] == "refused":
            missing.append(f"{where} was refused: {result.get('message')}")
        elif edit.field == "labels":
            (added,) = set(msgspec.json.decode(edit.value)) - set(msgspec.json.decode(edit.base or "[]"))
            if added not in msgspec.json.decode(items[edit.item]["labels"]):
                missing.append(f"{where}: the label {added!r} is gone")
        elif edit.field == "notes":
            added = edit.value.splitlines()[-1]
            if added not in items[edit.item]["notes"]:
                missing.append(f"{where}: the note {added!r} is gone")
        elif edit.field == "title":
            seen = {other.base for _, other in edits if other.item == edit.item and other.field == "title"}
            kept = items[edit.item]["title"] == edit.value
            if not kept and edit.value not in seen and edit.value not in journal.get(edit.item, ()):
                missing.append(f"{where}: the title {edit.value!r} is gone")
    for id, item in items.items():
        votes = sum(1 for _, edit in edits if edit.item == id and edit.field == "votes")
        if item["votes"] != votes:
            missing.append(f"{id} has {item['votes']} votes; {votes} were given")
    return missing
