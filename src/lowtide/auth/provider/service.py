"""The provider, wired together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lowtide.auth.accounts import Accounts
from lowtide.auth.keys import KeySource
from lowtide.auth.proofs import SharedProofs
from lowtide.auth.provider.admin import ClientAdmin
from lowtide.auth.provider.apps import Apps, app_routes
from lowtide.auth.provider.authorize import Authorization
from lowtide.auth.provider.browsers import Browsers
from lowtide.auth.provider.clients import Clients
from lowtide.auth.provider.consents import Consents
from lowtide.auth.provider.door import Door
from lowtide.auth.provider.elsewhere import Elsewhere
from lowtide.auth.provider.grants import Grants
from lowtide.auth.provider.inspection import Inspection
from lowtide.auth.provider.leaving import Leaving
from lowtide.auth.provider.pages import Pages
from lowtide.auth.provider.routes import Endpoints, provider_routes
from lowtide.auth.provider.store import ProviderStore
from lowtide.auth.provider.visits import Visits
from lowtide.auth.provider.ways import Ways
from lowtide.auth.tokens import Tokens
from lowtide.kernel.clients import Client
from lowtide.kernel.clock import Clock
from lowtide.kernel.http import Route
from lowtide.storage.db import Database


class Provider:
    """Signs users in for apps that come through a browser."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        keys: KeySource,
        secrets: Callable[[], tuple[bytes, ...]],
        tokens: Callable[[], Tokens],
        proofs: SharedProofs,
        ways: Ways,
        clock: Clock,
        *,
        address: str,
        app: str,
        title: str,
        clients: Iterable[Client] = (),
    ):
        """``address``: of the server, and so the issuer. ``app``: the audience of its access tokens.

        ``secrets``: what forms are sealed with, from ``Keys.derive``.
        ``title``: what the pages call the app. ``clients``: of the settings. Raises ``SetupError``.
        """
        self._database = database
        self._issuer = address
        self.store = ProviderStore(clock)
        accounts.sign_in.credentials.append(self.store)
        accounts.sessions.elsewhere.append(self.store.end_browsers)
        self.clients = Clients(database, self.store, clients)
        users, sessions = accounts.users, accounts.sessions
        browsers = Browsers(database, self.store, secrets, address=address)
        pages = Pages(title, address)
        authorization = Authorization(database, self.store, self.clients, issuer=address)
        visits = Visits(authorization, browsers, ways, pages)
        self._door = Door(
            database,
            self.store,
            users,
            accounts.sign_in,
            ways,
            visits,
            authorization,
            browsers,
            pages,
            accounts.audit,
            clock,
        )
        self._elsewhere = Elsewhere(visits, self._door, browsers, ways, pages, address=address)
        self.consents = Consents(database, self.store, self.clients, sessions, accounts.audit)
        self._apps = Apps(database, users, self.consents, browsers, pages)
        self._leaving = Leaving(
            database, self.store, self.clients, users, sessions, keys, browsers, pages, issuer=address
        )
        grants = Grants(database, self.store, self.clients, users, sessions, keys, clock, issuer=address)
        inspection = Inspection(database, self.clients, users, sessions, tokens, issuer=address, audience=app)
        self._endpoints = Endpoints(database, self.store, self.clients, grants, inspection, proofs)
        self._admin = ClientAdmin(database, self.store, self.clients, sessions, accounts.audit)

    def routes(self) -> list[Route]:
        """Every address of the provider."""
        return [
            *provider_routes(
                self._issuer, self._endpoints, self._door, self._leaving, self._apps, self._elsewhere
            ),
            *app_routes(self._apps),
            *self._admin.routes(),
        ]

    async def sweep(self) -> None:
        """Forget what has had its time."""
        await self._database.write(self.store.sweep)
