"""The token endpoint: a code or a refresh token becomes tokens (RFC 6749 section 4.1.3 and 6)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from lowtide.auth import jws
from lowtide.auth.keys import KeySource
from lowtide.auth.model import Ask, Opened, Signed
from lowtide.auth.provider.clients import Clients
from lowtide.auth.provider.model import ID_TOKEN_SECONDS, Code, OAuthError
from lowtide.auth.provider.store import ProviderStore
from lowtide.auth.sessions import Sessions
from lowtide.auth.users import Users
from lowtide.kernel import base64url
from lowtide.kernel.clients import Client
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import AccountDisabled, Forbidden, InvalidGrant, ProofMismatch, SessionRevoked
from lowtide.storage.db import Database, Tx

NARROWED = "The client may ask for less than before: its user signs in anew."

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the token endpoint gives (RFC 6749 section 5.1)."""

    access_token: str
    token_type: str
    expires_in: int
    """Seconds."""
    scope: str
    refresh_token: str = ""
    """With the scope ``offline_access``."""
    id_token: str = ""
    """With the scope ``openid``."""


class From(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends a request to the token endpoint, besides the client."""

    jkt: str | None = None
    """The thumbprint of the key that it proved."""
    ip: str = ""
    request_id: str = ""
    user_agent: str = ""


class Grants:
    """Gives tokens for codes and refresh tokens."""

    def __init__(
        self,
        database: Database,
        store: ProviderStore,
        clients: Clients,
        users: Users,
        sessions: Sessions,
        keys: KeySource,
        clock: Clock,
        *,
        issuer: str,
    ):
        self._database = database
        self._store = store
        self._clients = clients
        self._users = users
        self._sessions = sessions
        self._keys = keys
        self._clock = clock
        self._issuer = issuer

    async def give(self, fields: Mapping[str, str], authorization: str | None, sender: From) -> TokenAnswer:
        """Tokens for what ``fields`` hold. Raises ``OAuthError``, and transient errors as they are."""
        client = await self._clients.authenticate(fields, authorization)
        if client.dpop and sender.jkt is None:
            raise OAuthError(
                "invalid_dpop_proof", "This client's tokens are bound to a key: send a DPoP proof."
            )
        kind = fields.get("grant_type")
        try:
            if kind == "authorization_code":
                return await self._code(client, fields, sender)
            if kind == "refresh_token":
                return await self._refresh(client, fields, sender)
        except ProofMismatch as error:
            raise OAuthError("invalid_dpop_proof", error.message) from None
        except (InvalidGrant, SessionRevoked, AccountDisabled, Forbidden) as error:
            raise OAuthError("invalid_grant", error.message) from None
        if kind is None:
            raise OAuthError("invalid_request", "The grant_type is missing.")
        raise OAuthError("unsupported_grant_type", "There are authorization_code and refresh_token.")

    # -- codes ------------------------------------------------------------------------------------

    async def _code(self, client: Client, fields: Mapping[str, str], sender: From) -> TokenAnswer:
        secret = fields.get("code")
        if secret is None:
            raise OAuthError("invalid_request", "The code is missing.")

        async def work(tx: Tx) -> tuple[Code, Opened] | str:
            # A refusal is returned, not raised: what it wrote must stay.
            code = await self._store.code(tx, secret)
            if code is None or code.client != client.id:
                return "The code is none of this client's."
            if code.used:
                if code.session is not None:
                    await self._withdraw(tx, code.session, sender)
                return "The code was used before; what it gave is withdrawn."
            wrong = self._wrong(client, code, fields, sender)
            user = await self._users.find(tx, code.user)
            if wrong is None and (user is None or user.status != "active"):
                wrong = "The user cannot sign in any more."
            if wrong is not None or user is None:
                await self._store.use_code(tx, secret, None)
                return wrong or ""
            ask = Ask(
                client_id=client.id,
                jkt=sender.jkt,
                ip=sender.ip,
                request_id=sender.request_id,
                user_agent=sender.user_agent,
            )
            details = code.details
            opened = await self._sessions.open(
                tx,
                user,
                ask,
                details.amr,
                client=client.id,
                scope=" ".join(details.scope),
                auth_time=details.auth_time,
            )
            await self._store.use_code(tx, secret, opened.session.id)
            return code, opened

        outcome = await self._database.write(work)
        if isinstance(outcome, str):
            await self._sessions.revocations.committed()
            raise OAuthError("invalid_grant", outcome)
        code, opened = outcome
        signed = self._sessions.signed(opened)
        return self._answer(client, opened.session.scope, signed, code=code)

    def _wrong(self, client: Client, code: Code, fields: Mapping[str, str], sender: From) -> str | None:
        """Why ``fields`` do not fit the code; None when they do."""
        if not set(code.details.scope) <= set(client.scopes):
            return NARROWED
        if code.expires_at <= self._clock.now():
            return "The code has expired."
        if fields.get("redirect_uri") != code.details.redirect_uri:
            return "The redirect_uri is not the one that the code was sent to."
        verifier = fields.get("code_verifier", "")
        challenge = base64url.encode(hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest())
        if _VERIFIER.fullmatch(verifier) is None or not hmac.compare_digest(
            challenge, code.details.challenge
        ):
            return "The code_verifier is not the one that the code_challenge was made of."
        if code.details.jkt is not None and code.details.jkt != sender.jkt:
            return "The code is bound to another key."
        return None

    async def _withdraw(self, tx: Tx, session: str, sender: From) -> None:
        found = await self._sessions.find(tx, session)
        if found is not None:
            await self._sessions.revoke(
                tx, found, "operator", actor="system", via="code.replay", request=sender.request_id
            )

    # -- refresh ----------------------------------------------------------------------------------

    async def _refresh(self, client: Client, fields: Mapping[str, str], sender: From) -> TokenAnswer:
        token = fields.get("refresh_token")
        if token is None:
            raise OAuthError("invalid_request", "The refresh_token is missing.")
        session = await self._database.read(lambda tx: self._sessions.of_token(tx, token))
        scope = session.scope if session is not None else ""
        if session is not None and session.client == client.id:
            if extra := set(fields.get("scope", "").split()) - set(scope.split()):
                raise OAuthError("invalid_scope", f"This was never granted: {' '.join(sorted(extra))[:200]}.")
            if "offline_access" not in scope.split():
                raise InvalidGrant
            if not set(scope.split()) <= set(client.scopes):
                raise InvalidGrant(NARROWED)
        signed = await self._sessions.refresh(
            token,
            rotation_id=fields.get("rotation_id"),
            jkt=sender.jkt,
            client=client.id,
            ip=sender.ip,
            request_id=sender.request_id,
        )
        return self._answer(
            client,
            scope,
            signed,
            auth_time=session.auth_time if session else 0,
            amr=session.amr if session else (),
        )

    # -- answers ----------------------------------------------------------------------------------

    def _answer(
        self,
        client: Client,
        scope: str,
        signed: Signed,
        *,
        code: Code | None = None,
        auth_time: int = 0,
        amr: tuple[str, ...] = (),
    ) -> TokenAnswer:
        granted = scope.split()
        id_token = ""
        if "openid" in granted:
            claims: dict[str, Any] = {}
            if code is not None:
                auth_time, amr = code.details.auth_time, code.details.amr
                if code.details.nonce is not None:
                    claims["nonce"] = code.details.nonce
            id_token = self._id_token(client, signed, auth_time, amr, claims)
        return TokenAnswer(
            access_token=signed.access_token,
            token_type=signed.token_type,
            expires_in=signed.expires_in,
            scope=scope,
            refresh_token=signed.refresh_token if "offline_access" in granted else "",
            id_token=id_token,
        )

    def _id_token(
        self, client: Client, signed: Signed, auth_time: int, amr: tuple[str, ...], claims: Mapping[str, Any]
    ) -> str:
        """An id token (OpenID Connect Core section 2)."""
        key = self._keys.current
        if key.private is None:
            raise ValueError(f"the key {key.kid} only verifies")
        now = self._clock.now() // 1000
        half = hashlib.sha256(signed.access_token.encode()).digest()[:16]
        payload = dict(claims) | {
            "iss": self._issuer,
            "sub": signed.user.id,
            "aud": client.id,
            "iat": now,
            "exp": now + ID_TOKEN_SECONDS,
            "sid": signed.session_id,
            "at_hash": base64url.encode(half),
        }
        if auth_time:
            payload["auth_time"] = auth_time // 1000
        if amr:
            payload["amr"] = list(amr)
        return jws.write({"alg": "ES256", "typ": "JWT", "kid": key.kid}, payload, key.private)
