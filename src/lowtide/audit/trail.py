"""What the app's own servers read and do: no rule binds them, so all of it is written down."""

from __future__ import annotations

from typing import Any

from lowtide.audit.model import Entry, actor_of, via_of
from lowtide.audit.service import Audit
from lowtide.kernel.http import Request
from lowtide.storage.db import Database


class Trail:
    """Told by handlers, before they answer."""

    def __init__(self, audit: Audit, database: Database):
        self._audit = audit
        self._database = database

    async def tell(self, request: Request[Any, Any], action: str, target: str = "") -> None:
        """Keep an entry, if a server's token asks. One durable write; nothing for a user.

        An entry that cannot be kept raises as ``Database.write`` does, and so refuses the request.
        """
        who = request.principal
        if not who.server:
            return
        entry = Entry(
            action=action,
            actor=actor_of(who),
            via=via_of(who),
            target=target,
            space=who.space,
            request=request.id,
            personal={"ip": request.client} if request.client else {},
        )
        await self._database.write(lambda tx: self._audit.write(tx, entry))
