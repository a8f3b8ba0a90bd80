"""What devices that prove themselves are served."""

from __future__ import annotations

from typing import Annotated

import msgspec

from lowtide.auth.answers import own_session
from lowtide.auth.attestation.android import MAX_TOKEN
from lowtide.auth.attestation.apple import MAX_STATEMENT
from lowtide.auth.attestation.service import Attestation
from lowtide.auth.challenges import MAX_CHALLENGE
from lowtide.kernel.errors import Forbidden, InvalidGrant, NotFound
from lowtide.kernel.http import KIB, Request, Route

Challenge = Annotated[str, msgspec.Meta(max_length=MAX_CHALLENGE)]
KeyId = Annotated[str, msgspec.Meta(max_length=128)]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the device is to have vouched for, by its SHA-256."""

    challenge: str


class AppleStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What App Attest gave."""

    challenge: Challenge
    key_id: KeyId
    """As the system gave it, base64 of either alphabet."""
    statement: Annotated[str, msgspec.Meta(max_length=MAX_STATEMENT)]
    """The attestation or the assertion, base64 of either alphabet."""


class PlayToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Play Integrity gave."""

    challenge: Challenge
    token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)]


class Vouched(msgspec.Struct, frozen=True, kw_only=True):
    """The device is a genuine one."""

    until: int
    """Milliseconds since 1970: then it proves itself anew."""


def attestation_routes(attestation: Attestation) -> list[Route]:
    """``/v1/auth/attestation``."""

    async def challenge(request: Request[None, None]) -> Asked:
        """A challenge for this session's device, good once, for five minutes."""
        return Asked(challenge=attestation.challenge(own_session(request.principal)))

    async def attest_apple(request: Request[AppleStatement, None]) -> Vouched:
        """Attest a new key of App Attest, and with it this session's device."""
        body, who = request.body, own_session(request.principal)
        until = await attestation.attest_apple(who, body.challenge, body.key_id, body.statement)
        return Vouched(until=until)

    async def assert_apple(request: Request[AppleStatement, None]) -> Vouched:
        """Show by an assertion of an attested key that this session's device is a genuine one."""
        body, who = request.body, own_session(request.principal)
        until = await attestation.assert_apple(who, body.challenge, body.key_id, body.statement)
        return Vouched(until=until)

    async def attest_android(request: Request[PlayToken, None]) -> Vouched:
        """Show by a token of Play Integrity that this session's device is a genuine one."""
        body, who = request.body, own_session(request.principal)
        return Vouched(until=await attestation.attest_android(who, body.challenge, body.token))

    base = "/v1/auth/attestation"
    refused = (Forbidden, InvalidGrant)
    return [
        Route(
            "POST",
            f"{base}/challenge",
            challenge,
            response=Asked,
            errors=(Forbidden,),
            summary="A challenge for a device",
            tags=("attestation",),
        ),
        Route(
            "POST",
            f"{base}/apple",
            attest_apple,
            body=AppleStatement,
            response=Vouched,
            max_body=64 * KIB,
            errors=refused,
            summary="Attest a key of App Attest",
            tags=("attestation",),
        ),
        Route(
            "POST",
            f"{base}/apple/assertion",
            assert_apple,
            body=AppleStatement,
            response=Vouched,
            max_body=64 * KIB,
            errors=refused,
            summary="Assert with an attested key",
            tags=("attestation",),
        ),
        Route(
            "POST",
            f"{base}/android",
            attest_android,
            body=PlayToken,
            response=Vouched,
            max_body=32 * KIB,
            errors=(*refused, NotFound),
            summary="Attest a device with Play Integrity",
            tags=("attestation",),
        ),
    ]
