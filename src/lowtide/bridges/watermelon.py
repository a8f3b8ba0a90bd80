"""WatermelonDB: ``pullChanges`` and ``pushChanges`` of its ``synchronize``.

Its cursor is a number, its changes are rows with all columns, and a row says in ``_changed`` which of them
were written. What a column was before it does not say, unless the table has the column ``lowtide_base``:
there the app keeps, for each column, the version and value that it last received.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec

from lowtide.bridges.pushes import Claim, Pushes, by_lookups
from lowtide.bridges.versions import WATERMELONDB, check_schema
from lowtide.bridges.walk import Outdated, Walks, cursor_of, place_of, token_of
from lowtide.kernel.errors import Malformed, TooLarge
from lowtide.kernel.schema import Field, Model, Principal
from lowtide.sync import Sync
from lowtide.sync.service import check_client_id
from lowtide.sync.uploads import MAX_SENT

MAX_PULLED = 2_000
"""Rows of a page."""

MAX_TABLES = 1_000

BASE = "lowtide_base"
OP = "lowtide_op"
OWN = ("id", "_status", "_changed", BASE, OP)
"""Columns that are no fields."""

MAX_CURSOR_NUMBER = 2**53 - 1

_encode = msgspec.json.Encoder().encode
_data = msgspec.json.Decoder(dict[str, str | int | float | None]).decode
_based = msgspec.json.Decoder(dict[str, tuple[str, Any]]).decode

Number = Annotated[int, msgspec.Meta(ge=1, le=MAX_CURSOR_NUMBER)]
Client = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Tables = Annotated[list[str], msgspec.Meta(max_length=MAX_TABLES)]


class Columns(msgspec.Struct, frozen=True):
    """Columns that a migration added."""

    table: str
    columns: Any = None


class Migration(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """What has come into the client's schema since it pulled last, as ``synchronize`` says it."""

    tables: Tables = []
    columns: Annotated[list[Columns], msgspec.Meta(max_length=MAX_TABLES)] = []
    from_: Any = None


class PullBody(msgspec.Struct, frozen=True):
    """What ``pullChanges`` sends."""

    client_id: Client
    tables: Tables
    """The client's tables."""
    last_pulled_at: Number | None = None
    schema_version: Annotated[int, msgspec.Meta(ge=1)] = 1
    migration: Migration | None = None
    next: str | None = None
    """Of the page before."""


class TableChanges(msgspec.Struct, frozen=True):
    """What is new in one table. Everything that is there comes as ``updated``."""

    created: list[msgspec.Raw]
    updated: list[msgspec.Raw]
    deleted: list[str]


class PullAnswerBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A page of what ``pullChanges`` returns."""

    changes: dict[str, TableChanges]
    timestamp: int
    next: str | None = None
    """There is more: ask again at once, and put the pages together; a later one wins."""
    restart: bool = False
    """Forget the pages before this one."""
    experimentalStrategy: str | None = None  # noqa: N815 - WatermelonDB's name


class PushedTable(msgspec.Struct, frozen=True):
    created: list[dict[str, Any]] = []
    updated: list[dict[str, Any]] = []
    deleted: list[Any] = []


class PushBody(msgspec.Struct, frozen=True):
    """What ``pushChanges`` sends."""

    client_id: Client
    changes: Annotated[dict[str, PushedTable], msgspec.Meta(max_length=MAX_TABLES)]
    last_pulled_at: Number | None = None
    """What ``pullChanges`` was given: up to there the client knew everything when it wrote."""
    schema_version: Annotated[int, msgspec.Meta(ge=1)] = 1
    keep_refused: bool = False
    """Refused records stay as the user left them, to be pushed again; otherwise the server's replace them."""


class RefusedRecord(msgspec.Struct, frozen=True):
    """A change that was not made, and why."""

    table: str
    id: str
    code: str
    message: str
    hint: str


class PushAnswerBody(msgspec.Struct, frozen=True, kw_only=True):
    """What ``pushChanges`` returns."""

    refused: list[RefusedRecord]
    experimentalRejectedIds: dict[str, list[str]]  # noqa: N815 - WatermelonDB's name
    """With ``keep_refused``: the refused records."""


