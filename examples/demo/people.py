"""People who edit the same list on three phones, and an account of every edit that they made."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from examples.demo.session import Session

THINGS = ("tent", "stove", "maps", "rope")
LABELS = ("heavy", "shared", "rain", "cold", "fragile", "dry bag")
WORDS = ("check", "borrow", "repair", "weigh", "label", "dry", "charge", "fold")


class Edit(msgspec.Struct):
    """One change of one field of one item, as its writer saw it."""

    n: int
    item: str
    field: str
    base: Any
    value: Any
    valid: bool = True


class Person:
    """Edits on one phone, whatever the network does."""

    def __init__(self, name: str, session: Session, random: Random):
        self.name = name
        self.session = session
        self.edits: list[Edit] = []
        self.last = ""
        """The last edit, in words."""
        self._random = random
        self._count = 0

    def edit(self) -> None:
        """Make one local change: plain SQL on the phone's own tables."""
        phone, random = self.session.phone, self._random
        items = phone.rows("item")
        if not items:
            return
        id = random.choice(sorted(items))
        item = items[id]
        self._count += 1
        what = random.choices(
            ("votes", "title", "labels", "notes", "packed", "rubbish"), (25, 30, 20, 15, 5, 5)
        )[0]
        if what == "votes":
            self._change(id, item, "votes", (item["votes"] or 0) + 1)
        elif what == "title":
            self._change(id, item, "title", f"{id} ({self.name} {self._count})")
        elif what == "labels":
            labels = msgspec.json.decode(item["labels"] or "[]")
            label = f"{random.choice(LABELS)} {self.name[0]}{self._count}"
            self._change(id, item, "labels", msgspec.json.encode([*labels, label]).decode())
        elif what == "notes":
            line = f"{self.name}: {random.choice(WORDS)} {self._count}"
            self._change(id, item, "notes", f"{item['notes'] or ''}\n{line}".strip())
        elif what == "packed":
            self._change(id, item, "packed", 1 - (item["packed"] or 0))
        else:
            # Never the same twice: what changes nothing is not refused.
            self._change(id, item, "title", "x" * 60 + str(self._count), valid=False)
        self.session.wrote()

    def _change(self, id: str, item: dict[str, Any], field: str, value: Any, valid: bool = True) -> None:
        phone = self.session.phone
        phone.write(phone.update("item", id, **{field: value}))
        ((n,),) = phone.database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'ps_crud'").fetchall()
        self.edits.append(Edit(int(str(n)), id, field, item[field], value, valid))
        self.last = f"{id}: {field}" + ("" if valid else " (too long)")
