"""RxDB's pull stream: server-sent events of what is new in one model, as documents and a checkpoint.

A client that opens the stream pulls from its own checkpoint then, as RxDB's protocol wants it; the stream
tells what comes after its opening. It keeps a cursor and one slot for news. When more has gathered than one
event may carry it ends: the client comes back and pulls.
"""

from __future__ import annotations

import msgspec

from lowtide.bridges.rxdb import Pulled, Rxdb, checkpoint_of
from lowtide.bridges.walk import Cursor
from lowtide.kernel.clock import Clock
from lowtide.kernel.http import Outlet
from lowtide.kernel.schema import Principal
from lowtide.sync.events import QUIET, tell
from lowtide.sync.hub import Listener
from lowtide.sync.streams import lookup_topic

MAX_EVENT = 200
"""Documents of one event."""

_encode = msgspec.json.Encoder().encode


class PullStream:
    """One client's stream of one model. ``open`` before ``run``."""

    def __init__(self, rxdb: Rxdb, clock: Clock, principal: Principal, client: str, model: str):
        self._rxdb = rxdb
        self._clock = clock
        self._principal = principal
        self._client = client
        self._model = model
        self._cursor: Cursor | None = None
        self._listener = Listener()
        rxdb.sync.hub.add(self._listener)

    async def open(self) -> None:
        """Begin at the present head, so that what cannot work is an HTTP error still. Raises as ``Walks``."""
        try:
            self._cursor = await self._rxdb.walks.stand(self._principal, self._client)
            await self._look()
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Stop listening. A repeat does nothing."""
        self._rxdb.sync.hub.remove(self._listener)

    async def run(self, outlet: Outlet) -> None:
        """Write events until the token expires, the server stops, the client leaves or is to pull."""
        try:
            await outlet.write(QUIET)
            await tell(outlet, self._listener, self._clock, self._principal, self._look)
        finally:
            self.forget()

    async def _look(self) -> bytes | None:
        """What is new, as an event, empty if there is nothing; None when it is too much for one."""
        self._listener.take()
        hub, who = self._rxdb.sync.hub, self._principal
        page = await self._rxdb.page(who, self._client, self._model, self._cursor, MAX_EVENT)
        if page.place is not None:
            return None
        self._cursor = page.cursor
        lookups = (lookup_topic(who.space, lookup, who.user) for lookup in self._rxdb.sync.streams.lookups)
        hub.listen(self._listener, {*page.topics, *lookups}, page.cursor.group)
        if not page.rows:
            return b""
        documents = self._rxdb.documents(self._model)
        found = [documents.document(id, row) for (_, id), row in page.rows.items()]
        return b"data: %b\n\n" % _encode(Pulled(found, checkpoint_of(page)))
