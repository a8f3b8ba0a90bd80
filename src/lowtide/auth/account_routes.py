"""A user's own addresses: tokens, devices, what is known of them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from lowtide.auth.accounts import Accounts
from lowtide.auth.answers import (
    Account,
    Device,
    SignedIn,
    WayIn,
    account,
    ask_of,
    device,
    kept,
    own_session,
    signed_in,
    way_in,
)
from lowtide.auth.deletion import Deletion
from lowtide.auth.merging import Merging
from lowtide.auth.methods.networks import network
from lowtide.auth.model import DeviceFacts
from lowtide.auth.own import Own
from lowtide.auth.proofs import SharedProofs
from lowtide.auth.refresh import MAX_REFRESH_TOKEN, MAX_ROTATION_ID
from lowtide.auth.tokens import MAX_TOKEN
from lowtide.kernel.errors import (
    Conflict,
    Forbidden,
    FunctionFailed,
    InvalidGrant,
    NonceNeeded,
    NotFound,
    ProofInvalid,
    ProofMismatch,
    SessionRevoked,
    SignInRefused,
    StepUpRequired,
    TooManyRequests,
)
from lowtide.kernel.http import KIB, Header, Outlet, Request, Route, StreamAnswer
from lowtide.kernel.rates import Limit
from lowtide.storage.rates import SharedRates

AGENT = Header("user-agent", "Shown to the user in the list of devices.")
DPOP = Header("dpop", "A proof of the key that the session is bound to (RFC 9449).")
MERGES = Limit(10, 3600.0)
"""Merges of one user: each looks at every record of some models."""
NDJSON = "application/x-ndjson"
ANONYMOUS_STARTS = Limit(120, 3600.0, burst=30)
"""New anonymous users from one network: a mobile operator's customers share one."""


class Refreshing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A refresh. Keep ``rotation_id`` before sending, and send it again with every repeat."""

    refresh_token: Annotated[str, msgspec.Meta(max_length=MAX_REFRESH_TOKEN)]
    rotation_id: Annotated[str, msgspec.Meta(min_length=16, max_length=MAX_ROTATION_ID)] | None = None
    space: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    """Act in this space with the new access token; the session's own otherwise."""


class Starting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user who has proved nothing yet."""

    device: DeviceFacts = DeviceFacts()
    space: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] = "main"


class Naming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str | None


class Ending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    wipe: bool = False
    """Ask the devices to delete what they hold, too."""


class EndQuery(msgspec.Struct, frozen=True):
    wipe: bool = False
    """Ask the device to delete what it holds, too."""


class Merge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)]
    """The anonymous account's refresh token, or its access token."""


class UnmovedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that stays as it was, because the user has one with the same unique values."""

    space: str
    model: str
    id: str
    code: str


class MergedIn(msgspec.Struct, frozen=True, kw_only=True):
    """Two accounts that are one."""

    signed: SignedIn
    records: int
    """How many were moved."""
    left: list[UnmovedRecord]


class Devices(msgspec.Struct, frozen=True):
    sessions: list[Device]


class WaysIn(msgspec.Struct, frozen=True):
    identities: list[WayIn]


def account_routes(
    accounts: Accounts,
    own: Own,
    merging: Merging,
    deletion: Deletion,
    proofs: SharedProofs,
    rates: SharedRates,
) -> list[Route]:
    """Every address that a user has for themselves, whatever they signed in with."""

    async def refresh(request: Request[Refreshing, None]) -> SignedIn:
        """New tokens for a refresh token.

        A repeat with the same `rotation_id` gets the same refresh token, at any time. Sign out only on
        `session_revoked` and `invalid_grant`; delete what the device holds only if `wipe` is true. After any
        other error send the same request again, later.
        """
        body = request.body
        signed = await accounts.sessions.refresh(
            body.refresh_token,
            rotation_id=body.rotation_id,
            jkt=await proofs.of(request),
            space=body.space,
            ip=request.client,
            request_id=request.id,
        )
        return signed_in(signed)

    async def anonymous(request: Request[Starting, None]) -> SignedIn:
        """A new user without a name: the app can be used at once, and the account be claimed later."""
        taken = await rates.take("auth.anonymous", network(request.client), ANONYMOUS_STARTS)
        if not taken.allowed:
            raise TooManyRequests(
                "Too many new users from this network.", retry_after=round(taken.retry_after + 1)
            )
        jkt = await proofs.of(request)
        ask = ask_of(request, device=request.body.device, space=request.body.space, jkt=jkt)
        return signed_in(await accounts.sign_in.anonymous(ask, also=kept(request.keep)))

    async def me(request: Request[None, None]) -> Account:
        """Who the token stands for."""
        return account(await own.user(request.principal))

    async def rename(request: Request[Naming, None]) -> Account:
        """Change the user's name; null takes it away."""
        return account(await own.rename(request.principal, request.body.name, request.id))

    async def sessions(request: Request[None, None]) -> Devices:
        """Where the user is signed in, the newest first."""
        found = await own.sessions(request.principal)
        return Devices([device(session, request.principal.session) for session in found])

    async def end(request: Request[None, EndQuery]) -> None:
        """Sign one device out, this one or another: at once, wherever it is online."""
        await own.end(request.principal, request.params["id"], wipe=request.query.wipe, request=request.id)

    async def end_others(request: Request[Ending, None]) -> None:
        """Sign every other device out."""
        await own.end_others(request.principal, wipe=request.body.wipe, request=request.id)

    async def sign_out(request: Request[None, None]) -> None:
        """End this session."""
        who = request.principal
        await own.end(who, who.session, by="sign_out", request=request.id)

    async def identities(request: Request[None, None]) -> WaysIn:
        """The ways in that the user has."""
        return WaysIn([way_in(one) for one in await own.identities(request.principal)])

    async def unlink(request: Request[None, None]) -> None:
        """Take one way in away; never the last one. Needs a sign-in of the last 15 minutes."""
        who = own_session(request.principal)
        named = request.params
        await accounts.identities.unlink(who, named["provider"], named["subject"], ask_of(request))

    async def merge(request: Request[Merge, None]) -> MergedIn:
        """Make an anonymous account one with the user's own, with everything that was written under it.

        In one transaction. Keep the tokens of this answer: changes that were made under the old id and
        have not been uploaded yet are sent with them. A repeat after a lost answer is answered like the
        first time.
        """
        who = request.principal
        taken = await rates.take("auth.merge", who.user, MERGES)
        if not taken.allowed:
            raise TooManyRequests("Too many merges.", retry_after=round(taken.retry_after + 1))
        merged = await merging.merge(who, request.body.token, await proofs.of(request), request.id)
        left = [
            UnmovedRecord(space=one.space, model=one.model, id=one.id, code=one.code) for one in merged.left
        ]
        return MergedIn(signed=signed_in(merged.signed), records=merged.records, left=left)

    async def export(request: Request[None, None]) -> StreamAnswer:
        """What is kept of the user, as lines of JSON: account, spaces, ways in, sessions, passkeys, apps that
        act for them, and records.
        """
        lines = await deletion.export(request.principal)

        async def run(outlet: Outlet) -> None:
            async for line in lines:
                await outlet.write(line)

        name = 'attachment; filename="account.ndjson"'
        return StreamAnswer(run=run, media_type=NDJSON, headers={"content-disposition": name})

    async def delete(request: Request[None, None]) -> None:
        """Delete the account: signed out everywhere at once, the records soon after.

        Needs a sign-in of the last 15 minutes; 403 `step_up_required` otherwise.
        """
        await deletion.delete_own(request.principal, request.id)

    revoked = (SessionRevoked,)
    return [
        Route(
            "POST",
            "/v1/auth/token/refresh",
            refresh,
            body=Refreshing,
            response=SignedIn,
            auth="none",
            max_body=16 * KIB,
            headers=(DPOP,),
            summary="New tokens for a refresh token",
            errors=(InvalidGrant, SessionRevoked, Forbidden, ProofMismatch, ProofInvalid, NonceNeeded),
            tags=("accounts",),
        ),
        Route(
            "POST",
            "/v1/auth/anonymous",
            anonymous,
            body=Starting,
            response=SignedIn,
            auth="none",
            status=201,
            max_body=16 * KIB,
            headers=(DPOP, AGENT),
            summary="Begin without a name",
            errors=(TooManyRequests, Forbidden, SignInRefused, FunctionFailed, ProofInvalid, NonceNeeded),
            tags=("accounts",),
        ),
        Route(
            "GET",
            "/v1/auth/me",
            me,
            response=Account,
            summary="The user's account",
            errors=(NotFound,),
            tags=("accounts",),
        ),
        Route(
            "PATCH",
            "/v1/auth/me",
            rename,
            body=Naming,
            response=Account,
            max_body=16 * KIB,
            summary="Change the user's name",
            errors=(
                Forbidden,
                NotFound,
            ),
            tags=("accounts",),
        ),
        Route(
            "DELETE",
            "/v1/auth/me",
            delete,
            summary="Delete the account",
            errors=(NotFound, Conflict, StepUpRequired),
            tags=("accounts",),
        ),
        Route(
            "GET",
            "/v1/auth/me/export",
            export,
            produces=NDJSON,
            summary="What is kept of the user",
            errors=(NotFound,),
            tags=("accounts",),
        ),
        Route(
            "POST",
            "/v1/auth/merge",
            merge,
            body=Merge,
            response=MergedIn,
            max_body=16 * KIB,
            deadline=60,
            headers=(DPOP,),
            summary="Merge an anonymous account into this one",
            errors=(
                InvalidGrant,
                ProofMismatch,
                ProofInvalid,
                NonceNeeded,
                Conflict,
                NotFound,
                TooManyRequests,
            ),
            tags=("accounts",),
        ),
        Route(
            "GET",
            "/v1/auth/sessions",
            sessions,
            response=Devices,
            summary="Where the user is signed in",
            errors=(Forbidden,),
            tags=("accounts",),
        ),
        Route(
            "DELETE",
            "/v1/auth/sessions/{id}",
            end,
            query=EndQuery,
            summary="Sign a device out",
            errors=(Forbidden, NotFound, *revoked),
            tags=("accounts",),
        ),
        Route(
            "POST",
            "/v1/auth/sessions/end-others",
            end_others,
            body=Ending,
            max_body=16 * KIB,
            summary="Sign every other device out",
            errors=(Forbidden,),
            tags=("accounts",),
        ),
        Route(
            "POST",
            "/v1/auth/sign-out",
            sign_out,
            summary="End this session",
            errors=(
                Forbidden,
                NotFound,
            ),
            tags=("accounts",),
        ),
        Route(
            "GET",
            "/v1/auth/identities",
            identities,
            response=WaysIn,
            summary="The user's ways in",
            errors=(Forbidden,),
            tags=("accounts",),
        ),
        Route(
            "DELETE",
            "/v1/auth/identities/{provider}/{subject}",
            unlink,
            headers=(AGENT,),
            summary="Take a way in away",
            errors=(Forbidden, NotFound, Conflict, StepUpRequired),
            tags=("accounts",),
        ),
    ]
