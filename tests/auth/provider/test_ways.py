"""Passkeys and outside providers on the sign-in page: for the browser and request that began, no other."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from lowtide.auth.model import Proof
from tests.api.client import Answer
from tests.auth.provider.test_flow import id_claims
from tests.auth.provider.world import AUTHORIZE, FIRST, ISSUER, THIRD, TOKEN, Browser, Flow, Form, House
from tests.auth.world import code

pytestmark = pytest.mark.anyio

BACK = "/v1/oauth/upstream"
PHONE = "ann's phone"


@pytest.fixture
def house(house: House) -> House:
    """A house with every way in."""
    house.mailbox.passkeys = True
    house.mailbox.upstreams = (("okta", "<b>Okta"),)
    return house


async def opened(browser: Browser, flow: Flow) -> Answer:
    """The sign-in page for a request."""
    return await browser.get(f"{AUTHORIZE}?{flow.query()}")


def door_out(page: Answer) -> str:
    """Where the page's link to the outside provider leads."""
    (found,) = [str(attrs["href"]) for tag, attrs in Form(page.body).tags if tag == "a"]
    return found


async def leave(house: House, browser: Browser, flow: Flow) -> dict[str, Any]:
    """Follow the link; what is kept for the way back."""
    away = await browser.get(door_out(await opened(browser, flow)))
    assert (away.status, away.headers["location"]) == (303, "https://okta.example/authorize")
    return house.mailbox.left[-1]


async def come_back(house: House, browser: Browser, left: dict[str, Any], **changed: Any) -> Answer:
    """Arrive as somebody who signed in there."""
    house.mailbox.arrivals["arrived"] = ("ben@example.com", left["challenge"])
    return await browser.get(f"{BACK}?{urlencode({'code': 'arrived', 'state': left['state']} | changed)}")


