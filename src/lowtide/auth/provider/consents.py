"""What apps may act for a user: those that they agreed to, and those in which they are signed in."""

from __future__ import annotations

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.auth.model import Session
from lowtide.auth.provider.clients import Clients
from lowtide.auth.provider.store import ProviderStore
from lowtide.auth.sessions import Sessions
from lowtide.kernel.clients import Client
from lowtide.kernel.errors import NotFound
from lowtide.storage.db import Database, Tx


class App(msgspec.Struct, frozen=True, kw_only=True):
    """An app that acts for the user. Times are milliseconds since 1970."""

    client: str
    name: str
    """Its id, where the app is registered no more."""
    first_party: bool
    """One of this server's own: nobody was asked."""
    scopes: tuple[str, ...]
    """What it may do: all that was agreed to, and all that its sessions were granted."""
    agreed_at: int | None
    """When the user agreed last; null for an app that needs no consent."""
    sessions: int
    """Sign-ins of it that go on."""
    used_at: int | None
    """When it last asked for tokens; null without a session."""


class Consents:
    """Lists and withdraws what a user lets apps do."""

    def __init__(
        self, database: Database, store: ProviderStore, clients: Clients, sessions: Sessions, audit: Audit
    ):
        self._database = database
        self._store = store
        self._clients = clients
        self._sessions = sessions
        self._audit = audit

    async def list(self, user: str) -> list[App]:
        """The apps that act for ``user``, by name. Three reads in one transaction."""

        async def work(tx: Tx) -> list[App]:
            agreed = await self._store.consents(tx, user)
            sessions: dict[str, list[Session]] = {}
            for session in await self._sessions.of_user(tx, user):
                if session.client:
                    sessions.setdefault(session.client, []).append(session)
            ids = agreed.keys() | sessions.keys()
            known = dict(self._clients.fixed)
            if ids - known.keys():
                known |= {one.id: one for one in await self._store.clients(tx) if one.id not in known}
            return [_app(id, known.get(id), agreed.get(id), sessions.get(id, [])) for id in ids]

        found = await self._database.read(work)
        return sorted(found, key=lambda app: (app.name.casefold(), app.client))

    async def withdraw(self, user: str, client: str, *, via: str, space: str, request: str, ip: str) -> None:
        """End what ``client`` may do for ``user``: its tokens are refused, at once and on every node.

        Codes on their way to it are worth nothing. The next sign-in asks anew. Raises ``NotFound`` for an app
        that may do nothing already. One write; an entry in the audit log, and one for each session.
        """

        async def work(tx: Tx) -> None:
            # The codes end before the sessions are read: one that is being redeemed has its session by then.
            scope = await self._store.withdraw(tx, user, client)
            sessions = [one for one in await self._sessions.of_user(tx, user) if one.client == client]
            if not scope and not sessions:
                raise NotFound("This app may do nothing for the user.")
            actor = f"user:{user}"
            for session in sessions:
                await self._sessions.revoke(tx, session, "user", actor=actor, via=via, request=request)
            entry = Entry(
                action="consent.withdraw",
                actor=actor,
                via=via,
                target=f"client:{client}",
                space=space,
                before=sorted(scope),
                after={"sessions": len(sessions)},
                request=request,
                personal={"ip": ip},
            )
            await self._audit.write(tx, entry)

        await self._database.write(work)
        await self._sessions.revocations.committed()


def _app(
    id: str, client: Client | None, agreed: tuple[frozenset[str], int] | None, sessions: list[Session]
) -> App:
    granted = set(agreed[0]) if agreed else set()
    for session in sessions:
        granted.update(session.scope.split())
    return App(
        client=id,
        name=client.name if client is not None else id,
        first_party=client is not None and client.first_party,
        scopes=tuple(sorted(granted)),
        agreed_at=agreed[1] if agreed else None,
        sessions=len(sessions),
        used_at=max((session.seen_at for session in sessions), default=None),
    )
