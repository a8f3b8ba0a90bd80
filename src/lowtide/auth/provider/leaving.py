"""Signing out at an app's request (OpenID Connect RP-Initiated Logout 1.0).

An id token of this server says who leaves, and which app sends them. Without one, or when somebody else is
signed in in the browser, the user is asked first: a link must not sign anybody out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from lowtide.auth import jws
from lowtide.auth.keys import KeySource
from lowtide.auth.model import called
from lowtide.auth.provider.browsers import Browsers
from lowtide.auth.provider.clients import Clients
from lowtide.auth.provider.model import Browser, OAuthError
from lowtide.auth.provider.pages import Pages, begun, go, hidden
from lowtide.auth.provider.parameters import read_parameters
from lowtide.auth.provider.store import ProviderStore
from lowtide.auth.sessions import Sessions
from lowtide.auth.users import Users
from lowtide.kernel.clients import Client
from lowtide.kernel.http import Request, Response
from lowtide.storage.db import Database, Tx

MAX_HINT = 8192
"""Characters of an id token that is given as a hint."""


class Hint(msgspec.Struct, frozen=True):
    """What an id token of ours says; it may have expired."""

    user: str
    client: str
    session: str


class Leaving:
    """Answers the end-session endpoint."""

    def __init__(
        self,
        database: Database,
        store: ProviderStore,
        clients: Clients,
        users: Users,
        sessions: Sessions,
        keys: KeySource,
        browsers: Browsers,
        pages: Pages,
        *,
        issuer: str,
    ):
        self._database = database
        self._store = store
        self._clients = clients
        self._users = users
        self._sessions = sessions
        self._keys = keys
        self._browsers = browsers
        self._pages = pages
        self._issuer = issuer

    async def open(self, request: Request[Any, bytes]) -> Response:
        """GET: an app's request, in the query."""
        return await self._start(request, request.query)

    async def answer(self, request: Request[bytes, bytes]) -> Response:
        """POST: the form of our page, or an app's request as a form."""
        try:
            fields = read_parameters(request.body)
        except OAuthError as error:
            return self._pages.said("This cannot go on", error.description, status=400)
        if "answer" not in fields:
            # Another site's form: the browser sends its cookie only with what follows.
            return go(f"{request.path}?{request.body.decode('ascii', 'replace')}")
        self._browsers.check_origin(request)
        held = self._browsers.held(request)
        about = request.query.decode("latin-1")
        if not self._browsers.sealed(fields.get("proof", ""), held, "leave", about):
            return await self._start(request, request.query)
        if fields["answer"] != "yes":
            return self._pages.said("You are still signed in", "You can close this page.")
        return await self._start(request, request.query, sure=True)

    async def _start(self, request: Request[Any, bytes], raw: bytes, *, sure: bool = False) -> Response:
        try:
            parameters = read_parameters(raw)
            client, hint = await self._who(parameters)
        except OAuthError as error:
            return self._pages.said("This cannot go on", error.description, status=400)
        target = parameters.get("post_logout_redirect_uri", "")
        if target and (client is None or not client.returns_to(target)):
            return self._pages.said(
                "This cannot go on",
                "The app wants you to go on to an address that it never registered.",
                status=400,
            )
        held = self._browsers.held(request)
        browser = await self._browsers.known(held)
        if (
            browser is not None
            and held is not None
            and not sure
            and (hint is None or hint.user != browser.user)
        ):
            return await self._ask(held, browser, raw, target)
        await self._end(held, hint, request.id)
        if not target:
            return self._pages.said("You are signed out", "You can close this page.")
        state = parameters.get("state")
        if state is not None:
            separator = "&" if "?" in target else "?"
            target = f"{target}{separator}{urlencode({'state': state}, quote_via=quote)}"
        return go(target)

    async def _ask(self, held: str, browser: Browser, raw: bytes, target: str) -> Response:
        user = await self._database.read(lambda tx: self._users.find(tx, browser.user))
        who = "somebody" if user is None else called(user)
        form = begun() + hidden(proof=self._browsers.seal(held, "leave", raw.decode("latin-1")))
        return self._pages.sign_out(form, who=who, leads_to=target)

    async def _end(self, held: str | None, hint: Hint | None, request: str) -> None:
        """Sign the browser out, and end the session that the id token belongs to."""

        async def work(tx: Tx) -> bool:
            if held is not None:
                await self._store.end_browser(tx, held)
            session = await self._sessions.find(tx, hint.session) if hint is not None else None
            if hint is None or session is None or (session.user, session.client) != (hint.user, hint.client):
                return False
            await self._sessions.revoke(tx, session, "sign_out", request=request)
            return True

        if await self._database.write(work):
            await self._sessions.revocations.committed()

    async def _who(self, parameters: Mapping[str, str]) -> tuple[Client | None, Hint | None]:
        """The client that asks, and whom its id token names. Raises ``OAuthError``."""
        named = parameters.get("client_id")
        token = parameters.get("id_token_hint")
        hint = self._hint(token) if token is not None else None
        if hint is not None and named is not None and named != hint.client:
            raise OAuthError("invalid_request", "The id token was made for another app.")
        id = hint.client if hint is not None else named
        client = await self._clients.find(id) if id else None
        if id and client is None:
            raise OAuthError("invalid_request", "The app that sent you here is not known.")
        return client, hint

    def _hint(self, token: str) -> Hint:
        """An id token that this server signed; expired ones count (RP-Initiated Logout section 4)."""
        wrong = OAuthError("invalid_request", "The id token is none of this server's.")
        try:
            signed = jws.read(token, most=MAX_HINT)
        except ValueError:
            raise wrong from None
        header, claims = signed.header, signed.claims
        kid = header.get("kid")
        key = self._keys.find(kid) if isinstance(kid, str) else None
        if header.keys() != {"alg", "typ", "kid"} or header["alg"] != "ES256" or header["typ"] != "JWT":
            raise wrong
        texts = [claims.get(name) for name in ("sub", "aud", "sid")]
        if key is None or claims.get("iss") != self._issuer or not jws.verified(signed, key.public):
            raise wrong
        user, client, session = texts
        if not (isinstance(user, str) and isinstance(client, str) and isinstance(session, str)):
            raise wrong
        return Hint(user, client, session)
