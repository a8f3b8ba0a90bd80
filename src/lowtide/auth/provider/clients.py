"""Which apps may ask, and whether a request is really theirs."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from lowtide.auth.provider.model import OWN, OAuthError
from lowtide.auth.provider.parameters import read_basic
from lowtide.auth.provider.store import ProviderStore
from lowtide.kernel.clients import Client
from lowtide.kernel.errors import SetupError
from lowtide.storage.db import Database, Tx


class Clients:
    """The clients of the settings, and those registered through the admin API."""

    def __init__(self, database: Database, store: ProviderStore, fixed: Iterable[Client] = ()):
        """``fixed``: of the settings. Raises ``SetupError`` for two of one id, and for this server's own."""
        self._database = database
        self._store = store
        self.fixed: dict[str, Client] = {}
        for client in fixed:
            if client.id == OWN:
                raise SetupError(f"The client id {OWN!r} is this server's own.", hint="Give it another id.")
            if client.id in self.fixed:
                raise SetupError(f"Two clients have the id {client.id!r}.", hint="Give one another id.")
            self.fixed[client.id] = client

    async def find(self, id: str) -> Client | None:
        """The client with this id. One query for a registered one."""
        known = self.fixed.get(id)
        if known is not None or not 0 < len(id) <= 100:
            return known

        async def work(tx: Tx) -> Client | None:
            return await self._store.client(tx, id)

        return await self._database.read(work)

    async def authenticate(self, parameters: Mapping[str, str], authorization: str | None) -> Client:
        """The client that sends this (RFC 6749 section 2.3).

        A public client says its ``client_id``; one that keeps a secret proves it, by Basic or in the form,
        not both. Raises ``OAuthError`` (``invalid_client``, 401).
        """
        basic = read_basic(authorization)
        id, secret = basic or (parameters.get("client_id", ""), parameters.get("client_secret", ""))
        if basic is not None and (
            "client_secret" in parameters or parameters.get("client_id", basic[0]) != basic[0]
        ):
            raise OAuthError("invalid_request", "The client is named in two ways.")
        client = await self.find(id) if id else None
        # The hash of nothing for a client that is unknown or public: every way costs the same.
        expected = (
            client.secret_sha256
            if client is not None and client.confidential
            else hashlib.sha256().hexdigest()
        )
        given = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        if client is None or not hmac.compare_digest(given, expected):
            raise OAuthError("invalid_client", "The client is unknown, or its secret is wrong.", status=401)
        return client
