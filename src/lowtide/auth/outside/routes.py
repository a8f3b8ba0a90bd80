"""What signing in with others serves."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from lowtide.auth.methods.signing import HEADERS, REFUSED, UNLINKED, Answered, Linking, Signing
from lowtide.auth.model import MAX_PERSON
from lowtide.auth.outside import apple
from lowtide.auth.outside.issuers import MAX_ID_TOKEN
from lowtide.auth.outside.native import NativeSignIn
from lowtide.auth.outside.upstream import EVER, MAX_STATE, Upstreams
from lowtide.auth.provider.model import OAuthError
from lowtide.auth.provider.parameters import read_parameters
from lowtide.kernel.errors import (
    BadRequest,
    InvalidGrant,
    NotFound,
    Unavailable,
)
from lowtide.kernel.http import KIB, Answer, Header, Request, Response, Route

PATIENCE = 25.0
"""Seconds for an address that asks a provider up to three times."""

Verifier = Annotated[str, msgspec.Meta(min_length=43, max_length=128, pattern=r"^[A-Za-z0-9._~-]+$")]


class IdTokenSignIn(Linking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the phone's own system gave the app."""

    provider: Literal["apple", "google"]
    id_token: Annotated[str, msgspec.Meta(max_length=MAX_ID_TOKEN)]
    nonce: Annotated[str, msgspec.Meta(min_length=16, max_length=256)]
    """What the app made up for this sign-in. The token holds it, or its SHA-256 in hexadecimal digits."""
    authorization_code: Annotated[str, msgspec.Meta(max_length=apple.MAX_CODE)] | None = None
    """Apple's: with it the account's deletion can end Apple's side of it, too."""
    name: Annotated[str, msgspec.Meta(max_length=MAX_PERSON)] | None = None
    """What Apple told the app at the first sign-in, and nobody else."""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """What Apple's servers send."""

    payload: Annotated[str, msgspec.Meta(max_length=MAX_ID_TOKEN)]


class StartQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Where the browser comes from, and who may finish."""

    redirect_uri: Annotated[str, msgspec.Meta(max_length=512)]
    """One of ``app_redirects``."""
    challenge: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{43}$")]
    """The SHA-256 of the app's verifier, as base64url without padding (RFC 7636, S256)."""
    state: Annotated[str, msgspec.Meta(max_length=MAX_STATE)] = ""
    """Comes back to the app as it is."""
    login_hint: Annotated[str, msgspec.Meta(max_length=254)] = ""
    max_age: Annotated[int, msgspec.Meta(ge=0, le=EVER)] | None = None
    """Seconds ago that the user may have signed in at the provider, which asks them again otherwise: for a
    step-up. The app is called back with ``login_required`` by a provider that does not say when."""


class Finish(Linking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of a sign-in with another provider."""

    code: Annotated[str, msgspec.Meta(max_length=4096)]
    """What the app was called back with."""
    verifier: Verifier
    """What ``challenge`` was the SHA-256 of: only the device that began has it."""


def outside_routes(native: NativeSignIn, upstreams: Upstreams, signing: Signing) -> list[Route]:
    """``/v1/auth/id-token``, ``/v1/auth/apple/...`` and ``/v1/auth/oidc/...``."""

    async def sign_in(request: Request[IdTokenSignIn, None]) -> Answered:
        """Sign in with the id token of Apple or Google that the phone's own system gave."""
        body, ask = request.body, await signing.ask(request, request.body)
        evidence = await native.prove(
            body.provider, body.id_token, body.nonce, code=body.authorization_code, name=body.name
        )
        answer = await signing.complete(evidence, ask, request.keep)
        if body.authorization_code:
            native.wake()
        return answer

    async def hear(request: Request[Notification, None]) -> None:
        """Apple's notifications: consent that was withdrawn, accounts that were deleted. Signed by Apple."""
        await native.hear_apple(request.body.payload)

    async def start(request: Request[None, StartQuery]) -> Response:
        """Open this in the system's browser: it leads to the provider, and from there back to the app."""
        asked = request.query
        location = await upstreams.start(
            request.params["provider"],
            redirect_uri=asked.redirect_uri,
            challenge=asked.challenge,
            state=asked.state,
            login_hint=asked.login_hint,
            max_age=asked.max_age,
        )
        return Response(status=302, headers={"location": location})

    async def callback(request: Request[None, bytes]) -> Response:
        """Where the provider sends the browser. It leads on to the app, with a code or an error."""
        try:
            answer = read_parameters(request.query)
        except OAuthError as error:
            raise BadRequest(error.description) from error
        location = await upstreams.callback(request.params["provider"], answer)
        return Response(status=302, headers={"location": location})

    async def finish(request: Request[Finish, None]) -> Answered:
        """Exchange the code for tokens, on the device that began."""
        body, ask = request.body, await signing.ask(request, request.body)
        evidence = await upstreams.finish(body.code, body.verifier)
        return await signing.complete(evidence, ask, request.keep)

    tags = ("outside",)
    redirect = (Answer(302, "On to the next place.", headers=(Header("location", "Where to."),)),)
    return [
        Route(
            "POST",
            "/v1/auth/id-token",
            sign_in,
            body=IdTokenSignIn,
            response=Answered,
            auth="none",
            max_body=32 * KIB,
            errors=(InvalidGrant, NotFound, Unavailable, *REFUSED, *UNLINKED),
            headers=HEADERS,
            summary="Sign in with Apple's or Google's id token",
            tags=tags,
        ),
        Route(
            "POST",
            "/v1/auth/apple/notifications",
            hear,
            body=Notification,
            auth="none",
            max_body=32 * KIB,
            errors=(InvalidGrant, NotFound, Unavailable),
            summary="Apple's notifications",
            tags=tags,
        ),
        Route(
            "GET",
            "/v1/auth/oidc/{provider}/start",
            start,
            query=StartQuery,
            auth="none",
            status=302,
            answers=redirect,
            errors=(NotFound, BadRequest, Unavailable),
            summary="Begin to sign in with another provider",
            tags=tags,
        ),
        Route(
            "GET",
            "/v1/auth/oidc/{provider}/callback",
            callback,
            raw_query=True,
            auth="none",
            status=302,
            answers=redirect,
            deadline=PATIENCE,
            errors=(BadRequest, InvalidGrant),
            summary="The way back from another provider",
            tags=tags,
        ),
        Route(
            "POST",
            "/v1/auth/oidc/finish",
            finish,
            body=Finish,
            response=Answered,
            auth="none",
            max_body=16 * KIB,
            errors=(InvalidGrant, *REFUSED, *UNLINKED),
            headers=HEADERS,
            summary="Finish to sign in with another provider",
            tags=tags,
        ),
    ]
