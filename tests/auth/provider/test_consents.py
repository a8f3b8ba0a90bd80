"""What apps may act for a user: seen and withdrawn by that user, and by nobody else."""

from __future__ import annotations

import pytest

from lowtide.kernel.errors import SessionRevoked, SetupError
from tests.auth.provider.world import AUTHORIZE, FIRST, ISSUER, THIRD, TOKEN, Browser, Flow, Form, House
from tests.auth.world import code

pytestmark = pytest.mark.anyio

APPS, CONSENTS = "/v1/oauth/apps", "/v1/auth/consents"


async def agreed(house: House, browser: Browser, email: str = "ann@example.com") -> dict[str, str]:
    """The tokens of somebody else's app, after its user agreed."""
    flow = Flow(THIRD)
    page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
    if "email" in Form(page.body).forms:
        page = await browser.sign_in(page, email)
    found = await house.post(TOKEN, flow.redeem(flow.code(await browser.fill(page, "consent", answer="yes"))))
    assert found.status == 200, found.body
    tokens: dict[str, str] = found.json()
    return tokens


async def own(house: House, email: str = "ann@example.com") -> str:
    """The token of the app itself."""
    return (await house.world.enter(code(email))).access_token


class TestForTheApp:
    async def test_they_are_listed_with_what_they_may_do(self, house: House) -> None:
        """Those agreed to and those of our own, by name; another user's list is empty."""
        browser = house.browser()
        await agreed(house, browser)
        flow = Flow(FIRST, prompt="none")
        code = flow.code(await browser.get(f"{AUTHORIZE}?{flow.query()}"))
        assert (await house.post(TOKEN, flow.redeem(code))).status == 200
        answer = await house.http.get(CONSENTS, token=await own(house))
        now = house.clock.now()
        assert answer.json()["apps"] == [
            {
                "client": "third",
                "name": "<b>Third</b> & Co",
                "first_party": False,
                "scopes": ["email", "offline_access", "openid"],
                "agreed_at": now,
                "sessions": 1,
                "used_at": now,
            },
            {
                "client": "first",
                "name": "Crew",
                "first_party": True,
                "scopes": ["email", "offline_access", "openid"],
                "agreed_at": None,
                "sessions": 1,
                "used_at": now,
            },
        ]
        assert (await house.http.get(CONSENTS, token=await own(house, "eve@example.com"))).json() == {
            "apps": []
        }

    async def test_withdrawing_ends_its_tokens_at_once(self, house: House) -> None:
        """Access token, refresh token and a code on its way; the app is asked about again, others go on."""
        browser = house.browser()
        tokens = await agreed(house, browser)
        other = await agreed(house, house.browser(), "bob@example.com")
        late = Flow(THIRD)
        code = late.code(await browser.get(f"{AUTHORIZE}?{late.query()}"))
        mine = await own(house)
        answer = await house.http.request("DELETE", f"{CONSENTS}/third", token=mine)
        assert answer.status == 204, answer.body
        with pytest.raises(SessionRevoked):
            house.world.tokens.verify(tokens["access_token"])
        refresh = {"grant_type": "refresh_token", "client_id": "third"}
        for form in (refresh | {"refresh_token": tokens["refresh_token"]}, late.redeem(code)):
            assert (await house.post(TOKEN, form)).json()["error"] == "invalid_grant"
        assert (await house.post(TOKEN, refresh | {"refresh_token": other["refresh_token"]})).status == 200
        house.world.tokens.verify(mine)
        silent = Flow(THIRD, prompt="none")
        told = silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}"))
        assert told["error"] == "consent_required"
        assert (await house.world.actions()).count("consent.withdraw") == 1
        again = await house.http.request("DELETE", f"{CONSENTS}/third", token=mine)
        assert again.status == 404

    async def test_a_clients_token_withdraws_nothing(self, house: House) -> None:
        """Not its own consent, nor another's: an app must not hide what it may do."""
        tokens = await agreed(house, house.browser())
        for method, path in (("GET", CONSENTS), ("DELETE", f"{CONSENTS}/third")):
            answer = await house.http.request(method, path, token=tokens["access_token"])
            assert answer.status == 403
        house.world.tokens.verify(tokens["access_token"])


class TestPage:
    async def test_who_is_not_signed_in_signs_in_and_comes_back(self, house: House) -> None:
        """Without a code or a client of anybody's; then the page is there."""
        browser = house.browser()
        sent = await browser.get(APPS)
        assert sent.status == 303
        page = await browser.get(sent.headers["location"])
        back = await browser.sign_in(page)
        assert (back.status, back.headers["location"]) == (303, ISSUER + APPS)
        shown = await browser.get(APPS)
        assert shown.status == 200
        assert b"No app uses your account" in shown.body

    async def test_a_button_withdraws(self, house: House) -> None:
        """Names are text; what is withdrawn is gone from the page, and its tokens are refused."""
        browser = house.browser()
        tokens = await agreed(house, browser)
        page = await browser.get(APPS)
        assert b"&lt;b&gt;Third&lt;/b&gt; &amp; Co" in page.body
        assert b"<b>Third" not in page.body
        done = await browser.fill(page, "", client="third")
        assert b"That is withdrawn" in done.body
        assert b"Third" not in done.body
        with pytest.raises(SessionRevoked):
            house.world.tokens.verify(tokens["access_token"])
        assert (await browser.fill(page, "", client="third")).status == 200

    async def test_no_other_site_or_browser_withdraws(self, house: House) -> None:
        """A form of another origin, without a seal, or with the seal of another browser changes nothing."""
        browser, other = house.browser(), house.browser()
        tokens = await agreed(house, browser)
        await agreed(house, other, "eve@example.com")
        form = Form((await browser.get(APPS)).body).forms[""]
        foreign = Form((await other.get(APPS)).body).forms[""]
        assert (await browser.send(form, at=APPS, origin="https://evil.example")).status == 403
        assert (await browser.send({"client": "third"}, at=APPS)).status == 400
        assert (await browser.send(form | {"proof": foreign["proof"]}, at=APPS)).status == 400
        house.world.tokens.verify(tokens["access_token"])


class TestOwnClient:
    async def test_nobody_gets_tokens_as_the_server(self, house: House) -> None:
        """Its id leads to its own page, whatever else is asked for; no code is made, no token given."""
        browser = house.browser()
        flow = Flow(THIRD, client_id="lowtide-account")
        back = await browser.sign_in(await browser.get(f"{AUTHORIZE}?{flow.query()}"))
        assert back.headers["location"] == ISSUER + APPS
        assert (await house.post(TOKEN, flow.redeem("x", client_id="lowtide-account"))).json()[
            "error"
        ] == "invalid_client"
        pushed = await house.post("/v1/oauth/par", flow.parameters)
        assert pushed.json()["error"] == "invalid_client"

    async def test_nobody_takes_its_id(self, house: House) -> None:
        """Neither an admin nor the settings register a client with it."""
        from lowtide.auth.provider.clients import Clients
        from lowtide.kernel.clients import Client

        own = Client(id="lowtide-account", name="Mine", redirect_uris=("https://evil.example/",))
        with pytest.raises(SetupError):
            Clients(house.world.database, house.provider.store, [own])
        boss = house.world.tokens.sign("boss", server=True)
        answer = await house.http.request(
            "PUT",
            "/v1/admin/clients/lowtide-account",
            token=boss,
            json={"id": "lowtide-account", "name": "Mine"},
        )
        assert answer.status == 409
