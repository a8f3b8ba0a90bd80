"""Registering clients: for admins and the app's own servers. Every change and look is in the audit log."""

from __future__ import annotations

from typing import Any

import msgspec

from lowtide.audit import Audit
from lowtide.audit.trail import Trail, entry_of
from lowtide.auth.provider.clients import Clients
from lowtide.auth.provider.model import OWN
from lowtide.auth.provider.store import ProviderStore
from lowtide.auth.sessions import Sessions
from lowtide.kernel.clients import Client
from lowtide.kernel.errors import Conflict, Malformed, NotFound
from lowtide.kernel.http import KIB, Request, Route
from lowtide.storage.db import Database, Tx

ADDRESS = "/v1/admin/clients"
MAX_CLIENTS = 1000
"""Clients that are registered through the admin API."""


class ClientList(msgspec.Struct, frozen=True):
    """Every client, those of the settings first."""

    clients: list[Client]


class ClientAdmin:
    """The admin's addresses."""

    def __init__(
        self, database: Database, store: ProviderStore, clients: Clients, sessions: Sessions, audit: Audit
    ):
        self._database = database
        self._store = store
        self._clients = clients
        self._sessions = sessions
        self._audit = audit
        self._trail = Trail(audit, database)

    async def list_all(self, request: Request[None, None]) -> ClientList:
        """Every client; nobody can read a secret back."""
        await self._trail.look(request, "client.list")
        kept = await self._database.read(self._store.clients)
        fixed = self._clients.fixed
        return ClientList([*fixed.values(), *(client for client in kept if client.id not in fixed)])

    async def put(self, request: Request[Client, None]) -> Client:
        """Register a client, or change it. Raises ``Conflict`` for one of the settings."""
        client = request.body
        if client.id != request.params["client"]:
            raise Malformed("The id in the body is not the one in the address.")
        self._not_fixed(client.id)

        async def work(tx: Tx) -> None:
            before = await self._store.client(tx, client.id)
            if before is None and len(await self._store.clients(tx)) >= MAX_CLIENTS:
                raise Conflict(
                    f"There are {MAX_CLIENTS} clients already.", hint="Delete those that nobody uses."
                )
            await self._store.put_client(tx, client)
            await self._write(tx, request, "client.put", client.id, before, client)

        await self._database.write(work)
        return client

    async def delete(self, request: Request[None, None]) -> None:
        """Forget a client, and all that it was granted: its codes and tokens are refused from now on.

        Nobody's consent is left to a client that gets the same id later.
        """
        id = request.params["client"]
        self._not_fixed(id)

        async def work(tx: Tx) -> None:
            before = await self._store.client(tx, id)
            if before is None:
                raise NotFound("There is no such client.")
            # The codes end before the sessions: one that is being redeemed has its session by then.
            await self._store.delete_client(tx, id)
            await self._sessions.revoke_client(tx, id, "operator")
            await self._write(tx, request, "client.delete", id, before, None)

        await self._database.write(work)
        await self._sessions.revocations.committed()

    def _not_fixed(self, id: str) -> None:
        if id == OWN:
            raise Conflict("This id is the server's own.", hint="Give the client another id.")
        if id in self._clients.fixed:
            raise Conflict(
                "This client is in the server's settings.", hint="Change it there, and start anew."
            )

    async def _write(
        self,
        tx: Tx,
        request: Request[Any, Any],
        action: str,
        id: str,
        before: Client | None,
        after: Client | None,
    ) -> None:
        entry = entry_of(
            request,
            action,
            f"client:{id}",
            before=None if before is None else msgspec.to_builtins(before),
            after=None if after is None else msgspec.to_builtins(after),
        )
        await self._audit.write(tx, entry)

    def routes(self) -> list[Route]:
        """``/v1/admin/clients``"""
        return [
            Route(
                "GET",
                ADDRESS,
                self.list_all,
                auth="admin",
                response=ClientList,
                summary="List the OAuth clients",
                tags=("oauth",),
            ),
            Route(
                "PUT",
                ADDRESS + "/{client}",
                self.put,
                auth="admin",
                body=Client,
                response=Client,
                max_body=64 * KIB,
                summary="Register or change an OAuth client",
                errors=(Malformed, Conflict),
                tags=("oauth",),
            ),
            Route(
                "DELETE",
                ADDRESS + "/{client}",
                self.delete,
                auth="admin",
                summary="Delete an OAuth client",
                errors=(NotFound, Conflict),
                tags=("oauth",),
            ),
        ]
