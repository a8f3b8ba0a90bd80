"""Reading the log: by who, what, whom and when, the newest first."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from lowtide.kernel.errors import Malformed
from lowtide.kernel.ids import uuid7
from lowtide.storage.db import Query, Row, Tx, load_queries

QUERIES = load_queries("lowtide.audit")

MAX_PAGE = 1_000
"""Entries of one answer."""
MAX_ACTIONS = 64
"""Actions with one beginning that are looked for one by one; beyond that it is every entry of the time."""

Text = Annotated[str, msgspec.Meta(max_length=500)]
Time = Annotated[int, msgspec.Meta(ge=0, le=2**47)]
LAST = "g"
"""Behind every id."""


def _by(name: str, term: str) -> Query:
    """The list with ``term`` first, which one of the indexes answers."""
    list = QUERIES["list"]
    sqlite, postgres = (
        sql.replace("WHERE", f"WHERE {said} AND", 1)
        for sql, said in ((list.sqlite, term.replace("$", "?")), (list.postgres, term))
    )
    return Query(f"list_{name}", sqlite, postgres)


LISTS = {
    "request": _by("request", "e.request = $6 AND e.request <> ''"),
    "target": _by("target", "e.target = $5"),
    "actor": _by("actor", "e.actor = $4"),
    "action": _by("action", "e.action = $3"),
    "space": _by("space", "e.space = $7"),
    "": QUERIES["list"],
}
"""The statement for each index, by what is looked for: that which finds the fewest first."""


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries. What is left empty does not matter."""

    actor: Text = ""
    """Who did it, whole: ``user:<id>``."""
    action: Text = ""
    """How the action begins: ``session.`` finds all that was done to sessions."""
    target: Text = ""
    """To whom or what it was done, whole."""
    request: Text = ""
    """The request's id."""
    space: Text = ""
    since: Time = 0
    """Milliseconds since 1970: at or after."""
    until: Time = 0
    """Milliseconds since 1970: before. 0: now."""
    cursor: Text = ""
    """What the page before gave as ``next``."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 100


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. Times are milliseconds since 1970."""

    id: str
    seq: int | None
    """Its place in the chain; None for about a second after it was written."""
    at: int
    space: str
    action: str
    actor: str
    via: str
    target: str
    request: str
    before: str | None
    """The hash of the value before, hexadecimal."""
    after: str | None
    personal: Any = None
    """What was kept of the actor's or target's personal data."""
    erased: bool = False
    """Was the personal data erased?"""
    archived: bool = False
    """Is it in an archive? Then it has no personal data any more."""


class EntryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some entries, the newest first."""

    entries: list[Found]
    next: str
    """The ``cursor`` of the page behind this one; empty on the last."""
    archived: int = 0
    """The last place that is in the archives: what is older than that is not in this list."""


async def search(tx: Tx, wanted: Search) -> EntryPage:
    """The entries in the table that ``wanted`` names. ``Malformed`` for a cursor that is none.

    By request, target, actor, action, space or time it costs what it finds; by several of them, what it finds
    by the first of these.
    """
    if wanted.cursor and not (wanted.cursor.isascii() and wanted.cursor.isprintable()):
        raise Malformed("That is no cursor.", hint="Give back the 'next' of a page, or begin without one.")
    by = next((name for name in LISTS if name and getattr(wanted, name)), "")
    if by == "action":
        rows = await _by_action(tx, wanted)
    else:
        rows = await tx.fetch(LISTS[by], *_values(wanted, wanted.action))
    entries = [found(row) for row in rows[: wanted.limit]]
    [(archived,)] = await tx.fetch(QUERIES["archived"])
    return EntryPage(
        entries=entries, next=entries[-1].id if len(rows) > wanted.limit else "", archived=archived or 0
    )


def _values(wanted: Search, action: str) -> tuple[str | int, ...]:
    # Ids begin with their time.
    end = uuid7(wanted.until, 0) if wanted.until else LAST
    return (
        min(wanted.cursor or LAST, end),
        uuid7(wanted.since, 0),
        action,
        wanted.actor,
        wanted.target,
        wanted.request,
        wanted.space,
        wanted.limit + 1,
    )


async def _by_action(tx: Tx, wanted: Search) -> list[Row]:
    """The entries of each action that begins so, put together: an index has them by the whole action only."""
    actions = [action for (action,) in await tx.fetch(QUERIES["actions"], wanted.action, MAX_ACTIONS + 1)]
    if len(actions) > MAX_ACTIONS:
        return await tx.fetch(LISTS["space" if wanted.space else ""], *_values(wanted, wanted.action))
    rows = [row for action in actions for row in await tx.fetch(LISTS["action"], *_values(wanted, action))]
    return sorted(rows, key=lambda row: row[1], reverse=True)[: wanted.limit + 1]


def found(row: Row, *, archived: bool = False) -> Found:
    """A row of ``list``, or of ``chained``."""
    seq, id, at, space, action, actor, via, target, request, before, after, _, _, _, personal, erased_by = (
        row[:16]
    )
    return Found(
        id=id,
        seq=seq,
        at=at,
        space=space,
        action=action,
        actor=actor,
        via=via,
        target=target,
        request=request,
        before=None if before is None else bytes(before).hex(),
        after=None if after is None else bytes(after).hex(),
        personal=None if personal is None else msgspec.json.decode(personal),
        erased=erased_by is not None,
        archived=archived,
    )
