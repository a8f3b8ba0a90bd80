"""The ways of proving who one is that fit a page, and what the methods of signing in offer of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from lowtide.auth.methods.addresses import email_address
from lowtide.auth.methods.email import Email, EmailStart
from lowtide.auth.methods.passwords import Passwords
from lowtide.auth.methods.secondfactor import SecondFactors
from lowtide.auth.model import Ask, Evidence, Factor
from lowtide.auth.outside.upstream import Upstreams
from lowtide.auth.passkeys.ceremony import AssertionCredential
from lowtide.auth.passkeys.service import Passkeys
from lowtide.auth.signin import SignIn
from lowtide.kernel.codec import decode_as
from lowtide.kernel.errors import InvalidGrant
from lowtide.kernel.http import KIB, Request

PAGE_LIFE = 1800
"""Seconds for which a page's passkey challenge is good: as long as a page is left open."""


class Ways(Protocol):
    """The ways of proving who one is that fit a page: what the methods of signing in offer."""

    @property
    def passwords(self) -> bool:
        """Can anybody have a password here?"""
        ...

    @property
    def passkeys(self) -> bool:
        """Are passkeys made for the site on which the pages stand?"""
        ...

    @property
    def upstreams(self) -> Sequence[tuple[str, str]]:
        """Outside providers: the name of each, and what people call it."""
        ...

    async def send(self, email: str, request: Request[Any, Any]) -> tuple[str, str]:
        """Send a code and a link to an address: the flow's secret, and the number that the page shows.

        Raises ``Malformed``, ``TooManyRequests``, ``NotSetUp``.
        """
        ...

    async def code(self, flow: str, code: str | None, request: Request[Any, Any]) -> Evidence:
        """Whose code it is, or, without one, who confirmed the link.

        Raises ``InvalidGrant``, with ``tries_left`` when another try is of use, and ``SignInPending``.
        """
        ...

    async def password(self, email: str, password: str, request: Request[Any, Any]) -> Evidence:
        """Whose password it is. Raises ``InvalidGrant``, ``TooManyRequests``."""
        ...

    async def second(self, ticket: str, code: str, ask: Ask) -> Factor:
        """The second factor of whom ``ticket`` waits for.

        Raises ``InvalidGrant``, with ``tries_left`` when another try is of use, and ``TooManyRequests``.
        """
        ...

    async def ask_passkey(self, ticket: str = "") -> Mapping[str, Any]:
        """What to ask of a device: any passkey, or one of whom ``ticket`` waits for.

        PublicKeyCredentialRequestOptionsJSON (WebAuthn Level 3). Raises ``InvalidGrant`` for a ticket.
        """
        ...

    async def passkey(self, credential: str, request: Request[Any, Any]) -> Evidence:
        """Whose passkey has signed. Raises ``InvalidGrant``, ``Malformed``."""
        ...

    async def second_passkey(self, ticket: str, credential: str, ask: Ask) -> Factor:
        """A passkey as the second factor. Raises as ``passkey``."""
        ...

    async def leave(
        self,
        name: str,
        *,
        back: str,
        challenge: str,
        state: str,
        hint: str,
        prompt: str,
        max_age: int | None,
    ) -> str:
        """Where at an outside provider to send the browser, which comes to the address ``back`` in the end.

        ``prompt`` and ``max_age`` are for the provider; whether it heeded the second is checked on the way
        back. Raises ``NotFound``, ``BadRequest`` for too long a ``state``, ``Unavailable``.
        """
        ...

    async def arrive(self, code: str, verifier: str) -> Evidence:
        """Who came back with ``code``, to the browser that left: ``verifier`` fits its challenge.

        Raises ``InvalidGrant``.
        """
        ...


class PageWays:
    """E-mail codes and links, passwords, authenticator apps, passkeys and outside providers."""

    passwords = True

    def __init__(
        self,
        sign_in: SignIn,
        email: Email,
        passwords: Passwords,
        seconds: SecondFactors,
        passkeys: Passkeys,
        upstreams: Upstreams,
        *,
        on_site: bool,
    ):
        """``on_site``: the pages stand on the site that passkeys are made for."""
        self._sign_in = sign_in
        self._email = email
        self._passwords = passwords
        self._seconds = seconds
        self._passkeys = passkeys
        self._upstreams = upstreams
        self.passkeys = on_site
        self.upstreams = upstreams.titles

    async def send(self, email: str, request: Request[Any, Any]) -> tuple[str, str]:
        """As ``Ways``."""
        flow = await self._email.start(msgspec.structs.replace(request, body=EmailStart(email)))
        return flow.flow_id, str(flow.number)

    async def code(self, flow: str, code: str | None, request: Request[Any, Any]) -> Evidence:
        """As ``Ways``."""
        return await self._email.prove(flow, code, request.id)

    async def password(self, email: str, password: str, request: Request[Any, Any]) -> Evidence:
        """As ``Ways``."""
        address = email_address(email)
        return await self._passwords.prove(address, password, ip=request.client, request=request.id)

    async def second(self, ticket: str, code: str, ask: Ask) -> Factor:
        """As ``Ways``."""
        user = await self._sign_in.waiting(ticket)
        try:
            return await self._seconds.check(user.id, code, ip=ask.ip, request=ask.request_id)
        except InvalidGrant as error:
            # The ticket is still good.
            raise InvalidGrant(error.message, tries_left=1) from None

    async def ask_passkey(self, ticket: str = "") -> Mapping[str, Any]:
        """As ``Ways``."""
        user = (await self._sign_in.waiting(ticket)).id if ticket else None
        return await self._passkeys.begin_sign_in(user, life=PAGE_LIFE)

    async def passkey(self, credential: str, request: Request[Any, Any]) -> Evidence:
        """As ``Ways``."""
        return await self._passkeys.prove(_credential(credential), request=request.id)

    async def second_passkey(self, ticket: str, credential: str, ask: Ask) -> Factor:
        """As ``Ways``."""
        user = await self._sign_in.waiting(ticket)
        found = await self._passkeys.prove(_credential(credential), user=user.id, request=ask.request_id)
        return Factor(found.proof.amr, found.spend)

    async def leave(
        self,
        name: str,
        *,
        back: str,
        challenge: str,
        state: str,
        hint: str,
        prompt: str,
        max_age: int | None,
    ) -> str:
        """As ``Ways``."""
        return await self._upstreams.start(
            name,
            redirect_uri=back,
            challenge=challenge,
            state=state,
            login_hint=hint,
            prompt=prompt,
            max_age=max_age,
        )

    async def arrive(self, code: str, verifier: str) -> Evidence:
        """As ``Ways``."""
        return await self._upstreams.finish(code, verifier)


def _credential(text: str) -> AssertionCredential:
    return decode_as(AssertionCredential, text.encode(), max_bytes=16 * KIB, max_depth=8)
