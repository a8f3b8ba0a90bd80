"""The bridges' addresses."""

from __future__ import annotations

from typing import Any

from lowtide.bridges.live import PullStream
from lowtide.bridges.rxdb import Pulled, PullQuery, PushedRow
from lowtide.bridges.service import Bridges
from lowtide.bridges.watermelon import PullAnswerBody, PullBody, PushAnswerBody, PushBody
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import (
    AppTooOld,
    Busy,
    Conflict,
    Forbidden,
    Malformed,
    NotFound,
    ResyncRequired,
    TooLarge,
    TooManyBuckets,
)
from lowtide.kernel.http import Header, Request, Response, Route, StreamAnswer
from lowtide.kernel.schema import Principal
from lowtide.sync.service import check_client_id
from lowtide.sync.uploads import MAX_BODY

CLIENT = Header(
    "X-Lowtide-Client", "A name for the client's local database, one for each, 1 to 64 characters.", True
)
NO_STORE = {"cache-control": "no-store"}


def routes(bridges: Bridges, clock: Clock) -> list[Route]:
    """Every address of the bridges."""

    async def pull(request: Request[PullBody, None]) -> PullAnswerBody:
        """What is new since `last_pulled_at`, in pages: ask with `next` until there is none, and put them
        together. Everything that is there comes as `updated`, for `sendCreatedAsUpdated`."""
        return await bridges.watermelon.pull(_user(request.principal), request.body)

    async def push(request: Request[PushBody, None]) -> PushAnswerBody:
        """Each record merges as a device's upload does, field by field. Sent again it changes nothing. A
        change that is refused is told in `refused`, and holds up no other."""
        return await bridges.watermelon.push(_user(request.principal), request.body, request.id)

    async def rxdb_pull(request: Request[None, PullQuery]) -> Pulled:
        """What is new since the checkpoint. Fewer documents than were asked for mean that this is all."""
        model, version = request.params["model"], request.params["version"]
        who = _user(request.principal)
        return await bridges.rxdb.pull(who, _client(request), model, version, request.query)

    async def rxdb_push(request: Request[list[PushedRow], None]) -> Response:
        """Each document merges as a device's upload does, field by field, from `assumedMasterState`. The
        answer has those that are not as the client has them now. Sent again it changes nothing."""
        who, model = _user(request.principal), request.params["model"]
        answer = await bridges.rxdb.push(who, _client(request), model, request.body, request.id)
        return Response(body=answer)

    async def rxdb_stream(request: Request[None, None]) -> StreamAnswer:
        """Server-sent events of what is new from now on, each with documents and a checkpoint. Pull once it
        is open, and whenever it was interrupted: that is RxDB's `RESYNC`."""
        who, model = _user(request.principal), request.params["model"]
        bridges.rxdb.check(model, request.params["version"])
        stream = PullStream(bridges.rxdb, clock, who, _client(request), model)
        await stream.open()
        return StreamAnswer(
            run=stream.run, drop=stream.forget, media_type="text/event-stream", headers=NO_STORE
        )

    return [
        Route(
            "GET",
            "/v1/bridges/rxdb/{model}/{version}/pull",
            rxdb_pull,
            query=PullQuery,
            response=Pulled,
            headers=(CLIENT,),
            summary="RxDB's pull: documents that are new",
            errors=(AppTooOld, Busy, Forbidden, NotFound, ResyncRequired, TooManyBuckets),
            tags=("bridges",),
            rate="sync",
        ),
        Route(
            "POST",
            "/v1/bridges/rxdb/{model}/{version}/push",
            rxdb_push,
            body=list[PushedRow],
            response=list[dict[str, Any]],
            headers=(CLIENT,),
            max_body=MAX_BODY,
            parts=True,
            old_apps=True,
            summary="RxDB's push: what the user did",
            errors=(Busy, Forbidden, NotFound, TooLarge, TooManyBuckets),
            key="none",
            tags=("bridges",),
            rate="sync",
        ),
        Route(
            "GET",
            "/v1/bridges/rxdb/{model}/{version}/pullStream",
            rxdb_stream,
            produces="text/event-stream",
            headers=(CLIENT,),
            summary="RxDB's pull stream: what is new, as it happens",
            errors=(AppTooOld, Busy, Forbidden, NotFound, TooManyBuckets),
            tags=("bridges",),
            rate="sync",
        ),
        Route(
            "POST",
            "/v1/bridges/watermelondb/pull",
            pull,
            body=PullBody,
            response=PullAnswerBody,
            summary="WatermelonDB's pullChanges: a page of what is new",
            errors=(AppTooOld, Busy, Forbidden, TooManyBuckets),
            key="none",
            tags=("bridges",),
            rate="sync",
        ),
        Route(
            "POST",
            "/v1/bridges/watermelondb/push",
            push,
            body=PushBody,
            response=PushAnswerBody,
            max_body=MAX_BODY,
            parts=True,
            old_apps=True,
            summary="WatermelonDB's pushChanges: what the user did",
            errors=(Busy, Conflict, Forbidden, TooLarge),
            key="none",
            tags=("bridges",),
            rate="sync",
        ),
    ]


def _client(request: Request[Any, Any]) -> str:
    name = request.header("x-lowtide-client")
    if name is None:
        raise Malformed("Name the client's local database in the header X-Lowtide-Client.")
    check_client_id(name)
    return name


def _user(principal: Principal) -> Principal:
    if principal.server:
        raise Forbidden("A server's token has no local database.", hint="Use /v1/records, or a user's token.")
    return principal
