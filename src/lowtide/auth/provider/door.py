"""The way of a browser from an app's request to the code that answers it: who is it, do they agree.

Nothing of a visit is kept here. The request stands in the page's address, and is read and judged anew at
each step; a form carries the rest, sealed for this browser and this request. So a page can be loaded again,
left and come back to, and a visitor who never signs in costs no row.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any, Literal, Protocol

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.auth.model import Also, Evidence, SecondFactorNeeded, User
from lowtide.auth.provider.authorize import Authorization, Refused, Stray
from lowtide.auth.provider.browsers import Browsers
from lowtide.auth.provider.model import OWN, Asked, Browser, Details, OAuthError, secret
from lowtide.auth.provider.pages import Pages, go
from lowtide.auth.provider.parameters import read_parameters
from lowtide.auth.provider.store import ProviderStore
from lowtide.auth.provider.visits import Visit, Visits
from lowtide.auth.provider.ways import Ways
from lowtide.auth.signin import SignIn
from lowtide.auth.users import Users
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import InvalidGrant, LowtideError, SignInPending, TooManyRequests
from lowtide.kernel.http import Request, Response
from lowtide.storage.db import Database, Tx

ANEW = frozenset({"login", "select_account"})
"""Values of ``prompt`` that want a sign-in whoever is signed in."""
OVER = "This page was open for too long. Please try again."
JUST_NOW = 600
"""Seconds after a sign-in in which its consent page may be answered without another one."""


class _SignsIn(Protocol):
    def __call__(self, *, also: Also) -> Awaitable[User | SecondFactorNeeded]: ...


class Door:
    """Answers the authorization endpoint."""

    def __init__(
        self,
        database: Database,
        store: ProviderStore,
        users: Users,
        sign_in: SignIn,
        ways: Ways,
        visits: Visits,
        authorization: Authorization,
        browsers: Browsers,
        pages: Pages,
        audit: Audit,
        clock: Clock,
    ):
        self._database = database
        self._store = store
        self._users = users
        self._sign_in = sign_in
        self._ways = ways
        self._visits = visits
        self._authorization = authorization
        self._browsers = browsers
        self._pages = pages
        self._audit = audit
        self._clock = clock

    async def open(self, request: Request[Any, bytes]) -> Response:
        """GET: the request of an app, in the query."""
        try:
            visit = await self._visits.begin(request, request.query)
        except Stray as error:
            return self._pages.said("This cannot go on", str(error), status=400)
        except Refused as error:
            return go(error.location)
        return await self._decide(visit)

    async def answer(self, request: Request[bytes, bytes]) -> Response:
        """POST: a form of ours, with the app's request in the query; or an app's request as a form."""
        try:
            fields = read_parameters(request.body)
        except OAuthError as error:
            return self._pages.said("This cannot go on", error.description, status=400)
        if "step" not in fields:
            # OpenID Connect Core section 3.1.2.1: a request may come as a form; the GET brings the cookie.
            return go(f"{request.path}?{request.body.decode('ascii', 'replace')}")
        self._browsers.check_origin(request)
        try:
            visit = await self._visits.begin(request, request.query)
        except Stray as error:
            return self._pages.said("This cannot go on", str(error), status=400)
        except Refused as error:
            return go(error.location)
        if visit.new or not self._browsers.sealed(fields.get("proof", ""), visit.held, "form", visit.about):
            return await self._visits.sign_in(visit, bad=OVER, status=400)
        try:
            return await self._step(visit, fields)
        except LowtideError as error:
            if error.status >= 500:
                raise
            # A status of 401 would have to name a scheme, and there is none for people.
            status = 429 if error.status == 429 else 400
            opened = "password" in fields
            return await self._visits.sign_in(
                visit, bad=error.message, email=fields.get("email", ""), status=status, opened=opened
            )

    # -- steps ------------------------------------------------------------------------------------

    async def _step(self, visit: Visit, fields: dict[str, str]) -> Response:
        request = visit.request
        email, flow, number = (fields.get(name, "") for name in ("email", "flow", "number"))
        match fields["step"]:
            # One form: whoever has filled the password in means it, whichever button is pressed.
            case "email" if self._ways.passwords and (password := fields.get("password")):
                return await self._here(visit, await self._ways.password(email, password, request))
            case "email":
                flow, number = await self._ways.send(email, request)
                return self._visits.code(visit, email, flow, number)
            case "code" | "link" as step:
                try:
                    code = fields.get("code", "") if step == "code" else None
                    evidence = await self._ways.code(flow, code, request)
                except SignInPending:
                    return self._visits.code(visit, email, flow, number, bad="The link was not opened yet.")
                except InvalidGrant as error:
                    if not error.details.get("tries_left"):
                        raise
                    return self._visits.code(visit, email, flow, number, bad=error.message)
                return await self._here(visit, evidence)
            case "passkey" if self._ways.passkeys:
                return await self._here(
                    visit, await self._ways.passkey(fields.get("credential", ""), request)
                )
            case "second":
                return await self._second(visit, fields)
            case "consent":
                return await self._agree(visit, fields)
            case _:
                return await self._visits.sign_in(visit)

    async def _second(self, visit: Visit, fields: dict[str, str]) -> Response:
        ticket, credential = fields.get("ticket", ""), fields.get("credential")
        factors = tuple(fields.get("factors", "").split())
        try:
            if credential is not None and self._ways.passkeys:
                factor = await self._ways.second_passkey(ticket, credential, visit.ask)
            else:
                factor = await self._ways.second(ticket, fields.get("code", ""), visit.ask)
        except (InvalidGrant, TooManyRequests) as error:
            over = isinstance(error, InvalidGrant) and not error.details.get("tries_left")
            if over and credential is None:
                raise
            return await self._visits.second(visit, ticket, factors, bad=error.message)
        finish = partial(self._sign_in.finish_identify, ticket, visit.ask, factor.amr, spend=factor.spend)
        return await self._enter(visit, finish, (*factor.amr, "mfa"), self._clock.now())

    async def _here(self, visit: Visit, evidence: Evidence) -> Response:
        return await self.identify(visit, evidence, proved_at=self._clock.now())

    async def identify(self, visit: Visit, evidence: Evidence, *, proved_at: int | None) -> Response:
        """Go on with whom ``evidence`` is of: the second factor, consent, or the code. Raises as ``SignIn``.

        ``proved_at``: when they proved it, in milliseconds since 1970; None if nobody told.
        """
        identify = partial(self._sign_in.identify, evidence.proof, visit.ask, spend=evidence.spend)
        return await self._enter(visit, identify, evidence.proof.amr, proved_at)

    async def _enter(
        self, visit: Visit, sign_in: _SignsIn, amr: tuple[str, ...], proved_at: int | None
    ) -> Response:
        """Sign the browser in with its user, under a new secret, in one transaction; and go on."""
        browser = Browser(user="", auth_time=self._clock.now(), proved_at=proved_at, amr=amr)
        held = self._browsers.fresh()

        async def put(tx: Tx, found: User | SecondFactorNeeded) -> None:
            if isinstance(found, User):
                await self._store.end_browser(tx, visit.held)
                await self._store.put_browser(tx, held, msgspec.structs.replace(browser, user=found.id))

        found = await sign_in(also=put)
        if isinstance(found, SecondFactorNeeded):
            return await self._visits.second(visit, found.ticket, found.factors)
        browser = msgspec.structs.replace(browser, user=found.id)
        entered = msgspec.structs.replace(visit, held=held, new=True, browser=browser, fresh=True)
        return await self._decide(entered)

    async def _agree(self, visit: Visit, fields: dict[str, str]) -> Response:
        browser = visit.browser
        if browser is None:
            return await self._visits.sign_in(visit)
        if fields.get("answer") != "yes":
            return self._refuse(visit, "access_denied", "The user does not agree.")
        scope = frozenset(visit.asked.scope)
        user, client = browser.user, visit.client.id

        async def work(tx: Tx) -> None:
            await self._store.agree(tx, user, client, scope)
            await self._audit.write(
                tx,
                Entry(
                    action="consent.give",
                    actor=f"user:{user}",
                    via="browser",
                    target=f"client:{client}",
                    after=sorted(scope),
                    request=visit.request.id,
                    personal={"ip": visit.request.client},
                ),
            )

        await self._database.write(work)
        fresh = self._browsers.sealed(
            fields.get("fresh", ""), visit.held, "fresh", visit.about, str(browser.auth_time)
        )
        recent = self._clock.now() - browser.auth_time <= JUST_NOW * 1000
        agreed = msgspec.structs.replace(visit, fresh=fresh and recent)
        return await self._decide(agreed, agreed=True)

    # -- decisions --------------------------------------------------------------------------------

    async def _decide(self, visit: Visit, *, agreed: bool = False) -> Response:
        """What the request needs next: a sign-in, consent, or nothing but its code."""
        asked, browser = visit.asked, visit.browser
        user = None
        if browser is not None and (visit.fresh or not self._stale(asked, browser)):
            user = await self._user(browser)
        if user is None or browser is None:
            return await self._ask_who(visit)
        if "consent" in asked.prompt and not agreed:
            return self._ask_consent(visit, user, browser)
        return await self._give(visit, user, browser)

    async def _ask_who(self, visit: Visit) -> Response:
        if "none" in visit.asked.prompt:
            return self._refuse(visit, "login_required", "Nobody is signed in in this browser.")
        return await self._visits.sign_in(visit, email=visit.asked.login_hint)

    def _ask_consent(self, visit: Visit, user: User, browser: Browser) -> Response:
        if "none" in visit.asked.prompt:
            return self._refuse(visit, "consent_required", "The user has not agreed to this yet.")
        return self._visits.consent(visit, user, browser)

    def _stale(self, asked: Asked, browser: Browser) -> bool:
        """Must the user sign in anew for this request?"""
        if asked.prompt & ANEW:
            return True
        if asked.max_age is None:
            return False
        return browser.proved_at is None or browser.proved_at + asked.max_age * 1000 <= self._clock.now()

    async def _user(self, browser: Browser) -> User | None:
        user = await self._database.read(lambda tx: self._users.find(tx, browser.user))
        return user if user is not None and user.status == "active" else None

    async def _give(self, visit: Visit, user: User, browser: Browser) -> Response:
        """The code, on its way to the app; or what is missing for it.

        Sign-in and consent are read where the code is written, and held: whoever takes one of them away
        meanwhile either comes first, and no code is made, or finds the code and ends it.
        """
        asked, code = visit.asked, secret()
        if asked.client_id == OWN:
            # A page of this server: it knows the browser, and needs no code.
            return self._visits.given(visit, go(asked.redirect_uri))
        details = Details(
            redirect_uri=asked.redirect_uri,
            scope=asked.scope,
            challenge=asked.challenge,
            auth_time=browser.proved_at or 0,
            amr=browser.amr,
            nonce=asked.nonce,
            jkt=asked.jkt,
        )

        async def work(tx: Tx) -> Literal["given", "signed_out", "not_agreed", "finished"]:
            if not await self._store.signed_in(tx, visit.held):
                return "signed_out"
            if not visit.client.first_party:
                agreed = await self._store.agreed(tx, user.id, asked.client_id)
                if not agreed >= set(asked.scope):
                    return "not_agreed"
            if asked.pushed is not None and not await self._store.take_request(tx, asked.pushed):
                return "finished"
            await self._store.put_code(tx, code, asked.client_id, user.id, details)
            return "given"

        match await self._database.write(work):
            case "signed_out":
                return await self._ask_who(visit)
            case "not_agreed":
                return self._ask_consent(visit, user, browser)
            case "finished":
                return self._pages.said("This cannot go on", "This sign-in was finished already.", status=400)
        return self._to_app(visit, {"code": code})

    def _refuse(self, visit: Visit, error: str, description: str) -> Response:
        return self._to_app(visit, {"error": error, "error_description": description})

    def _to_app(self, visit: Visit, answer: dict[str, str]) -> Response:
        asked = visit.asked
        location = self._authorization.answered(asked.redirect_uri, asked.state, answer)
        return self._visits.given(visit, go(location))
