"""The addresses of webhooks: for admins and the app's own servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec

from lowtide.audit import Audit
from lowtide.audit.trail import Trail, entry_of
from lowtide.kernel.errors import AddressRefused, Conflict, Malformed, NotFound
from lowtide.kernel.http import Request, Route
from lowtide.storage.db import Tx
from lowtide.webhooks.model import Endpoint, Try
from lowtide.webhooks.service import MAX_NAMED, Webhooks
from lowtide.webhooks.store import listed, read_endpoint

T = TypeVar("T")
Event = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z_]{1,40}\.(\*|[a-z_]{1,40}))$")]


Names = Annotated[
    list[Annotated[str, msgspec.Meta(min_length=1, max_length=128)]], msgspec.Meta(max_length=MAX_NAMED)
]


SET_UP = ("url", "events", "models", "spaces", "data", "enabled")
"""What of an endpoint is hashed into the audit log, before and after a change."""


class NewWebhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: Annotated[str, msgspec.Meta(max_length=2048)]
    events: Annotated[list[Event], msgspec.Meta(min_length=1, max_length=50)]
    """Actions of the audit log: ``user.create``, ``session.*``, or ``*``."""

    models: Names = []
    """Models whose records' changes are sent; ``*`` is all. The events name which: ``record.created``,
    ``record.updated``, ``record.deleted`` or ``record.*``."""
    spaces: Names = []
    """Only in these spaces; empty: in all."""
    data: bool = False
    """Send the record and what it was before, too; without it, only its ids and version."""


class MadeWebhook(msgspec.Struct, frozen=True):
    webhook: Endpoint
    secret: str
    """Shown this once: what receivers verify signatures with."""


class NewSecret(msgspec.Struct, frozen=True):
    secret: str


class WebhookList(msgspec.Struct, frozen=True):
    webhooks: list[Endpoint]


class TryList(msgspec.Struct, frozen=True):
    tries: list[Try]


class Sent(msgspec.Struct, frozen=True):
    message: str


class Replayed(msgspec.Struct, frozen=True):
    messages: int


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool


def webhook_routes(webhooks: Webhooks, audit: Audit, trail: Trail, wake: Callable[[], None]) -> list[Route]:
    """``/v1/admin/webhooks``. Every change and every look is an entry of the audit log."""
    path, one = "/v1/admin/webhooks", "/v1/admin/webhooks/{id}"

    async def known(tx: Tx, id: str) -> Any:
        """How the endpoint is set up, None where there is none."""
        try:
            found = await read_endpoint(tx, id)
        except NotFound:
            return None
        return {name: getattr(found, name) for name in SET_UP}

    async def change(
        request: Request[Any, None], action: str, id: str, work: Callable[[Tx], Awaitable[T]]
    ) -> T:
        async def audited(tx: Tx) -> T:
            before = await known(tx, id)
            result = await work(tx)
            changed = id or (result[0].id if isinstance(result, tuple) else "")
            after = await known(tx, changed)
            await audit.write(tx, entry_of(request, action, f"webhook:{changed}", before=before, after=after))
            return result

        return await webhooks.database.write(audited)

    async def make(request: Request[NewWebhook, None]) -> MadeWebhook:
        """The secret is in this answer and in no other."""
        sent = request.body

        async def add(tx: Tx) -> tuple[Endpoint, str]:
            return await webhooks.add(tx, sent.url, sent.events, sent.models, sent.spaces, data=sent.data)

        webhook, secret = await change(request, "webhook.create", "", add)
        return MadeWebhook(webhook, secret)

    async def list_(request: Request[None, None]) -> WebhookList:
        """The oldest first, without their secrets."""
        await trail.look(request, "webhook.list")
        return WebhookList(await webhooks.database.read(listed))

    async def rotate(request: Request[None, None]) -> NewSecret:
        """Messages are signed with the old secret, too, for a day."""
        id = request.params["id"]
        return NewSecret(await change(request, "webhook.rotate", id, lambda tx: webhooks.rotate(tx, id)))

    async def switch(request: Request[Switch, None]) -> None:
        """What happens while it is off is not sent later."""
        id, on = request.params["id"], request.body.enabled
        await change(request, "webhook.switch", id, lambda tx: webhooks.enable(tx, id, on))
        wake()

    async def delete(request: Request[None, None]) -> None:
        """What waits to be sent to it is not sent."""
        id = request.params["id"]
        await change(request, "webhook.delete", id, lambda tx: webhooks.delete(tx, id))

    async def tries(request: Request[None, None]) -> TryList:
        """The latest first, 100 at most; a status of 0 is no answer."""
        id = request.params["id"]
        await trail.look(request, "webhook.read", f"webhook:{id}")
        return TryList(await webhooks.database.read(lambda tx: webhooks.tries(tx, id)))

    async def test(request: Request[None, None]) -> Sent:
        """Look at the tries for what became of it."""
        id = request.params["id"]
        message = await change(request, "webhook.test", id, lambda tx: webhooks.test(tx, id))
        wake()
        return Sent(message)

    async def replay(request: Request[None, None]) -> Replayed:
        """What was given up, or waited when the endpoint was switched off. Switch it on first."""
        id = request.params["id"]
        count = await change(request, "webhook.replay", id, lambda tx: webhooks.replay(tx, id))
        wake()
        return Replayed(count)

    def route(method: str, path: str, handler: object, summary: str, **more: object) -> Route:
        return Route(method, path, handler, summary=summary, auth="admin", tags=("webhooks",), **more)  # type: ignore[arg-type]

    missing = (NotFound,)
    return [
        route(
            "POST", path, make, "Send events to a server", body=NewWebhook, response=MadeWebhook,
            status=201, errors=(AddressRefused, Conflict, Malformed),
        ),
        route("GET", path, list_, "List webhooks", response=WebhookList),
        route("PATCH", one, switch, "Switch a webhook on or off", body=Switch, errors=missing),
        route("DELETE", one, delete, "Delete a webhook", errors=missing),
        route("POST", f"{one}/secret", rotate, "Make a new secret", response=NewSecret, errors=missing),
        route("GET", f"{one}/tries", tries, "List the last tries", response=TryList, errors=missing),
        route(
            "POST", f"{one}/replay", replay, "Send dead messages again", response=Replayed,
            errors=(Conflict, NotFound),
        ),
        route("POST", f"{one}/test", test, "Send a message to try it", response=Sent, errors=missing),
    ]  # fmt: skip
