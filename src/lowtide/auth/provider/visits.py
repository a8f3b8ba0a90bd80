"""One visit of a browser to the door: what an app asks for, which browser it is, what it is shown."""

from __future__ import annotations

from typing import Any

import msgspec

from lowtide.auth.model import Ask, User, called
from lowtide.auth.provider import discovery
from lowtide.auth.provider.authorize import Authorization, fingerprint
from lowtide.auth.provider.browsers import Browsers
from lowtide.auth.provider.model import Asked, Browser
from lowtide.auth.provider.pages import Pages, SignInPage, begun, hidden
from lowtide.auth.provider.ways import Ways
from lowtide.kernel.clients import Client
from lowtide.kernel.http import Request, Response


class Visit(msgspec.Struct, frozen=True):
    """One request of a browser to the door."""

    client: Client
    asked: Asked
    raw: bytes
    """The app's request, as it came."""
    held: str
    """The browser's secret; one made for it when it had none."""
    new: bool
    """Must it be given to the browser?"""
    browser: Browser | None
    request: Request[Any, Any]
    fresh: bool = False
    """Has the user just signed in for this very request?"""

    @property
    def about(self) -> str:
        return fingerprint(self.asked)

    @property
    def ask(self) -> Ask:
        """Who wants to sign in, for the methods."""
        return Ask(
            client_id=self.client.id,
            ip=self.request.client,
            request_id=self.request.id,
            user_agent=self.request.header("user-agent") or "",
        )


class Visits:
    """Begins visits, and shows their pages, whose forms are sealed for this browser and this request."""

    def __init__(self, authorization: Authorization, browsers: Browsers, ways: Ways, pages: Pages):
        self._authorization = authorization
        self._browsers = browsers
        self._ways = ways
        self._pages = pages

    async def begin(self, request: Request[Any, Any], raw: bytes) -> Visit:
        """A visit for the app's request ``raw``. Raises ``Stray`` and ``Refused``."""
        client, asked = await self._authorization.read(raw)
        held = self._browsers.held(request)
        browser = await self._browsers.known(held)
        return Visit(client, asked, raw, held or self._browsers.fresh(), held is None, browser, request)

    def given(self, visit: Visit, response: Response) -> Response:
        """``response``, with the browser's secret if it has none or a new one."""
        if not visit.new:
            return response
        headers = {**response.headers, "set-cookie": self._browsers.cookie(visit.held)}
        return msgspec.structs.replace(response, headers=headers)

    async def sign_in(
        self, visit: Visit, *, bad: str = "", email: str = "", status: int = 200, opened: bool = False
    ) -> Response:
        """Who are you?"""
        raw = visit.raw.decode("latin-1")
        elsewhere = []
        if self._ways.upstreams:
            proof = self._browsers.seal(visit.held, "leave", visit.about)
            elsewhere = [
                (title, discovery.upstream(name, raw, proof)) for name, title in self._ways.upstreams
            ]
        page = SignInPage(
            form=self._form(visit),
            email=email,
            bad=bad,
            password=self._ways.passwords,
            opened=opened,
            passkey=await self._ways.ask_passkey() if self._ways.passkeys else None,
            elsewhere=elsewhere,
        )
        return self.given(
            visit, self._pages.sign_in(visit.client, page, leads_to=visit.asked.redirect_uri, status=status)
        )

    def code(self, visit: Visit, email: str, flow: str, number: str, *, bad: str = "") -> Response:
        """The code that was sent, or its link."""
        form = self._form(visit, flow=flow, email=email, number=number)
        leads_to = visit.asked.redirect_uri
        shown = self._pages.code(form, email=email, number=number, bad=bad, leads_to=leads_to)
        return self.given(visit, shown)

    async def second(self, visit: Visit, ticket: str, factors: tuple[str, ...], *, bad: str = "") -> Response:
        """The second factor."""
        wanted = self._ways.passkeys and "passkey" in factors
        shown = self._pages.second(
            self._form(visit, ticket=ticket, factors=" ".join(factors)),
            factors=factors,
            passkey=await self._ways.ask_passkey(ticket) if wanted else None,
            bad=bad,
            leads_to=visit.asked.redirect_uri,
        )
        return self.given(visit, shown)

    def consent(self, visit: Visit, user: User, browser: Browser) -> Response:
        """Do you agree?"""
        more = {}
        if visit.fresh:
            about = ("fresh", visit.about, str(browser.auth_time))
            more["fresh"] = self._browsers.seal(visit.held, *about)
        shown = self._pages.consent(
            visit.client,
            self._form(visit, **more),
            who=called(user),
            scope=visit.asked.scope,
            leads_to=visit.asked.redirect_uri,
        )
        return self.given(visit, shown)

    def _form(self, visit: Visit, **more: str) -> str:
        # The page may stand at another address: its forms always go to the app's request.
        address = f"{discovery.AUTHORIZE}?{visit.raw.decode('latin-1')}"
        return begun(address) + hidden(proof=self._browsers.seal(visit.held, "form", visit.about), **more)
