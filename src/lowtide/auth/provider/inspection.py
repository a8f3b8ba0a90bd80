"""Looking at tokens and ending them: introspection (RFC 7662), revocation (RFC 7009) and userinfo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lowtide.auth.model import Session, User
from lowtide.auth.provider.clients import Clients
from lowtide.auth.provider.model import OAuthError
from lowtide.auth.sessions import Sessions
from lowtide.auth.tokens import Tokens
from lowtide.auth.users import Users
from lowtide.kernel.clients import Client
from lowtide.kernel.errors import Unauthorized
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx


class Inspection:
    """Answers about tokens."""

    def __init__(
        self,
        database: Database,
        clients: Clients,
        users: Users,
        sessions: Sessions,
        tokens: Callable[[], Tokens],
        *,
        issuer: str,
        audience: str,
    ):
        """``tokens``: what verifies. ``audience``: of the app's access tokens."""
        self._database = database
        self._clients = clients
        self._users = users
        self._sessions = sessions
        self._tokens = tokens
        self._issuer = issuer
        self._audience = audience

    # -- introspection ----------------------------------------------------------------------------

    async def asks(self, fields: Mapping[str, str], authorization: str | None) -> Client | Principal:
        """Who may look at tokens: a client that keeps a secret, or the app's own server with its token.

        Raises ``OAuthError`` (``invalid_client``, 401) for everybody else.
        """
        if authorization is not None and authorization[:7].lower() == "bearer ":
            try:
                who = self._tokens().verify(authorization[7:].strip())
            except Unauthorized as error:
                raise OAuthError("invalid_client", error.message, status=401) from None
            if who.server and not who.jkt:
                return who
            raise OAuthError("invalid_client", "Only the app's own servers may look at tokens.", status=401)
        client = await self._clients.authenticate(fields, authorization)
        if not client.confidential:
            raise OAuthError(
                "invalid_client", "A client without a secret may not look at tokens.", status=401
            )
        return client

    async def look(self, fields: Mapping[str, str], authorization: str | None) -> dict[str, Any]:
        """What a token is worth now: ``{"active": false}`` for whatever is not good, and nothing more.

        An app's server sees every token, a client only those that it was given.
        """
        asking = await self.asks(fields, authorization)
        token = _token(fields)
        session: Session | None
        who: Principal | None
        try:
            who = self._tokens().verify(token)
        except Unauthorized:
            who = None

        async def work(tx: Tx) -> Session | None:
            if who is None:
                return await self._sessions.of_token(tx, token)
            return await self._sessions.find(tx, who.session) if who.session else None

        session = await self._database.read(work)
        if isinstance(asking, Client) and (session is None or session.client != asking.id):
            return {"active": False}
        if session is not None and session.ended_at is not None:
            return {"active": False}
        if who is None:
            return _refreshing(session, self._issuer) if session is not None else {"active": False}
        if who.session and session is None:
            return {"active": False}
        return self._described(who)

    def _described(self, who: Principal) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "active": True,
            "sub": who.user,
            "iss": self._issuer,
            "aud": self._audience,
            "scope": " ".join(who.scope),
            "token_type": "DPoP" if who.jkt else "Bearer",
            "space": who.space,
        }
        if who.expires_at is not None:
            answer["exp"] = who.expires_at // 1000
        if who.client:
            answer["client_id"] = who.client
        if who.session:
            answer["sid"] = who.session
        if who.auth_time:
            answer["auth_time"] = who.auth_time // 1000
        if who.jkt:
            answer["cnf"] = {"jkt": who.jkt}
        return answer

    # -- revocation -------------------------------------------------------------------------------

    async def end(self, fields: Mapping[str, str], authorization: str | None, *, request: str = "") -> None:
        """End the session of a refresh or access token, if it is the client's.

        Raises ``OAuthError`` for a client that is none, and for a form without a token.
        """
        client = await self._clients.authenticate(fields, authorization)
        token = _token(fields)
        try:
            named = self._tokens().verify(token).session
        except Unauthorized:
            named = ""

        async def work(tx: Tx) -> bool:
            if named:
                session = await self._sessions.find(tx, named)
            else:
                session = await self._sessions.of_token(tx, token)
            if session is None or session.client != client.id:
                return False
            await self._sessions.revoke(tx, session, "sign_out", request=request)
            return True

        if await self._database.write(work):
            await self._sessions.revocations.committed()

    # -- userinfo ---------------------------------------------------------------------------------

    async def userinfo(self, who: Principal) -> dict[str, Any]:
        """Who the user is, as far as the token's scopes reach (OpenID Connect Core section 5.3, 5.4).

        Raises ``Unauthorized`` for a user who is gone.
        """
        user = await self._database.read(lambda tx: self._users.find(tx, who.user))
        if user is None or user.status != "active":
            raise Unauthorized("The user of this token is gone.")
        return claims_of(user, who.scope)


def claims_of(user: User, scope: tuple[str, ...]) -> dict[str, Any]:
    """The claims about ``user`` that ``scope`` gives; what is not known is left out."""
    found: dict[str, Any] = {"sub": user.id}
    if "profile" in scope:
        found["updated_at"] = user.updated_at // 1000
        if user.name:
            found["name"] = user.name
    if "email" in scope and user.email:
        found |= {"email": user.email, "email_verified": user.email_verified}
    if "phone" in scope and user.phone:
        found |= {"phone_number": user.phone, "phone_number_verified": user.phone_verified}
    return found


def _token(fields: Mapping[str, str]) -> str:
    token = fields.get("token")
    if token is None:
        raise OAuthError("invalid_request", "The token is missing.")
    return token


def _refreshing(session: Session, issuer: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "active": True,
        "sub": session.user,
        "iss": issuer,
        "scope": session.scope,
        "sid": session.id,
        "iat": session.created_at // 1000,
        "space": session.space,
    }
    if session.client:
        answer["client_id"] = session.client
    if session.jkt is not None:
        answer["cnf"] = {"jkt": session.jkt}
    return answer
