"""Signing in through a browser: an app gets tokens for its user, and nobody else does."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from lowtide.kernel.base64url import encode
from tests.auth.provider.world import AUTHORIZE, FIRST, ISSUER, THIRD, TOKEN, Flow, Form, House

pytestmark = pytest.mark.anyio


def id_claims(house: House, token: str) -> dict[str, Any]:
    """What an id token says, as another library reads it."""
    keys: Any = house.keys.jwks()
    found = jwt.decode(token, KeySet.import_key_set(keys), algorithms=["ES256"])
    return dict(found.claims)


class TestTheWholeWay:
    async def test_an_app_gets_tokens_for_its_user(self, house: House) -> None:
        """Code, PKCE, id token, access token, refresh token: each as its RFC says."""
        flow = Flow()
        tokens = await house.tokens(flow)
        assert tokens.keys() == {
            *("access_token", "token_type", "expires_in", "scope", "refresh_token", "id_token")
        }
        assert (tokens["token_type"], tokens["scope"]) == ("Bearer", "openid email offline_access")
        claims = id_claims(house, tokens["id_token"])
        half = hashlib.sha256(tokens["access_token"].encode()).digest()[:16]
        now = house.clock.now() // 1000
        assert claims == {
            "iss": ISSUER,
            "aud": "first",
            "sub": claims["sub"],
            "sid": claims["sid"],
            "iat": now,
            "exp": now + 3600,
            "auth_time": now,
            "amr": ["otp"],
            "nonce": "the-nonce",
            "at_hash": encode(half),
        }
        who = house.world.tokens.verify(tokens["access_token"])
        assert (who.user, who.session, who.client) == (claims["sub"], claims["sid"], "first")
        assert who.scope == ("openid", "email", "offline_access")

    async def test_a_refresh_gives_new_tokens(self, house: House) -> None:
        """The user and session stay; the id token has no nonce, and the time of the sign-in."""
        tokens = await house.tokens(Flow())
        before = id_claims(house, tokens["id_token"])
        house.clock.advance(300)
        form = {
            "grant_type": "refresh_token",
            "client_id": "first",
            "refresh_token": tokens["refresh_token"],
        }
        answer = await house.post(TOKEN, form)
        assert answer.status == 200, answer.body
        after = id_claims(house, answer.json()["id_token"])
        assert answer.json()["refresh_token"] != tokens["refresh_token"]
        for name in ("sub", "sid", "auth_time", "aud", "iss"):
            assert after[name] == before[name]
        assert "nonce" not in after
        assert after["iat"] == before["iat"] + 300

    async def test_without_offline_access_there_is_no_refresh_token(self, house: House) -> None:
        """And no id token without openid: it is OAuth alone then."""
        tokens = await house.tokens(Flow(scope="email"))
        assert tokens.keys() == {"access_token", "token_type", "expires_in", "scope"}

    async def test_a_browser_that_is_signed_in_is_not_asked_again(self, house: House) -> None:
        """The second request of any app is answered at once, with the time of the first sign-in."""
        browser = house.browser()
        await house.sign_in(Flow(), browser=browser)
        started = house.clock.now() // 1000
        house.clock.advance(3600)
        flow = Flow(prompt="none")
        code = flow.code(await browser.get(f"{AUTHORIZE}?{flow.query()}"))
        tokens = (await house.post(TOKEN, flow.redeem(code))).json()
        assert id_claims(house, tokens["id_token"])["auth_time"] == started

    async def test_a_password_signs_in(self, house: House) -> None:
        """The page has both ways; a wrong password says so and nothing else."""
        house.mailbox.words["ann@example.com"] = "correct horse battery"
        browser, flow = house.browser(), Flow()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        wrong = await browser.fill(page, "email", email="ann@example.com", password="wrong")
        assert wrong.status == 400
        assert b"is wrong" in wrong.body
        assert b"<details open>" in wrong.body
        assert house.mailbox.sent == {}
        done = await browser.fill(wrong, "email", email="ann@example.com", password="correct horse battery")
        assert flow.code(done)

    async def test_a_wrong_code_may_be_typed_again(self, house: House) -> None:
        """The page stays; a code that is used up leads back to the beginning."""
        browser, flow = house.browser(), Flow()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        page = await browser.fill(page, "email", email="ann@example.com")
        wrong = await browser.fill(page, "code", code="99999999")
        assert wrong.status == 400
        assert "code" in Form(wrong.body).forms
        house.mailbox.sent.clear()
        over = await browser.fill(wrong, "code", code="99999999")
        assert set(Form(over.body).forms) == {"email"}

    async def test_a_confirmed_link_signs_in_where_it_was_asked_for(self, house: House) -> None:
        """The page shows the number that the link's page asks for, and goes on without a code."""
        browser, flow = house.browser(), Flow()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        page = await browser.fill(page, "email", email="ann@example.com")
        assert b">42<" in page.body
        house.mailbox.confirmed.add(next(iter(house.mailbox.sent)))
        assert flow.code(await browser.fill(page, "link"))

    async def test_an_address_that_is_none_is_said_on_the_page(self, house: House) -> None:
        """No problem document: a person reads it."""
        browser, flow = house.browser(), Flow()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        page = await browser.fill(page, "email", email="nobody")
        assert page.status == 400
        assert page.headers["content-type"].startswith("text/html")
        assert Form(page.body).forms["email"]["email"] == "nobody"

    async def test_a_pushed_request_is_good_for_one_code(self, house: House) -> None:
        """The browser carries its name only; afterwards the name is worth nothing."""
        flow, browser = Flow(), house.browser()
        pushed = await house.post("/v1/oauth/par", flow.parameters)
        assert pushed.status == 201, pushed.body
        assert pushed.json()["expires_in"] == 600
        target = f"{AUTHORIZE}?client_id=first&request_uri={pushed.json()['request_uri']}"
        page = await browser.get(target)
        code = flow.code(await browser.sign_in(page))
        assert (await house.post(TOKEN, flow.redeem(code))).status == 200
        again = await browser.get(target)
        assert again.status == 400
        assert "location" not in again.headers


