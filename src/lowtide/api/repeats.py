"""The Idempotency-Key of a request: reading it, and running a handler once for all that have the same."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import msgspec

from lowtide.api.exchange import answered
from lowtide.kernel.errors import KeyMissing, Malformed, Unavailable
from lowtide.kernel.http import Handler, Keep, Request, Response, Route, StreamAnswer
from lowtide.storage.once import KeyedRequest, Once, Stored

HEADER = b"idempotency-key"
REPLAYED = "idempotency-replayed"
LEAST_UNKNOWN = 20
"""Characters of a key that comes without a token: two phones must not choose the same."""

# A String of structured fields (RFC 9651), as the draft wants it, or bare, as most clients send it.
_KEY = re.compile(rb'"([\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x2b\x2d-\x7e]{1,255})')


def read_key(header: bytes | None, *, needed: bool, known: bool = True) -> str | None:
    """The key, None where there is none. Raises ``KeyMissing`` if it is ``needed``, ``Malformed``.

    ``known``: a token says who asks. Where none does, a key that two may choose is refused.
    """
    if header is None:
        if needed:
            raise KeyMissing
        return None
    found = _KEY.fullmatch(header.strip())
    if found is None:
        raise Malformed("An Idempotency-Key is 1 to 255 visible characters, with or without quotes.")
    key = (found[1] or found[2]).decode("ascii")
    if not known and len(key) < LEAST_UNKNOWN:
        raise Malformed(
            f"Without a token an Idempotency-Key has at least {LEAST_UNKNOWN} characters, by chance: the "
            "answer is given to whoever has it."
        )
    return key


def keeping(attempt: KeyedRequest, route: Route) -> Keep:
    """What a handler calls inside its transaction with the value that it will return."""

    def keep(tx: Any, value: Any) -> Awaitable[None]:
        answer = answered(value, route)
        if isinstance(answer, StreamAnswer):
            raise TypeError("a stream cannot be kept")
        return attempt.keep(tx, stored(answer))

    return keep


def stored(answer: Response) -> Stored:
    """``answer`` as it is kept."""
    body = answer.body if type(answer.body) is bytes else msgspec.json.encode(answer.body)
    return Stored(answer.status, answer.media_type, dict(answer.headers), body)


def replayed(found: Stored) -> Response:
    """``found`` as it is sent again, with a header that says so."""
    return Response(
        status=found.status,
        media_type=found.media_type,
        headers=found.headers | {REPLAYED: "true"},
        body=found.body or b"",
    )


def once_only(once: Once, route: Route, key: str, sent: bytes) -> Handler:
    """The route's handler, run once for all requests that have this key."""

    async def handle(request: Request[Any, Any]) -> Any:
        who = request.who
        whose = "" if who is None else f"{who.space}/{who.user}/{who.client}"
        found = await once.begin(whose, request.path, key, sent, route.deadline)
        if isinstance(found, Stored):
            return replayed(found)
        request.keep = keeping(found, route)
        try:
            answer = answered(await route.handler(request), route)
            if isinstance(answer, Response) and answer.status < 400:
                await found.finish(stored(answer))
            else:
                await found.release()
            return answer
        except BaseException:
            with suppress(Unavailable):
                await found.release()
            raise

    return handle