class Watermelon:
    """Answers WatermelonDB's two calls."""

    def __init__(self, sync: Sync, walks: Walks, pushes: Pushes, oldest: Mapping[str, int]):
        self._sync = sync
        self._oldest = oldest
        self._walks = walks
        self._pushes = pushes

    async def pull(self, principal: Principal, asked: PullBody) -> PullAnswerBody:
        """A page of what the client lacks. Raises ``Malformed``, ``AppTooOld``, and as ``Walks.page`` but
        ``Outdated``: who cannot go on begins anew, and is told to replace what it holds."""
        check_client_id(asked.client_id)
        check_schema(self._oldest, WATERMELONDB, asked.schema_version)
        schema = self._sync.schema
        models = {name: model for name in asked.tables if (model := schema.models.get(name)) is not None}
        place = None if asked.next is None else place_of(asked.next)
        begin = place or (None if asked.last_pulled_at is None else cursor_of(asked.last_pulled_at))
        afresh: set[str] = set()
        if asked.migration is not None:
            afresh = {*asked.migration.tables, *(one.table for one in asked.migration.columns)}
        who = (principal, asked.client_id, models)
        restart = False
        try:
            page = await self._walks.page(*who, begin, MAX_PULLED, afresh=afresh)
        except Outdated:
            restart = place is not None
            page = await self._walks.page(*who, None, MAX_PULLED)
        # A client that has nothing replaces nothing: what it made before its first pull is its own.
        replace = page.full and asked.last_pulled_at is not None
        return PullAnswerBody(
            changes=_changes(models, page.rows),
            timestamp=page.cursor.number,
            next=None if page.place is None else token_of(page.place),
            restart=restart,
            experimentalStrategy="replacement" if replace else None,
        )

    async def push(self, principal: Principal, asked: PushBody, request: str) -> PushAnswerBody:
        """Apply what the user did; what is refused is told, and is a row of ``lowtide_rejections``.

        Raises ``Malformed`` for rows without an id, ``TooLarge`` beyond ``MAX_SENT``, as ``Pushes.apply``.
        """
        check_client_id(asked.client_id)
        count = sum(len(t.created) + len(t.updated) + len(t.deleted) for t in asked.changes.values())
        if count > MAX_SENT:
            raise TooLarge(f"{count} changes at once; {MAX_SENT} are allowed", limit=MAX_SENT)
        known = None if asked.last_pulled_at is None else cursor_of(asked.last_pulled_at)
        claims = list(self._claims(asked))
        outcome = await self._pushes.apply(principal, asked.client_id, claims, known, request=request)
        refused = [
            RefusedRecord(table, id, result.code or "", result.message or "", result.hint or "")
            for (table, id), result in outcome.refused.items()
        ]
        kept: dict[str, list[str]] = {}
        for one in refused if asked.keep_refused else ():
            kept.setdefault(one.table, []).append(one.id)
        return PushAnswerBody(refused=refused, experimentalRejectedIds=kept)

    def _claims(self, asked: PushBody) -> Iterable[Claim]:
        version = f"@{asked.last_pulled_at or 0}"
        tables = by_lookups(asked.changes, self._sync)
        for table in tables:
            for raw in asked.changes[table].created:
                data = _given(self._sync.schema.models.get(table), raw)
                if raw.get(BASE):
                    # Pushed before, and pulled since: some of it is what others made of it.
                    yield _update(table, {**data, "id": _id(raw), BASE: raw[BASE]}, version)
                    continue
                yield Claim(model=table, id=_id(raw), data=data, made=True, partial=False)
        for table in tables:
            for raw in asked.changes[table].updated:
                yield _update(table, raw, version)
        for table in reversed(tables):
            for id in asked.changes[table].deleted:
                yield Claim(model=table, id=_named(id), data={}, gone=True)


def _given(model: Model | None, raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of a new record. An empty column stands for what the app did not set."""
    fields = {} if model is None else model.fields
    unset = {
        name
        for name, value in raw.items()
        if value is None or (value == "" and (field := fields.get(name)) is not None and not _is_plain(field))
    }
    return {name: value for name, value in raw.items() if name not in OWN and name not in unset}


def _is_plain(field: Field) -> bool:
    return field.kind in ("text", "reference", "attachment") and field.merge not in (
        "set",
        "list",
        "collaborative",
    )


def _update(table: str, raw: dict[str, Any], version: str) -> Claim:
    changed = raw.get("_changed")
    partial = isinstance(changed, str) and changed != ""
    names = set(changed.split(",")) if partial and isinstance(changed, str) else set(raw)
    data = {name: value for name, value in raw.items() if name in names and name not in OWN}
    text = raw.get(BASE)
    if not isinstance(text, str) or not text:
        # A base that was never received: the record was made here, and pushed.
        versions = "" if isinstance(text, str) or BASE in raw else version
        return Claim(model=table, id=_id(raw), data=data, versions=versions, partial=partial)
    try:
        based = _based(text)
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise Malformed(f"{BASE} of {table} {_id(raw)!r} is not what was given out.") from None
    return Claim(
        model=table,
        id=_id(raw),
        data=data,
        base={name: value for name, (_, value) in based.items()},
        versions={name: op for name, (op, _) in based.items()},
        partial=partial,
    )


def _id(raw: Mapping[str, Any]) -> str:
    return _named(raw.get("id"))


def _named(id: Any) -> str:
    if not isinstance(id, str):
        raise Malformed("Every changed record has an id, a text.")
    return id


def _changes(
    models: Mapping[str, Model], rows: Mapping[tuple[str, str], tuple[str, int] | None]
) -> dict[str, TableChanges]:
    changes = {name: TableChanges([], [], []) for name in models}
    times = {
        name: [field.name for field in model.fields.values() if field.kind == "timestamp"]
        for name, model in models.items()
    }
    for (model, id), row in rows.items():
        if row is None:
            changes[model].deleted.append(id)
            continue
        data = _data(row[0])
        for name in times[model]:
            value = data.get(name)
            if value is not None:
                # WatermelonDB's dates are numbers.
                data[name] = milliseconds(str(value))
        raw = _encode({**data, "id": id, OP: str(row[1])})
        changes[model].updated.append(msgspec.Raw(raw))
    return changes


def milliseconds(text: str) -> int:
    """A stored time as milliseconds since 1970."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
