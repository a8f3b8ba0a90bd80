"""What no rule binds is written down: what the app's own servers read and do, and what admins look at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lowtide.audit.model import Entry, actor_of, via_of
from lowtide.audit.service import Audit
from lowtide.kernel.http import Request
from lowtide.storage.db import Database, Tx

Keep = Callable[[Tx, Any], Awaitable[None]]
"""Called in a transaction with its outcome; awaits nothing but the transaction."""


class Trail:
    """Told by handlers, before they answer."""

    def __init__(self, audit: Audit, database: Database):
        self._audit = audit
        self._database = database

    async def tell(self, request: Request[Any, Any], action: str, target: str = "") -> None:
        """Keep an entry, if a server's token asks. One durable write; nothing for a user.

        An entry that cannot be kept raises as ``Database.write`` does, and so refuses the request.
        """
        if request.principal.server:
            await self.look(request, action, target)

    async def look(
        self, request: Request[Any, Any], action: str, target: str = "", asked: Any = None
    ) -> None:
        """As ``tell``, whoever asks: for what is shown to admins and servers only. Of ``asked``, any JSON
        value, a hash is kept."""
        entry = entry_of(request, action, target, after=asked)
        await self._database.write(lambda tx: self._audit.write(tx, entry))

    def within(self, request: Request[Any, Any], action: str, target: str) -> Keep | None:
        """What keeps an entry in the transaction of the change itself, if a server's token asks; else None.

        For ``Batch.keep``: an entry that cannot be kept undoes the change.
        """
        if not request.principal.server:
            return None
        entry = entry_of(request, action, target)

        async def keep(tx: Tx, _: Any) -> None:
            await self._audit.write(tx, entry)

        return keep


def entry_of(
    request: Request[Any, Any], action: str, target: str, *, before: Any = None, after: Any = None
) -> Entry:
    """The entry for what ``request`` does: by whom, with what right, from where."""
    who = request.principal
    return Entry(
        action=action,
        actor=actor_of(who),
        via=via_of(who),
        target=target,
        space=who.space,
        before=before,
        after=after,
        request=request.id,
        personal={"ip": request.client} if request.client else {},
    )