class TestOutside:
    async def test_it_leads_back_into_the_same_request(self, house: House) -> None:
        """The code is the app's, with its state and nonce; a new sign-in was asked for there, too."""
        browser, flow = house.browser(), Flow(prompt="login", login_hint="ben")
        left = await leave(house, browser, flow)
        assert left["back"] == ISSUER + BACK
        assert (left["hint"], left["prompt"]) == ("ben", "login")
        tokens = await house.post(TOKEN, flow.redeem(flow.code(await come_back(house, browser, left))))
        assert id_claims(house, tokens.json()["id_token"])["nonce"] == "the-nonce"

    async def test_consent_follows_on_the_way_back(self, house: House) -> None:
        """The forms of a page that stands at the way back go on with the app's request."""
        browser, flow = house.browser(), Flow(THIRD)
        page = await come_back(house, browser, await leave(house, browser, flow))
        assert flow.code(await browser.fill(page, "consent", answer="yes"))

    async def test_what_arrives_is_of_the_browser_that_left(self, house: House) -> None:
        """A link with somebody else's way back signs nobody in, in no other browser."""
        browser, other = house.browser(), house.browser()
        left = await leave(house, browser, Flow())
        await opened(other, Flow())
        for stranger in (other, house.browser()):
            refused = await come_back(house, stranger, left)
            assert refused.status == 400
            assert "email" in Form(refused.body).forms
        assert "arrived" in house.mailbox.arrivals, "used up by a stranger"

    async def test_what_arrives_is_for_the_request_that_was_left(self, house: House) -> None:
        """An app cannot have another app's sign-in."""
        browser = house.browser()
        left = await leave(house, browser, Flow())
        refused = await come_back(house, browser, left, state=Flow(THIRD).query())
        assert refused.status == 400

    async def test_only_the_page_leads_there(self, house: House) -> None:
        """Not a link of another site: without the browser's seal nothing is begun."""
        browser, flow = house.browser(), Flow()
        there = door_out(await opened(browser, flow))
        for address, sender in (
            (there, house.browser()),
            (f"{BACK}/okta?{urlencode({'request': flow.query()})}", browser),
            (there.replace("proof=", "proof=x"), browser),
        ):
            assert (await sender.get(address)).status == 400
        assert house.mailbox.left == []

    async def test_what_the_app_wants_anew_is_wanted_there(self, house: House) -> None:
        """prompt and max_age go along (OpenID Connect Core 3.1.2.1); what is not asked for does not."""
        left = await leave(house, house.browser(), Flow(prompt="select_account login consent", max_age="60"))
        assert (left["prompt"], left["max_age"]) == ("login select_account", 60)
        left = await leave(house, house.browser(), Flow())
        assert (left["prompt"], left["max_age"]) == ("", None)

    async def test_max_age_counts_from_the_sign_in_there(self, house: House) -> None:
        """However late the browser came here: the app is told the time, and asked again when that is over."""
        browser, flow = house.browser(), Flow()
        told = house.clock.now() // 1000 - 1000
        house.mailbox.told = told * 1000
        back = await come_back(house, browser, await leave(house, browser, flow))
        tokens = await house.post(TOKEN, flow.redeem(flow.code(back)))
        assert id_claims(house, tokens.json()["id_token"])["auth_time"] == told
        for age, known in (("2000", True), ("1001", True), ("1000", False), ("60", False)):
            silent = Flow(prompt="none", max_age=age)
            answer = silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}"))
            assert (("code" in answer), answer.get("error")) == (known, None if known else "login_required")

    async def test_a_sign_in_whose_time_nobody_tells_is_too_long_ago(self, house: House) -> None:
        """For max_age only: who does not ask how long ago it was is not bothered."""
        browser, flow = house.browser(), Flow()
        flow.code(await come_back(house, browser, await leave(house, browser, flow)))
        for age, known in (("100000", False), (None, True)):
            silent = Flow(prompt="none", max_age=age)
            answer = silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}"))
            assert (("code" in answer), answer.get("error")) == (known, None if known else "login_required")

    async def test_a_time_that_nobody_tells_is_not_made_up(self, house: House) -> None:
        """Not for prompt=login either, which a provider may not heed: no token says 'now', nor a refresh."""
        browser, flow = house.browser(), Flow(prompt="login", scope="openid offline_access")
        back = await come_back(house, browser, await leave(house, browser, flow))
        tokens = (await house.post(TOKEN, flow.redeem(flow.code(back)))).json()
        form = {"grant_type": "refresh_token", "client_id": "first", "refresh_token": tokens["refresh_token"]}
        for given in (tokens, (await house.post(TOKEN, form)).json()):
            assert "auth_time" not in id_claims(house, given["id_token"])
            assert house.world.tokens.verify(given["access_token"]).auth_time == 0

    async def test_an_old_sign_in_there_does_not_lead_in_circles(self, house: House) -> None:
        """Whoever has just chosen an account and agrees is not asked to choose again."""
        browser, flow = house.browser(), Flow(THIRD, prompt="select_account")
        house.mailbox.told = house.clock.now() - 86_400_000
        page = await come_back(house, browser, await leave(house, browser, flow))
        assert flow.code(await browser.fill(page, "consent", answer="yes"))

    @pytest.mark.parametrize(
        "error", ["access_denied", "temporarily_unavailable", "login_required", "<script>"]
    )
    async def test_a_no_brings_the_page_again(self, house: House, error: str) -> None:
        """And says so; the app is told nothing yet."""
        browser, flow = house.browser(), Flow()
        left = await leave(house, browser, flow)
        page = await browser.get(f"{BACK}?{urlencode({'error': error, 'state': left['state']})}")
        assert page.status == 400
        assert b"<script>" not in page.body
        assert flow.code(await browser.sign_in(page))

    @pytest.mark.parametrize("state", ["", "x=\u00fc", "client_id=nobody", "a" * 4000])
    async def test_a_way_that_never_began_ends_on_a_page(self, house: House, state: str) -> None:
        """Whatever the address holds, a person reads what is wrong."""
        answer = await house.browser().get(f"{BACK}?{urlencode({'code': 'x', 'state': state})}")
        assert answer.status == 400
        assert answer.headers["content-type"].startswith("text/html")

    async def test_names_are_text(self, house: House) -> None:
        """What a provider is called cannot become markup."""
        page = await opened(house.browser(), Flow())
        assert b"Continue with &lt;b&gt;Okta" in page.body
        unknown = door_out(page).replace("/okta", "/none")
        assert (await house.browser().get(unknown)).status == 400


