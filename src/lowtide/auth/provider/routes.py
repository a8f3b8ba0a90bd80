"""What the provider serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lowtide.auth.proofs import SharedProofs
from lowtide.auth.provider import discovery
from lowtide.auth.provider.apps import Apps
from lowtide.auth.provider.authorize import PUSHED, check
from lowtide.auth.provider.clients import Clients
from lowtide.auth.provider.door import Door
from lowtide.auth.provider.elsewhere import Elsewhere
from lowtide.auth.provider.forms import AppForm, LeaveForm, PageForm, RequestForm, TokenForm, TokenNamed
from lowtide.auth.provider.grants import From, Grants, TokenAnswer
from lowtide.auth.provider.inspection import Inspection
from lowtide.auth.provider.leaving import Leaving
from lowtide.auth.provider.model import REQUEST_SECONDS, OAuthError, secret
from lowtide.auth.provider.parameters import read_parameters
from lowtide.auth.provider.store import ProviderStore
from lowtide.kernel.errors import Forbidden, NonceNeeded, ProofInvalid, ScopeMissing
from lowtide.kernel.files import folder_of
from lowtide.kernel.http import KIB, Answer, Header, Request, Response, Route
from lowtide.storage.db import Database

FORM = ("application/x-www-form-urlencoded",)
MAX_FORM = 32 * KIB
"""Bytes of a form."""


CLIENT = (
    Header(
        "authorization",
        "Basic, with the client and its secret (RFC 6749 section 2.3.1), for one that has one.",
    ),
    Header("user-agent", "Shown to the user in the list of their sessions."),
)
"""What the addresses read that clients call."""
BROWSER = (
    Header("origin", "A form of another site is refused."),
    Header("sec-fetch-site", "Likewise."),
    Header("cookie", "The browser's secret."),
    Header("user-agent", "Shown to the user."),
)


LOCATION = Header("location", "Where to go on.")


PASSKEYS = (folder_of("lowtide.auth.provider") / "passkeys.js").read_bytes()


class Wrong(msgspec.Struct, frozen=True):
    """An error of the endpoints that clients call (RFC 6749 section 5.2)."""

    error: str
    error_description: str


class Endpoints:
    """The addresses that clients call themselves, without a browser."""

    def __init__(
        self,
        database: Database,
        store: ProviderStore,
        clients: Clients,
        grants: Grants,
        inspection: Inspection,
        proofs: SharedProofs,
    ):
        self._database = database
        self._store = store
        self._clients = clients
        self._grants = grants
        self._inspection = inspection
        self._proofs = proofs

    async def token(self, request: Request[bytes, bytes]) -> Response:
        """Tokens for a code or a refresh token (RFC 6749 section 3.2; RFC 9449 section 5)."""
        try:
            sender = From(
                jkt=await self._proved(request),
                ip=request.client,
                request_id=request.id,
                user_agent=request.header("user-agent") or "",
            )
            fields = read_parameters(request.body)
            answer = await self._grants.give(fields, request.header("authorization"), sender)
        except OAuthError as error:
            return _wrong(error)
        bound = {"dpop-nonce": self._proofs.nonce()} if sender.jkt is not None else {}
        return Response(body=answer, headers={**_NO_STORE, **bound})

    async def push(self, request: Request[bytes, bytes]) -> Response:
        """An authorization request, pushed before the browser comes with its address (RFC 9126)."""
        try:
            jkt = await self._proved(request)
            fields = read_parameters(request.body)
            client = await self._clients.authenticate(fields, request.header("authorization"))
            if "request_uri" in fields:
                raise OAuthError("invalid_request", "A request that is pushed names no other.")
            parameters = {name: text for name, text in fields.items() if name != "client_secret"}
            if jkt is not None and parameters.setdefault("dpop_jkt", jkt) != jkt:
                raise OAuthError("invalid_dpop_proof", "The proof is of another key than dpop_jkt.")
            if not client.redirects_to(parameters.get("redirect_uri", "")):
                raise OAuthError("invalid_request", "The redirect_uri is not registered for this client.")
            check(client, parameters)
        except OAuthError as error:
            return _wrong(error)
        name = secret()
        await self._database.write(lambda tx: self._store.put_request(tx, name, client.id, parameters))
        body = {"request_uri": PUSHED + name, "expires_in": REQUEST_SECONDS}
        return Response(body=body, status=201, headers=_NO_STORE)

    async def revoke(self, request: Request[bytes, bytes]) -> Response:
        """The end of a token, and of the session that it belongs to (RFC 7009)."""
        try:
            fields = read_parameters(request.body)
            await self._inspection.end(fields, request.header("authorization"), request=request.id)
        except OAuthError as error:
            return _wrong(error)
        return Response(body={}, headers=_NO_STORE)

    async def introspect(self, request: Request[bytes, bytes]) -> Response:
        """What a token is worth (RFC 7662)."""
        try:
            fields = read_parameters(request.body)
            answer = await self._inspection.look(fields, request.header("authorization"))
        except OAuthError as error:
            return _wrong(error)
        return Response(body=answer, headers=_NO_STORE)

    async def userinfo(self, request: Request[Any, Any]) -> Response:
        """Who the user of the token is (OpenID Connect Core section 5.3)."""
        who = request.principal
        if "openid" not in who.scope:
            # The app's own tokens pass the edge without scopes.
            raise ScopeMissing("The token was not granted the scope 'openid'.", scope="openid")
        return Response(body=await self._inspection.userinfo(who))

    async def _proved(self, request: Request[Any, Any]) -> str | None:
        try:
            return await self._proofs.of(request)
        except NonceNeeded as error:
            raise OAuthError("use_dpop_nonce", error.message, nonce=error.details["nonce"]) from None
        except ProofInvalid as error:
            raise OAuthError("invalid_dpop_proof", error.message) from None


_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


def _wrong(error: OAuthError) -> Response:
    headers = dict(_NO_STORE)
    if error.status == 401:
        headers["www-authenticate"] = 'Basic realm="oauth"'
    if error.nonce is not None:
        headers["dpop-nonce"] = error.nonce
    return Response(body=Wrong(error.error, error.description), status=error.status, headers=headers)


def provider_routes(
    issuer: str, endpoints: Endpoints, door: Door, leaving: Leaving, apps: Apps, elsewhere: Elsewhere
) -> list[Route]:
    """Every address of the provider."""
    known = discovery.metadata(issuer)

    async def metadata(_: Request[Any, Any]) -> Response:
        """What this server can do, for OAuth and OpenID clients."""
        return Response(body=known, headers={"cache-control": "public, max-age=300", **_ANYWHERE})

    async def script(_: Request[Any, Any]) -> Response:
        """What asks the device; the page's policy lets nothing else run."""
        return Response(body=PASSKEYS, media_type="text/javascript; charset=utf-8", headers=_CACHED)

    def form(
        path: str, handler: Any, form: type[msgspec.Struct], summary: str, response: Any, status: int = 200
    ) -> Route:
        return Route(
            "POST",
            path,
            handler,
            body=bytes,
            form=form,
            consumes=FORM,
            max_body=MAX_FORM,
            auth="none",
            response=response,
            status=status,
            headers=CLIENT,
            key="none",
            answers=(
                Answer(400, "The request is wrong (RFC 6749 section 5.2).", Wrong),
                Answer(401, "The client is not who it says.", Wrong),
            ),
            summary=summary,
            tags=("oauth",),
        )

    def page(
        method: Any, path: str, handler: Any, summary: str, form: type[msgspec.Struct] | None = None
    ) -> Route:
        return Route(
            method,
            path,
            handler,
            body=bytes if method == "POST" else None,
            form=form,
            consumes=FORM,
            max_body=MAX_FORM,
            raw_query=True,
            headers=BROWSER,
            key="none",
            auth="none",
            produces="text/html",
            answers=(
                Answer(303, "On, to another page or back to the app.", headers=(LOCATION,)),
                Answer(400, "A page that says what is wrong.", media_type="text/html"),
            ),
            summary=summary,
            errors=(Forbidden,) if method == "POST" else (),
            tags=("oauth",),
        )

    def described(path: str) -> Route:
        return Route(
            "GET",
            path,
            metadata,
            auth="none",
            response=dict[str, Any],
            summary="What the OAuth provider can do",
            tags=("oauth",),
        )

    def user(method: Any) -> Route:
        return Route(
            method,
            discovery.USERINFO,
            endpoints.userinfo,
            body=bytes if method == "POST" else None,
            consumes=("*/*",),
            max_body=KIB,
            response=dict[str, Any],
            scope="openid",
            key="none",
            summary="Who the user is",
            errors=(ScopeMissing,),
            tags=("oauth",),
        )

    return [
        described("/.well-known/openid-configuration"),
        described("/.well-known/oauth-authorization-server"),
        page("GET", discovery.AUTHORIZE, door.open, "Sign a user in for an app"),
        page("POST", discovery.AUTHORIZE, door.answer, "Go on with a sign-in", PageForm),
        form(
            discovery.PUSH, endpoints.push, RequestForm, "Push an authorization request", dict[str, Any], 201
        ),
        form(discovery.TOKEN, endpoints.token, TokenForm, "Get tokens", TokenAnswer),
        user("GET"),
        user("POST"),
        form(discovery.REVOKE, endpoints.revoke, TokenNamed, "End a token", dict[str, Any]),
        form(discovery.INTROSPECT, endpoints.introspect, TokenNamed, "Look at a token", dict[str, Any]),
        page("GET", discovery.LOGOUT, leaving.open, "Sign out of the browser"),
        page("POST", discovery.LOGOUT, leaving.answer, "Go on with signing out", LeaveForm),
        page("GET", discovery.UPSTREAM + "/{provider}", elsewhere.leave, "On to an outside provider"),
        page("GET", discovery.UPSTREAM, elsewhere.back, "Back from an outside provider"),
        Route(
            "GET",
            discovery.SCRIPT,
            script,
            auth="none",
            produces="text/javascript",
            rate="read",
            summary="The script of the passkey button",
            tags=("oauth",),
        ),
        page("GET", discovery.APPS, apps.open, "The page of the user's apps"),
        page("POST", discovery.APPS, apps.answer, "Withdraw an app on the page", AppForm),
    ]


_CACHED = {"cache-control": "public, max-age=300"}
_ANYWHERE: Mapping[str, str] = {"cross-origin-resource-policy": "cross-origin"}
