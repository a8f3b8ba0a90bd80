"""The bridges' addresses."""

from __future__ import annotations

from lowtide.bridges.service import Bridges
from lowtide.bridges.watermelon import PullAnswerBody, PullBody, PushAnswerBody, PushBody
from lowtide.kernel.errors import AppTooOld, Busy, Conflict, Forbidden, TooLarge, TooManyBuckets
from lowtide.kernel.http import Request, Route
from lowtide.kernel.schema import Principal
from lowtide.sync.uploads import MAX_BODY


def routes(bridges: Bridges) -> list[Route]:
    """Every address of the bridges."""

    async def pull(request: Request[PullBody, None]) -> PullAnswerBody:
        """What is new since `last_pulled_at`, in pages: ask with `next` until there is none, and put them
        together. Everything that is there comes as `updated`, for `sendCreatedAsUpdated`."""
        return await bridges.watermelon.pull(_user(request.principal), request.body)

    async def push(request: Request[PushBody, None]) -> PushAnswerBody:
        """Each record merges as a device's upload does, field by field. Sent again it changes nothing. A
        change that is refused is told in `refused`, and holds up no other."""
        return await bridges.watermelon.push(_user(request.principal), request.body)

    return [
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
            nul=True,
            old_apps=True,
            summary="WatermelonDB's pushChanges: what the user did",
            errors=(Busy, Conflict, Forbidden, TooLarge),
            key="none",
            tags=("bridges",),
            rate="sync",
        ),
    ]


def _user(principal: Principal) -> Principal:
    if principal.server:
        raise Forbidden("A server's token has no local database.", hint="Use /v1/records, or a user's token.")
    return principal