class TestPasskey:
    async def test_it_signs_in_alone(self, house: House) -> None:
        """As the method says, without a code or an address."""
        ann = await house.world.enter(code("ann@example.com"))
        phone = Proof(provider="passkey", subject="1")
        await house.world.write(lambda tx: house.world.users.link(tx, ann.user.id, phone))
        browser, flow = house.browser(), Flow()
        page = await opened(browser, flow)
        tokens = await house.post(
            TOKEN, flow.redeem(flow.code(await browser.fill(page, "passkey", credential=PHONE)))
        )
        assert id_claims(house, tokens.json()["id_token"])["amr"] == ["hwk", "user"]
        assert house.mailbox.sent == {}

    async def test_a_wrong_one_leaves_the_page(self, house: House) -> None:
        """With what is wrong on it, and every other way."""
        browser, flow = house.browser(), Flow()
        wrong = await browser.fill(await opened(browser, flow), "passkey", credential="{}")
        assert wrong.status == 400
        assert b"is not right" in wrong.body
        assert set(Form(wrong.body).forms) == {"email", "passkey"}

    async def test_the_page_runs_one_file(self, house: House) -> None:
        """Nothing inline, nothing by another address; where passkeys do not work, nothing at all."""
        page = await opened(house.browser(), Flow())
        policy = page.headers["content-security-policy"]
        assert policy.endswith(f"; script-src {ISSUER}/v1/oauth/passkeys.js")
        assert page.body.count(b"<script") == 1
        assert b'<script src="/v1/oauth/passkeys.js" defer></script>' in page.body
        script = await house.http.get("/v1/oauth/passkeys.js")
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        house.mailbox.passkeys = False
        plain = await opened(house.browser(), Flow())
        assert "script-src" not in plain.headers["content-security-policy"]
        assert b"<script" not in plain.body
        assert "passkey" not in Form(plain.body).forms

    async def test_it_is_not_taken_where_it_is_not_offered(self, house: House) -> None:
        """A form that names it gets the page."""
        browser = house.browser()
        form = Form((await opened(browser, Flow())).body).forms["passkey"]
        house.mailbox.passkeys = False
        answer = await browser.send(form | {"credential": PHONE})
        assert answer.status == 200
        assert "email" in Form(answer.body).forms

    async def test_it_is_a_second_factor(self, house: House) -> None:
        """Beside the code, for whom has one; a wrong one may be tried again."""

        class Locked:
            async def factors(self, tx: Any, user: str) -> tuple[str, ...]:
                return ("totp", "passkey")

            async def forget(self, tx: Any, user: str) -> None: ...

        await house.sign_in(Flow(FIRST))
        house.world.sign_in.credentials.append(Locked())
        browser, flow = house.browser(), Flow()
        page = await browser.sign_in(await opened(browser, flow))
        assert page.body.count(b'value="second"') == 2
        ticket = Form(page.body).forms["second"]
        wrong = await browser.send(ticket | {"credential": "{}"}, at=f"{AUTHORIZE}?{flow.query()}")
        assert (wrong.status, b"is not right" in wrong.body) == (400, True)
        right = await browser.send(ticket | {"credential": PHONE}, at=f"{AUTHORIZE}?{flow.query()}")
        tokens = await house.post(TOKEN, flow.redeem(flow.code(right)))
        assert set(id_claims(house, tokens.json()["id_token"])["amr"]) == {"hwk", "user", "mfa"}
