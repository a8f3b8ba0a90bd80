"""The page and the addresses where users see what apps may act for them, and withdraw it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from lowtide.auth.answers import own_session
from lowtide.auth.model import User, called
from lowtide.auth.provider import discovery
from lowtide.auth.provider.browsers import Browsers
from lowtide.auth.provider.consents import App, Consents
from lowtide.auth.provider.model import OWN, Browser, OAuthError
from lowtide.auth.provider.pages import Pages, begun, go, hidden
from lowtide.auth.provider.parameters import read_parameters
from lowtide.auth.users import Users
from lowtide.kernel.errors import Forbidden, NotFound
from lowtide.kernel.http import Request, Response, Route
from lowtide.storage.db import Database

ADDRESS = "/v1/auth/consents"
SIGN_IN = f"{discovery.AUTHORIZE}?client_id={OWN}"
"""Where a browser goes in which nobody is signed in; it comes back from there."""


class AppList(msgspec.Struct, frozen=True):
    """The apps that act for the user, by name."""

    apps: list[App]


class Apps:
    """Answers for a user's apps: to the app itself, and to a browser."""

    def __init__(
        self, database: Database, users: Users, consents: Consents, browsers: Browsers, pages: Pages
    ):
        self._database = database
        self._users = users
        self._consents = consents
        self._browsers = browsers
        self._pages = pages

    # -- for the app's own screens -----------------------------------------------------------------

    async def list_all(self, request: Request[None, None]) -> AppList:
        """Apps that the user agreed to, and those in which they signed in through a browser."""
        return AppList(await self._consents.list(own_session(request.principal).user))

    async def withdraw(self, request: Request[None, None]) -> None:
        """Its tokens are refused at once, and its next sign-in asks the user anew."""
        who = own_session(request.principal)
        await self._consents.withdraw(
            who.user,
            request.params["client"],
            via=f"session:{who.session}",
            space=who.space,
            request=request.id,
            ip=request.client,
        )

    # -- for a browser -----------------------------------------------------------------------------

    async def open(self, request: Request[Any, Any]) -> Response:
        """The page; who is not signed in signs in first, and comes back."""
        held, browser, user = await self._who(request)
        if held is None or browser is None or user is None:
            return go(SIGN_IN)
        return await self._page(held, browser, user)

    async def answer(self, request: Request[bytes, None]) -> Response:
        """A form of the page: withdraw what one app may do."""
        self._browsers.check_origin(request)
        try:
            fields = read_parameters(request.body)
        except OAuthError as error:
            return self._pages.said("This cannot go on", error.description, status=400)
        held, browser, user = await self._who(request)
        if held is None or browser is None or user is None:
            return go(SIGN_IN)
        if not self._browsers.sealed(fields.get("proof", ""), held, "apps", browser.user):
            return await self._page(held, browser, user, bad="This page was open for too long. Try again.")
        # What is withdrawn already needs no more: the page says what is left.
        with suppress(NotFound):
            await self._consents.withdraw(
                browser.user,
                fields.get("client", ""),
                via="browser",
                space="main",
                request=request.id,
                ip=request.client,
            )
        return await self._page(held, browser, user, done=True)

    async def _who(self, request: Request[Any, Any]) -> tuple[str | None, Browser | None, User | None]:
        held = self._browsers.held(request)
        browser = await self._browsers.known(held)
        if browser is None:
            return held, None, None
        user = await self._database.read(lambda tx: self._users.find(tx, browser.user))
        return held, browser, user if user is not None and user.status == "active" else None

    async def _page(
        self, held: str, browser: Browser, user: User, *, done: bool = False, bad: str = ""
    ) -> Response:
        apps = await self._consents.list(browser.user)
        form = begun() + hidden(proof=self._browsers.seal(held, "apps", browser.user))
        return self._pages.apps(apps, form, who=called(user), done=done, bad=bad)


def app_routes(apps: Apps) -> list[Route]:
    """``/v1/auth/consents``: for the app's own screens. The page is among the provider's."""
    return [
        Route(
            "GET",
            ADDRESS,
            apps.list_all,
            response=AppList,
            summary="The apps that act for the user",
            errors=(Forbidden,),
            tags=("accounts",),
        ),
        Route(
            "DELETE",
            ADDRESS + "/{client}",
            apps.withdraw,
            summary="Withdraw what an app may do",
            errors=(Forbidden, NotFound),
            tags=("accounts",),
        ),
    ]