class TestConsent:
    async def test_another_s_app_is_agreed_to_first(self, house: House) -> None:
        """The page says who asks for what, safely written; a yes is remembered, a no is told to the app."""
        browser, flow = house.browser(), Flow(THIRD)
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        page = await browser.sign_in(page)
        assert page.status == 200
        assert b"&lt;b&gt;Third&lt;/b&gt; &amp; Co wants to use your account" in page.body
        assert b"<b>Third" not in page.body
        refused = flow.answer(await browser.fill(page, "consent", answer="no"))
        assert (refused["error"], refused["state"], refused["iss"]) == ("access_denied", "the state", ISSUER)
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        assert flow.code(await browser.fill(page, "consent", answer="yes"))
        assert (await house.world.actions()).count("consent.give") == 1
        silent = Flow(THIRD, prompt="none")
        assert silent.code(await browser.get(f"{AUTHORIZE}?{silent.query()}"))

    async def test_more_is_asked_for_anew(self, house: House) -> None:
        """What was granted is not stretched to what was not; nor silently."""
        browser, flow = house.browser(), Flow(THIRD, scope="openid")
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        page = await browser.sign_in(page)
        await browser.fill(page, "consent", answer="yes")
        more = Flow(THIRD, scope="openid email", prompt="none")
        answer = more.answer(await browser.get(f"{AUTHORIZE}?{more.query()}"))
        assert answer["error"] == "consent_required"
        again = Flow(THIRD, scope="openid", prompt="consent")
        page = await browser.get(f"{AUTHORIZE}?{again.query()}")
        assert "consent" in Form(page.body).forms

    async def test_consent_does_not_stand_for_a_sign_in(self, house: House) -> None:
        """Where a new sign-in was asked for, the consent form alone does not give the code."""
        browser = house.browser()
        await house.sign_in(Flow(FIRST), browser=browser)
        seen = Flow(THIRD)
        page = await browser.get(f"{AUTHORIZE}?{seen.query()}")
        form = Form(page.body).forms["consent"]
        strict = Flow(THIRD, prompt="login")
        at = f"{AUTHORIZE}?{strict.query()}"
        page = await browser.get(at)
        proof = Form(page.body).forms["email"]["proof"]
        answer = await browser.send(form | {"proof": proof, "answer": "yes"}, at=at)
        assert answer.status == 200
        assert "email" in Form(answer.body).forms

    async def test_a_new_sign_in_with_consent_is_one_way(self, house: House) -> None:
        """prompt=login, then consent: the user signs in once, not forever."""
        browser, flow = house.browser(), Flow(THIRD, prompt="login consent")
        await house.sign_in(Flow(FIRST), browser=browser)
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        page = await browser.sign_in(page)
        assert flow.code(await browser.fill(page, "consent", answer="yes"))


class TestSecondFactor:
    async def test_a_second_factor_is_asked_for(self, house: House) -> None:
        """The first factor alone gives neither a code nor a browser session."""

        class Locked:
            async def factors(self, tx: Any, user: str) -> tuple[str, ...]:
                return ("totp", "recovery")

            async def forget(self, tx: Any, user: str) -> None: ...

        browser = house.browser()
        await house.sign_in(Flow())
        house.world.sign_in.credentials.append(Locked())
        flow = Flow()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        page = await browser.sign_in(page)
        assert list(Form(page.body).forms) == ["second"]
        silent = Flow(prompt="none")
        answer = silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}"))
        assert answer["error"] == "login_required"
        browser.at = f"{AUTHORIZE}?{flow.query()}"
        wrong = await browser.fill(page, "second", code="000000")
        assert wrong.status == 400
        code = flow.code(await browser.fill(wrong, "second", code="123456"))
        tokens = (await house.post(TOKEN, flow.redeem(code))).json()
        assert set(id_claims(house, tokens["id_token"])["amr"]) == {"otp", "mfa"}
