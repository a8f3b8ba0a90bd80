"""The methods of signing in, as the provider's pages use them."""

from __future__ import annotations

from typing import Any

import msgspec

from lowtide.auth.methods.addresses import email_address
from lowtide.auth.methods.email import Email, EmailStart, email_proof
from lowtide.auth.methods.passwords import Passwords
from lowtide.auth.methods.secondfactor import SecondFactors
from lowtide.auth.model import Ask, Proof, User
from lowtide.auth.signin import SignIn
from lowtide.kernel.errors import InvalidGrant
from lowtide.kernel.http import Request


class PageWays:
    """E-mail codes and links, passwords, and codes of authenticator apps."""

    passwords = True

    def __init__(self, sign_in: SignIn, email: Email, passwords: Passwords, seconds: SecondFactors):
        self._sign_in = sign_in
        self._email = email
        self._passwords = passwords
        self._seconds = seconds

    async def send(self, email: str, request: Request[Any, Any]) -> tuple[str, str]:
        """As ``Ways``."""
        flow = await self._email.start(msgspec.structs.replace(request, body=EmailStart(email)))
        return flow.flow_id, str(flow.number)

    async def code(self, flow: str, code: str | None, request: Request[Any, Any]) -> Proof:
        """As ``Ways``."""
        return await self._email.prove(flow, code, request.id)

    async def password(self, email: str, password: str, request: Request[Any, Any]) -> Proof:
        """As ``Ways``."""
        address = email_address(email)
        await self._passwords.check(address, password, ip=request.client, request=request.id)
        return email_proof(address, "pwd")

    async def second(self, ticket: str, code: str, ask: Ask) -> tuple[User, tuple[str, ...]]:
        """As ``Ways``."""
        user = await self._sign_in.waiting(ticket)
        try:
            amr = await self._seconds.check(user.id, code, ip=ask.ip, request=ask.request_id)
        except InvalidGrant as error:
            # The ticket is still good.
            raise InvalidGrant(error.message, tries_left=1) from None
        return await self._sign_in.finish_identify(ticket, ask, amr), (*amr, "mfa")
