"""The methods of signing in, as the provider's pages use them."""

from __future__ import annotations

from typing import Any

import msgspec

from lowtide.auth.methods.email import Email, EmailStart
from lowtide.auth.model import Ask, Proof, User
from lowtide.kernel.errors import InvalidGrant
from lowtide.kernel.http import Request


class PageWays:
    """E-mail codes and links, on a page."""

    passwords = False

    def __init__(self, email: Email):
        self._email = email

    async def send(self, email: str, request: Request[Any, Any]) -> tuple[str, str]:
        """As ``Ways``."""
        flow = await self._email.start(msgspec.structs.replace(request, body=EmailStart(email)))
        return flow.flow_id, str(flow.number)

    async def code(self, flow: str, code: str | None, request: Request[Any, Any]) -> Proof:
        """As ``Ways``."""
        return await self._email.prove(flow, code, request.id)

    async def password(self, email: str, password: str, request: Request[Any, Any]) -> Proof:
        """As ``Ways``."""
        raise InvalidGrant("Nobody has a password here.")

    async def second(self, ticket: str, code: str, ask: Ask) -> User:
        """As ``Ways``."""
        raise InvalidGrant("Sign in with the app: this page knows no second factor.")
