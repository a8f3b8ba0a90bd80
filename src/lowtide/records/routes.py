"""The REST API's addresses."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from lowtide.audit.trail import Trail
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import (
    BadFilter,
    Busy,
    Conflict,
    Forbidden,
    FunctionFailed,
    Invalid,
    NotFound,
    NotUnique,
    PreconditionFailed,
    TooLarge,
    TooManyBuckets,
)
from lowtide.kernel.http import Answer, Header, Request, Response, Route, StreamAnswer
from lowtide.records.changes import Feed
from lowtide.records.lists import AnyRecordPage, ListQuery, Lists, RecordPage
from lowtide.records.model import (
    MAX_RECORD_BODY,
    MAX_WRITES_BODY,
    Change,
    NewRecord,
    Unseen,
    WriteResult,
    Writes,
    WritesAnswer,
)
from lowtide.records.service import Records
from lowtide.records.shape import Record
from lowtide.records.tags import etag, is_known, wanted_ops

WRITE_ERRORS = (Busy, Conflict, Forbidden, FunctionFailed, Invalid, NotFound, NotUnique, TooLarge)
PRIVATE = "private, no-cache"
"""A browser may keep an answer for this user, and asks again before it uses it."""

NO_STORE = {"cache-control": "no-store"}
IF_MATCH = Header("If-Match", "The record's ETag: the write happens only to this version.")
LOCATION = Header("Location", "The record's address.")
ETAG = Header("ETag", "The record's version: a strong validator.")

_encode = msgspec.json.Encoder().encode


class ChangesQuery(msgspec.Struct, frozen=True):
    """What is followed."""

    models: str
    """Names of models, with commas between them."""
    cursor: str | None = None
    """Of the last ``ready`` event; everything is told without one."""


def routes(records: Records, clock: Clock, trail: Trail) -> list[Route]:
    """Every address of the REST API. ``trail`` is told of what the app's servers read here."""
    lists = Lists(records)

    async def list_(request: Request[None, ListQuery]) -> AnyRecordPage:
        """Only what the user receives is listed. The next page is asked for with `cursor` and otherwise the
        same query; it begins behind the last record, whatever was written meanwhile."""
        model = request.params["model"]
        page = await lists.page(request.principal, model, request.query)
        await trail.tell(request, "record.list", f"model:{model}")
        return page

    async def get(request: Request[None, None]) -> Response:
        """A record that the user does not receive is 404, like one that never was."""
        model, id = request.params["model"], request.params["id"]
        shape, (text, op, created, updated) = await records.get(request.principal, model, id)
        await trail.tell(request, "record.read", f"record:{model}/{id}")
        headers = {"etag": etag(op), "cache-control": PRIVATE, "vary": "authorization"}
        if is_known(request.header("if-none-match"), op):
            return Response(status=304, headers=headers)
        return Response(body=_encode(shape.record(id, text, op, created, updated)), headers=headers)

    async def create(request: Request[NewRecord, None]) -> Response:
        """Sent again with its id and the same content it changes nothing, so it may be repeated until it is
        answered. A writer who does not receive the record is answered its id alone."""
        name = request.params["model"]
        intent = records.creation(name, request.body.id, request.body.data)

        def answer(result: WriteResult) -> Response:
            headers = _version(result) | {"location": f"/v1/records/{name}/{quote(result.id, safe='')}"}
            return Response(
                status=201 if result.status == "created" else 200, body=_body(result), headers=headers
            )

        keep = request.keep
        in_tx = None if keep is None else lambda tx, results: keep(tx, answer(results[0]))
        (result,) = await records.write(request.principal, [intent], in_tx, request.id)
        return answer(result)

    async def change(request: Request[Change, None]) -> Response:
        """With `If-Match` the change is exact or refused; with `base` it merges as a device's does; with
        neither, a value that somebody else wrote is overwritten and kept in the conflict journal."""
        params, sent = request.params, request.body
        ops = wanted_ops(request.header("if-match"))
        intent = records.change(params["model"], params["id"], sent.data, sent.base, ops)
        (result,) = await records.write(request.principal, [intent], request=request.id)
        return Response(body=_body(result), headers=_version(result))

    async def delete(request: Request[None, None]) -> None:
        """Devices drop the record at their next checkpoint."""
        ops = wanted_ops(request.header("if-match"))
        intent = records.deletion(request.params["model"], request.params["id"], ops)
        await records.write(request.principal, [intent], request=request.id)

    async def write(request: Request[Writes, None]) -> WritesAnswer:
        """One refused write refuses them all; `index` in the error says which it is, from 0. Creations with
        ids may be sent again as a whole, like a single one."""
        intents = [records.wanted(write) for write in request.body.writes]

        keep = request.keep
        in_tx = None if keep is None else lambda tx, results: keep(tx, WritesAnswer(results))
        return WritesAnswer(await records.write(request.principal, intents, in_tx, request.id))

    async def changes(request: Request[None, ChangesQuery]) -> StreamAnswer:
        """Server-sent events. `put` has a record that is new or has changed, `remove` the model and id of one
        that is deleted or not the user's any more, in the order of the changes. `ready` follows when all is
        told, with the cursor for the next time (also as the event's id). `reset`: drop what you hold, for
        everything is told anew. The stream ends with the token."""
        who = request.principal
        if who.server:
            raise Forbidden("A server's token receives no streams.", hint="Follow changes as a user.")
        models = dict.fromkeys(name.strip() for name in request.query.models.split(","))
        for name in models:
            records.shape(name)
        cursor = request.header("last-event-id") or request.query.cursor
        feed = Feed(records, clock, who, list(models), cursor or None)
        await feed.open()
        return StreamAnswer(run=feed.run, drop=feed.forget, media_type="text/event-stream", headers=NO_STORE)

    return [
        Route(
            "GET",
            "/v1/changes",
            changes,
            query=ChangesQuery,
            produces="text/event-stream",
            summary="Follow changes as they happen",
            errors=(Forbidden, NotFound, TooManyBuckets),
            headers=(Header("Last-Event-ID", "The cursor, as readers of server-sent events send it."),),
            tags=("records",),
        ),
        Route(
            "POST",
            "/v1/records",
            write,
            body=Writes,
            response=WritesAnswer,
            max_body=MAX_WRITES_BODY,
            summary="Write several records, all or none",
            errors=(*WRITE_ERRORS, PreconditionFailed),
            tags=("records",),
        ),
        Route(
            "GET",
            "/v1/records/{model}",
            list_,
            query=ListQuery,
            response=RecordPage,
            summary="List records",
            errors=(BadFilter, NotFound, TooLarge, TooManyBuckets),
            tags=("records",),
            each="model",
        ),
        Route(
            "POST",
            "/v1/records/{model}",
            create,
            body=NewRecord,
            response=Record,
            status=201,
            max_body=MAX_RECORD_BODY,
            summary="Create a record; the same one again changes nothing",
            errors=WRITE_ERRORS,
            answers=(
                Answer(201, "Created.", Record, headers=(ETAG, LOCATION)),
                Answer(200, "It was created before, with the same content.", Record, headers=(ETAG,)),
            ),
            tags=("records",),
            each="model",
        ),
        Route(
            "GET",
            "/v1/records/{model}/{id}",
            get,
            response=Record,
            summary="Read a record",
            errors=(NotFound,),
            headers=(Header("If-None-Match", "ETags of the versions that the client has."),),
            answers=(
                Answer(200, "The record.", Record, headers=(ETAG,)),
                Answer(304, "The client has this version.", headers=(ETAG,)),
            ),
            tags=("records",),
            each="model",
        ),
        Route(
            "PATCH",
            "/v1/records/{model}/{id}",
            change,
            body=Change,
            response=Record,
            max_body=MAX_RECORD_BODY,
            summary="Change fields of a record",
            errors=(*WRITE_ERRORS, PreconditionFailed),
            headers=(IF_MATCH,),
            tags=("records",),
            each="model",
        ),
        Route(
            "DELETE",
            "/v1/records/{model}/{id}",
            delete,
            summary="Delete a record",
            errors=(*WRITE_ERRORS, PreconditionFailed),
            headers=(IF_MATCH,),
            tags=("records",),
            each="model",
        ),
    ]


def _version(result: WriteResult) -> dict[str, str]:
    return {} if result.record is None else {"etag": f'"{result.record.etag}"'}


def _body(result: WriteResult) -> bytes:
    return _encode(Unseen(result.id) if result.record is None else result.record)
