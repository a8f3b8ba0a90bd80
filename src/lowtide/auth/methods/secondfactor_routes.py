"""``/v1/auth/second-factor``: finish a sign-in; ``/v1/auth/me/second-factor``: set one up, take it away."""

from __future__ import annotations

from typing import Annotated

import msgspec

from lowtide.auth.answers import SignedIn, own_session
from lowtide.auth.methods.codes import MAX_SECRET
from lowtide.auth.methods.secondfactor import Enrolment, RecoveryCodes, SecondFactors
from lowtide.auth.methods.signing import HEADERS, REFUSED, Asking, Signing
from lowtide.kernel.errors import Conflict, InvalidGrant, StepUpRequired, TooManyRequests
from lowtide.kernel.http import KIB, Request, Route

Secret = Annotated[str, msgspec.Meta(max_length=MAX_SECRET)]
MINE = "/v1/auth/me/second-factor"


class SecondFactorSent(Asking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ticket of a sign-in, and a code: from the authenticator app, or one of the recovery codes."""

    ticket: Secret
    code: Secret


class SecondFactorCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A code from the authenticator app."""

    code: Secret


def second_factor_routes(seconds: SecondFactors, signing: Signing) -> list[Route]:
    """The addresses of the second factor."""

    async def finish(request: Request[SecondFactorSent, None]) -> SignedIn:
        """Finish a sign-in with the second factor. A wrong code may be followed by others, ever slower."""
        body, ask = request.body, await signing.ask(request, request.body)
        user = await signing.waiting(body.ticket)
        factor = await seconds.check(
            user.id,
            body.code,
            ip=request.client,
            request=request.id,
            installation=body.device.installation,
        )
        return await signing.finish(body.ticket, factor, ask, request.keep)

    async def enrol(request: Request[None, None]) -> Enrolment:
        """Begin to set up an authenticator app. Not in force before it is confirmed."""
        who = signing.fresh(own_session(request.principal))
        return await seconds.enrol(who)

    async def confirm(request: Request[SecondFactorCode, None]) -> RecoveryCodes:
        """Put the authenticator app into force with a code from it. Recovery codes are shown this once."""
        who = own_session(request.principal)
        return await seconds.confirm(who, request.body.code.strip(), ip=request.client, request=request.id)

    async def renew(request: Request[None, None]) -> RecoveryCodes:
        """Make new recovery codes; the old ones are worth nothing from then on."""
        return await seconds.renew(signing.fresh(own_session(request.principal)), request=request.id)

    async def remove(request: Request[None, None]) -> None:
        """Take the second factor away, with its recovery codes."""
        await seconds.remove(signing.fresh(own_session(request.principal)), request=request.id)

    tags = ("sign-in",)
    return [
        Route(
            "POST",
            "/v1/auth/second-factor",
            finish,
            body=SecondFactorSent,
            response=SignedIn,
            auth="none",
            max_body=16 * KIB,
            headers=HEADERS,
            summary="Finish a sign-in with the second factor",
            errors=(InvalidGrant, TooManyRequests, *REFUSED),
            tags=tags,
        ),
        Route(
            "POST",
            MINE,
            enrol,
            response=Enrolment,
            summary="Set up an authenticator app",
            errors=(StepUpRequired, Conflict),
            tags=tags,
        ),
        Route(
            "POST",
            f"{MINE}/confirm",
            confirm,
            body=SecondFactorCode,
            response=RecoveryCodes,
            max_body=16 * KIB,
            summary="Put the authenticator app into force",
            errors=(InvalidGrant, Conflict, TooManyRequests),
            tags=tags,
        ),
        Route(
            "POST",
            f"{MINE}/recovery-codes",
            renew,
            response=RecoveryCodes,
            summary="Make new recovery codes",
            errors=(StepUpRequired, Conflict),
            tags=tags,
        ),
        Route(
            "DELETE",
            MINE,
            remove,
            summary="Take the second factor away",
            errors=(StepUpRequired, Conflict),
            tags=tags,
        ),
    ]
