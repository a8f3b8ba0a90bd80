"""What the app's own servers read and do: no rule binds them, so all of it is written down."""

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
        keep = self.within(request, action, target)
        if keep is not None:
            await self._database.write(lambda tx: keep(tx, None))

    def within(self, request: Request[Any, Any], action: str, target: str = "") -> Keep | None:
        """What keeps an entry in the transaction of the change itself, if a server's token asks; else None.

        For ``Batch.keep``: an entry that cannot be kept undoes the change.
        """
        who = request.principal
        if not who.server:
            return None
        entry = Entry(
            action=action,
            actor=actor_of(who),
            via=via_of(who),
            target=target,
            space=who.space,
            request=request.id,
            personal={"ip": request.client} if request.client else {},
        )

        async def keep(tx: Tx, _: Any) -> None:
            await self._audit.write(tx, entry)

        return keep
