"""What attackers try: stolen codes and tokens, other people's forms, other people's tokens."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from urllib.parse import urlencode

import pytest

from lowtide.kernel.errors import StorageLost
from tests.auth.device import Device
from tests.auth.provider.world import (
    AUTHORIZE,
    BOUND,
    FIRST,
    ISSUER,
    SECRET,
    SERVER,
    THIRD,
    TOKEN,
    Flow,
    Form,
    House,
)
from tests.auth.ring import Ring, forge

pytestmark = pytest.mark.anyio

REVOKE, INTROSPECT, USERINFO, LOGOUT = (
    f"/v1/oauth/{name}" for name in ("revoke", "introspect", "userinfo", "logout")
)


def refresh_form(token: str, client: str = "first", **more: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "client_id": client, "refresh_token": token, **more}


async def error_of(house: House, form: Any, path: str = TOKEN, **headers: str) -> str:
    """What a form is refused with."""
    answer = await house.post(path, form, **headers)
    assert answer.status in (400, 401), answer.body
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert set(found) == {"error", "error_description"}
    return str(found["error"])


async def bound(house: House, device: Device, path: str = TOKEN, **more: Any) -> str:
    """A proof for a request to ``path``."""
    now = house.clock.now() // 1000
    return device.proof(url=ISSUER + path, iat=now, jti=f"{device.jkt}{device.made}", **more)


@contextmanager
def dying(there: Any, name: str) -> Iterator[None]:
    """The server dies right after ``there.name``, before its transaction has committed."""
    whole = getattr(there, name)

    async def died(*given: Any, **more: Any) -> Any:
        await whole(*given, **more)
        raise StorageLost

    with patch.object(there, name, died):
        yield


class TestCodes:
    async def test_a_code_that_comes_twice_ends_what_it_gave(self, house: House) -> None:
        """One of the two senders is a thief: neither keeps anything. [oidcc-codereuse]"""
        flow = Flow()
        code = await house.sign_in(flow)
        tokens = (await house.post(TOKEN, flow.redeem(code))).json()
        house.clock.advance(30)
        assert await error_of(house, flow.redeem(code)) == "invalid_grant"
        assert await error_of(house, refresh_form(tokens["refresh_token"])) == "invalid_grant"
        answer = await house.http.get(USERINFO, token=tokens["access_token"])
        assert answer.status == 401
        assert "session.end" in await house.world.actions()

    async def test_a_code_is_used_up_with_its_session(self, house: House) -> None:
        """A server that dies in between leaves it good; of two at the same moment one sender is a thief."""
        flow = Flow()
        code = await house.sign_in(flow)
        with dying(house.world.sessions, "open"):
            assert (await house.post(TOKEN, flow.redeem(code))).status == 503
        assert await house.world.rows("SELECT id FROM session") == []
        both = await asyncio.gather(*(house.post(TOKEN, flow.redeem(code)) for _ in range(2)))
        assert sorted(one.status for one in both) == [200, 400]
        assert await house.world.rows("SELECT ended_by FROM session") == [("operator",)]

    async def test_a_browser_is_signed_in_with_its_proof(self, house: House) -> None:
        """In one transaction: a server that dies in it has made nobody, and the form is sent once more."""
        flow, browser = Flow(), house.browser()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        shown = await browser.fill(page, "email", email="ann@example.com")
        flows = dict(house.mailbox.sent)
        with dying(house.provider.store, "put_browser"):
            code = house.mailbox.newest()
            assert (await browser.fill(shown, "code", code=code)).status == 503
        assert await house.world.rows("SELECT id FROM users") == []
        house.mailbox.sent = flows
        assert flow.code(await browser.fill(shown, "code", code=code))

    async def test_a_code_ends_after_a_minute(self, house: House) -> None:
        """[oidcc-codereuse-30seconds] 30 seconds later it is good, 60 later it is not."""
        flow = Flow()
        code = await house.sign_in(flow)
        house.clock.advance(30)
        assert (await house.post(TOKEN, flow.redeem(code))).status == 200
        late = await house.sign_in(flow)
        house.clock.advance(60)
        assert await error_of(house, flow.redeem(late)) == "invalid_grant"

    @pytest.mark.parametrize(
        "changed",
        [
            {"redirect_uri": "https://app.example.com/cb?from=lowtide"},
            {"redirect_uri": None},
            {"code_verifier": "x" * 43},
            {"code_verifier": "short"},
            {"code_verifier": None},
            {"code_verifier": "ü" * 50},
        ],
        ids=str,
    )
    async def test_a_thief_of_a_code_has_one_try(self, house: House, changed: dict[str, Any]) -> None:
        """What does not fit uses the code up: nobody guesses a verifier."""
        flow = Flow()
        code = await house.sign_in(flow)
        assert await error_of(house, flow.redeem(code, **changed)) == "invalid_grant"
        assert await error_of(house, flow.redeem(code)) == "invalid_grant"

    async def test_another_client_cannot_use_a_code(self, house: House) -> None:
        """Nor use it up."""
        flow = Flow()
        code = await house.sign_in(flow)
        assert await error_of(house, flow.redeem(code, client_id="third")) == "invalid_grant"
        stolen = flow.redeem(code, client_id="server", client_secret=SECRET)
        assert await error_of(house, stolen) == "invalid_grant"
        assert (await house.post(TOKEN, flow.redeem(code))).status == 200

    async def test_a_code_cannot_be_made_up(self, house: House) -> None:
        """Nor left out."""
        flow = Flow()
        assert await error_of(house, flow.redeem("x")) == "invalid_grant"
        assert await error_of(house, {**flow.redeem("x"), "code": ""}) == "invalid_request"

    async def test_nothing_secret_is_stored(self, house: House) -> None:
        """Neither the code nor the browser's secret is in the database."""
        flow, browser = Flow(), house.browser()
        code = await house.sign_in(flow, browser=browser)
        (held,) = browser.cookies.values()
        for table in ("oauth_code", "browser_session"):
            for row in await house.world.rows(f"SELECT * FROM {table}"):
                assert code not in str(row)
                assert held not in str(row)

    async def test_a_user_who_is_gone_gets_nothing(self, house: House) -> None:
        """Between the code and its use the account may be forgotten; the browser is signed out, too."""
        flow, browser = Flow(), house.browser()
        code = await house.sign_in(flow, browser=browser)
        ((user,),) = await house.world.rows("SELECT id FROM users")
        await house.world.database.write(lambda tx: house.world.users.delete(tx, user))
        assert await error_of(house, flow.redeem(code)) == "invalid_grant"
        silent = Flow(prompt="none")
        answer = silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}"))
        assert answer["error"] == "login_required"


class TestClients:
    @pytest.mark.parametrize(
        ("fields", "authorization"),
        [
            ({}, None),
            ({"client_id": "unknown"}, None),
            ({"client_id": "server"}, None),
            ({"client_id": "server", "client_secret": "wrong"}, None),
            ({"client_id": "first", "client_secret": "x"}, None),
            ({}, "Basic !!!"),
            ({}, "Basic " + base64.b64encode(b"server").decode()),
            ({}, "Basic " + base64.b64encode(b"server:wrong").decode()),
            ({}, "Basic " + base64.b64encode(b"\xff:\xff").decode()),
        ],
        ids=str,
    )
    async def test_who_is_no_client_gets_nothing(
        self, house: House, fields: dict[str, str], authorization: str | None
    ) -> None:
        """401, and how to do it right."""
        headers = {} if authorization is None else {"authorization": authorization}
        answer = await house.post(TOKEN, {"grant_type": "authorization_code", **fields}, **headers)
        assert (answer.status, answer.json()["error"]) == (401, "invalid_client")
        assert answer.headers["www-authenticate"].startswith("Basic")

    @pytest.mark.parametrize("way", ["basic", "post"])
    async def test_a_secret_proves_a_client(self, house: House, way: str) -> None:
        """In the header or in the form. [oidcc-server-client-secret-post]"""
        flow, browser = Flow(SERVER), house.browser()
        page = await browser.sign_in(await browser.get(f"{AUTHORIZE}?{flow.query()}"))
        code = flow.code(await browser.fill(page, "consent", answer="yes"))
        if way == "post":
            answer = await house.post(TOKEN, flow.redeem(code, client_secret=SECRET))
        else:
            basic = base64.b64encode(f"server:{SECRET}".encode()).decode()
            answer = await house.post(
                TOKEN, flow.redeem(code, client_id=None), authorization=f"Basic {basic}"
            )
        assert answer.status == 200, answer.body

    async def test_a_client_is_not_named_in_two_ways(self, house: House) -> None:
        """Header and form together are refused: which one counts must not be a question."""
        basic = {"authorization": "Basic " + base64.b64encode(f"server:{SECRET}".encode()).decode()}
        for more in ({"client_id": "first"}, {"client_secret": SECRET}):
            assert await error_of(house, {"grant_type": "x", **more}, **basic) == "invalid_request"

    @pytest.mark.parametrize("raw", [b"grant_type=a&grant_type=b", b"%ff=1", b"\xff", b"a=%0a"])
    async def test_a_form_that_is_ambiguous_is_not_read(self, house: House, raw: bytes) -> None:
        """[RFC 6749 section 3.2: parameters must not come twice]"""
        assert await error_of(house, raw) == "invalid_request"

    async def test_a_form_is_a_form(self, house: House) -> None:
        """JSON is not read, and nothing beyond 32 KiB."""
        answer = await house.http.post(TOKEN, json={"grant_type": "authorization_code"})
        assert answer.status == 415
        assert (await house.post(TOKEN, b"a=" + b"x" * 40_000)).status == 413


class TestRefreshTokens:
    async def test_a_refresh_token_is_its_client_s(self, house: House) -> None:
        """Another client, and the app's own address for refreshes, cannot use it."""
        tokens = await house.tokens(Flow())
        stolen = refresh_form(tokens["refresh_token"], "third")
        assert await error_of(house, stolen) == "invalid_grant"
        assert (await house.post(TOKEN, refresh_form(tokens["refresh_token"]))).status == 200

    async def test_a_scope_does_not_grow(self, house: House) -> None:
        """What was not granted is not had by asking later; less may be asked for."""
        tokens = await house.tokens(Flow())
        more = refresh_form(tokens["refresh_token"], scope="openid api")
        assert await error_of(house, more) == "invalid_scope"
        less = refresh_form(tokens["refresh_token"], scope="openid")
        assert (await house.post(TOKEN, less)).status == 200

    @pytest.mark.parametrize("token", ["x", "a.b.c", "." * 50, "x" * 4000])
    async def test_a_refresh_token_cannot_be_made_up(self, house: House, token: str) -> None:
        """Whatever it looks like."""
        assert await error_of(house, refresh_form(token)) == "invalid_grant"

    async def test_an_access_token_is_no_refresh_token(self, house: House) -> None:
        """Nor is an id token an access token, nor a code any of them."""
        tokens = await house.tokens(Flow())
        assert await error_of(house, refresh_form(tokens["access_token"])) == "invalid_grant"
        for token in (tokens["id_token"], tokens["refresh_token"]):
            assert (await house.http.get(USERINFO, token=token)).status == 401


class TestKeys:
    async def test_bound_tokens_are_worth_nothing_alone(self, house: House) -> None:
        """Code, refresh token and access token each want the key."""
        device, thief = Device(), Device()
        flow = Flow(BOUND, scope="openid offline_access", dpop_jkt=device.jkt)
        code = await house.sign_in(flow)
        for headers in ({}, {"dpop": await bound(house, thief)}):
            other = await house.sign_in(Flow(BOUND, dpop_jkt=device.jkt), email="eve@example.com")
            assert await error_of(house, flow.redeem(other), **headers) in (
                "invalid_grant",
                "invalid_dpop_proof",
            )
        answer = await house.post(TOKEN, flow.redeem(code), dpop=await bound(house, device))
        assert answer.status == 200, answer.body
        tokens = answer.json()
        assert tokens["token_type"] == "DPoP"
        assert answer.headers["dpop-nonce"]
        form = refresh_form(tokens["refresh_token"], "bound")
        assert await error_of(house, form) == "invalid_dpop_proof"
        assert await error_of(house, form, dpop=await bound(house, thief)) == "invalid_dpop_proof"
        assert (await house.post(TOKEN, form, dpop=await bound(house, device))).status == 200
        token = tokens["access_token"]
        assert (await house.http.get(USERINFO, token=token)).status == 401
        sent = [("authorization", f"DPoP {token}")]
        assert (await house.http.get(USERINFO, headers=sent)).status == 401
        proof = await bound(house, device, USERINFO, method="GET", token=token)
        answer = await house.http.get(USERINFO, headers=[*sent, ("dpop", proof)])
        assert answer.status == 200, answer.body

    async def test_a_client_of_bound_tokens_gets_no_others(self, house: House) -> None:
        """Registered with ``dpop``, it must prove a key; the code is not used up by trying."""
        flow, device = Flow(BOUND), Device()
        code = await house.sign_in(flow)
        assert await error_of(house, flow.redeem(code)) == "invalid_dpop_proof"
        answer = await house.post(TOKEN, flow.redeem(code), dpop=await bound(house, device))
        assert answer.status == 200

    async def test_a_wrong_clock_is_told_a_nonce(self, house: House) -> None:
        """As OAuth says it: 400, use_dpop_nonce, and the nonce in its header; the code is still good."""
        flow, device = Flow(BOUND), Device()
        code = await house.sign_in(flow)
        early = device.proof(url=ISSUER + TOKEN, iat=5)
        answer = await house.post(TOKEN, flow.redeem(code), dpop=early)
        assert (answer.status, answer.json()["error"]) == (400, "use_dpop_nonce")
        proof = device.proof(url=ISSUER + TOKEN, iat=5, nonce=answer.headers["dpop-nonce"])
        assert (await house.post(TOKEN, flow.redeem(code), dpop=proof)).status == 200

    async def test_a_pushed_request_is_bound_to_the_key_that_pushed_it(self, house: House) -> None:
        """RFC 9449 section 10.1: the proof at the push stands for dpop_jkt; two keys are refused."""
        device, thief = Device(), Device()
        path = "/v1/oauth/par"
        flow = Flow(BOUND)
        wrong = flow.parameters | {"dpop_jkt": thief.jkt}
        assert (
            await error_of(house, wrong, path, dpop=await bound(house, device, path)) == "invalid_dpop_proof"
        )
        answer = await house.post(path, flow.parameters, dpop=await bound(house, device, path))
        pushed = {"client_id": "bound", "request_uri": answer.json()["request_uri"]}
        browser = house.browser()
        page = await browser.get(f"{AUTHORIZE}?{urlencode(pushed)}")
        code = flow.code(await browser.sign_in(page))
        stolen = await error_of(house, flow.redeem(code), dpop=await bound(house, thief))
        assert stolen == "invalid_grant"


class TestReach:
    async def test_a_client_s_token_reaches_what_it_was_granted(self, house: House) -> None:
        """Without ``api`` it reads nothing but userinfo; with it, as the user."""
        narrow = await house.tokens(Flow(scope="openid"))
        answer = await house.http.get("/v1/api", token=narrow["access_token"])
        assert (answer.status, answer.code) == (403, "insufficient_scope")
        assert 'scope="api"' in answer.headers["www-authenticate"]
        wide = await house.tokens(Flow(scope="api"))
        assert (await house.http.get("/v1/api", token=wide["access_token"])).status == 200
        answer = await house.http.get(USERINFO, token=wide["access_token"])
        assert (answer.status, answer.code) == (403, "insufficient_scope")

    async def test_userinfo_says_what_was_granted(self, house: House) -> None:
        """[oidcc-userinfo-get, oidcc-userinfo-post-header, oidcc-scope-email, oidcc-scope-profile]"""
        tokens = await house.tokens(Flow(scope="openid"))
        found = (await house.http.get(USERINFO, token=tokens["access_token"])).json()
        assert found.keys() == {"sub"}
        tokens = await house.tokens(Flow(scope="openid email profile phone"))
        for method in ("GET", "POST"):
            answer = await house.http.request(method, USERINFO, token=tokens["access_token"])
            assert answer.json() == {
                "sub": found["sub"],
                "email": "ann@example.com",
                "email_verified": True,
                "updated_at": answer.json()["updated_at"],
            }

    async def test_a_token_in_the_address_or_the_body_is_not_read(self, house: House) -> None:
        """[oidcc-userinfo-post-body: refused, as OAuth 2.1 has it]"""
        tokens = await house.tokens(Flow())
        answer = await house.http.get(f"{USERINFO}?access_token={tokens['access_token']}")
        assert answer.status in (400, 401)
        assert (await house.post(USERINFO, {"access_token": tokens["access_token"]})).status == 401

    async def test_introspection_is_for_those_who_may(self, house: House) -> None:
        """A public client and a user learn nothing; a client learns of its own tokens only."""
        tokens = await house.tokens(Flow())
        for token in (tokens["access_token"], tokens["refresh_token"]):
            form = {"token": token}
            assert await error_of(house, form | {"client_id": "first"}, INTROSPECT) == "invalid_client"
            bearer = f"Bearer {tokens['access_token']}"
            assert await error_of(house, form, INTROSPECT, authorization=bearer) == "invalid_client"
            mine = await house.post(INTROSPECT, form | {"client_id": "server", "client_secret": SECRET})
            assert mine.json() == {"active": False}
            server = house.world.tokens.sign("backend", server=True)
            seen = (await house.post(INTROSPECT, form, authorization=f"Bearer {server}")).json()
            assert (seen["active"], seen["client_id"], seen["iss"]) == (True, "first", ISSUER)

    async def test_introspection_sees_the_end(self, house: House) -> None:
        """A session that is over is not active, though its token has not expired."""
        tokens = await house.tokens(Flow())
        server = f"Bearer {house.world.tokens.sign('backend', server=True)}"
        other = {"token": tokens["refresh_token"], "client_id": "third"}
        assert (await house.post(REVOKE, other)).status == 200
        form = {"token": tokens["access_token"]}
        assert (await house.post(INTROSPECT, form, authorization=server)).json()["active"] is True
        mine = {"token": tokens["refresh_token"], "client_id": "first"}
        assert (await house.post(REVOKE, mine)).status == 200
        for token in (tokens["access_token"], tokens["refresh_token"], "nonsense"):
            seen = await house.post(INTROSPECT, {"token": token}, authorization=server)
            assert seen.json() == {"active": False}
        assert (await house.post(REVOKE, mine)).status == 200
        assert await error_of(house, refresh_form(tokens["refresh_token"])) == "invalid_grant"

    async def test_revoking_an_access_token_ends_its_session(self, house: House) -> None:
        """RFC 7009 section 2.1; nonsense is answered alike, a form without a token is not."""
        tokens = await house.tokens(Flow())
        mine = {"token": tokens["access_token"], "client_id": "first"}
        assert (await house.post(REVOKE, mine)).status == 200
        assert await error_of(house, refresh_form(tokens["refresh_token"])) == "invalid_grant"
        assert (await house.post(REVOKE, {"token": "x", "client_id": "first"})).status == 200
        assert await error_of(house, {"client_id": "first"}, REVOKE) == "invalid_request"
        assert await error_of(house, {"token": "x"}, REVOKE) == "invalid_client"


class TestForms:
    async def test_a_form_of_another_site_is_refused(self, house: House) -> None:
        """By its Origin, by Sec-Fetch-Site, and without the seal; the browser's cookie does not help."""
        flow, browser = Flow(), house.browser()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        form = Form(page.body).forms["email"] | {"email": "ann@example.com"}
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://id.example.com"},
            {"origin": None, "sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
        ):
            answer = await browser.send(form, **headers)
            assert answer.status == 403, headers
        for proof in ("", "x", "ü", form["proof"][:-1]):
            answer = await browser.send(form | {"proof": proof})
            assert answer.status == 400
        assert house.mailbox.sent == {}

    async def test_a_form_is_of_one_browser_and_one_request(self, house: House) -> None:
        """Its seal is worth nothing in another browser, without a cookie, or for another request."""
        flow = Flow()
        mine, other = house.browser(), house.browser()
        at = f"{AUTHORIZE}?{flow.query()}"
        form = Form((await mine.get(at)).body).forms["email"] | {"email": "ann@example.com"}
        await other.get(at)
        assert (await other.send(form)).status == 400
        assert (await house.browser().send(form, at=at)).status == 400
        for changed in (Flow(), Flow(THIRD), Flow(state="another")):
            assert (await mine.send(form, at=f"{AUTHORIZE}?{changed.query()}")).status == 400
        assert house.mailbox.sent == {}
        assert (await mine.send(form, at=at)).status == 200

    async def test_a_browser_gets_a_new_secret_when_it_signs_in(self, house: House) -> None:
        """A secret that somebody planted before is worth nothing afterwards."""
        flow, browser = Flow(), house.browser()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        planted = dict(browser.cookies)
        await browser.sign_in(page)
        assert browser.cookies != planted
        thief = house.browser()
        thief.cookies = planted
        silent = Flow(prompt="none")
        answer = silent.answer(await thief.get(f"{AUTHORIZE}?{silent.query()}"))
        assert answer["error"] == "login_required"

    async def test_who_is_signed_out_everywhere_is_so_in_browsers(self, house: House) -> None:
        """A thief in a browser does not outlive a new password; nor does a code that is on its way."""
        browser, flow = house.browser(), Flow()
        code = await house.sign_in(flow, browser=browser)
        other = house.browser()
        await house.sign_in(Flow(), browser=other, email="ben@example.com")
        ((user,),) = await house.world.rows("SELECT id FROM users WHERE email = 'ann@example.com'")
        await house.world.database.write(lambda tx: house.world.sessions.revoke_all(tx, user, "user"))
        silent = Flow(prompt="none")
        answer = silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}"))
        assert answer["error"] == "login_required"
        assert await error_of(house, flow.redeem(code)) == "invalid_grant"
        assert silent.code(await other.get(f"{AUTHORIZE}?{silent.query()}"))

    async def test_two_cookies_of_the_name_are_none(self, house: House) -> None:
        """Whoever could add one must not choose which counts."""
        browser = house.browser()
        await house.sign_in(Flow(), browser=browser)
        (held,) = browser.cookies.values()
        silent = Flow(prompt="none")
        both = f"__Host-lowtide={held}; __Host-lowtide=x"
        answer = await house.http.get(f"{AUTHORIZE}?{silent.query()}", headers={"cookie": both})
        assert silent.answer(answer)["error"] == "login_required"

    async def test_a_ticket_in_a_form_is_no_sign_in(self, house: House) -> None:
        """A second factor without a first one that waits for it leads nowhere."""
        flow, browser = Flow(), house.browser()
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        proof = Form(page.body).forms["email"]["proof"]
        for step in ("second", "consent", "code", "link", "nonsense"):
            fields = {
                "proof": proof,
                "step": step,
                "ticket": "x",
                "code": "123456",
                "answer": "yes",
                "flow": "x",
            }
            answer = await browser.send(fields)
            assert answer.status in (200, 400), step
            assert "location" not in answer.headers
            assert "email" in Form(answer.body).forms


class TestLeaving:
    async def test_an_app_signs_its_user_out(self, house: House) -> None:
        """With an id token, expired or not: the browser and the app's session are over; the app is told."""
        browser = house.browser()
        flow = Flow()
        tokens = (await house.post(TOKEN, flow.redeem(await house.sign_in(flow, browser=browser)))).json()
        house.clock.advance(7200)
        there = {
            "id_token_hint": tokens["id_token"],
            "post_logout_redirect_uri": "com.example.crew:/signed-out",
            "state": "a b",
        }
        answer = await browser.get(f"{LOGOUT}?{urlencode(there)}")
        assert (answer.status, answer.headers["location"]) == (
            303,
            "com.example.crew:/signed-out?state=a%20b",
        )
        silent = Flow(prompt="none")
        assert silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}"))["error"] == "login_required"
        assert await error_of(house, refresh_form(tokens["refresh_token"])) == "invalid_grant"

    async def test_a_link_signs_nobody_out(self, house: House) -> None:
        """Without an id token, or with another user's, the user is asked first; a no changes nothing."""
        mine, other = Flow(), Flow()
        browser = house.browser()
        await house.sign_in(mine, browser=browser)
        theirs = (
            await house.post(TOKEN, other.redeem(await house.sign_in(other, email="eve@example.com")))
        ).json()
        silent = Flow(prompt="none")
        for query in ("", f"?id_token_hint={theirs['id_token']}", "?client_id=first"):
            page = await browser.get(LOGOUT + query)
            assert page.status == 200
            assert b"Sign out?" in page.body
            assert silent.code(await browser.get(f"{AUTHORIZE}?{silent.query()}"))
        page = await browser.get(LOGOUT)
        await browser.fill(page, "", answer="no")
        assert (await browser.send({"answer": "yes", "proof": "x"}, at=LOGOUT)).body.count(b"Sign out?")
        assert (await browser.send({"answer": "yes"}, at=LOGOUT, origin="https://evil.example")).status == 403
        assert silent.code(await browser.get(f"{AUTHORIZE}?{silent.query()}"))
        browser.at = LOGOUT
        assert b"You are signed out" in (await browser.fill(page, "", answer="yes")).body
        assert silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}"))["error"] == "login_required"

    @pytest.mark.parametrize(
        "there",
        [
            {"client_id": "first", "post_logout_redirect_uri": "https://evil.example"},
            {"client_id": "first", "post_logout_redirect_uri": "com.example.crew:/signed-in"},
            {"client_id": "third", "post_logout_redirect_uri": "com.example.crew:/signed-out"},
            {"post_logout_redirect_uri": "com.example.crew:/signed-out"},
            {"client_id": "unknown"},
            {"id_token_hint": "nonsense"},
        ],
        ids=str,
    )
    async def test_nobody_is_sent_astray(self, house: House, there: dict[str, str]) -> None:
        """Only to an address that this client registered for that; the browser stays signed in."""
        browser = house.browser()
        await house.sign_in(Flow(), browser=browser)
        answer = await browser.get(f"{LOGOUT}?{urlencode(there)}")
        assert answer.status == 400
        assert "location" not in answer.headers
        silent = Flow(prompt="none")
        assert silent.code(await browser.get(f"{AUTHORIZE}?{silent.query()}"))

    async def test_an_id_token_is_believed_only_for_its_signature(self, house: House) -> None:
        """Another key, type, issuer or algorithm, and an access token, are no hints."""
        flow = Flow()
        tokens = (await house.post(TOKEN, flow.redeem(await house.sign_in(flow)))).json()
        key, stranger = house.keys.current, Ring().current
        claims = {"iss": ISSUER, "aud": "first", "sub": "x", "sid": "x"}
        head = {"alg": "ES256", "typ": "JWT", "kid": key.kid}
        good = forge(key, claims, head)
        assert (await house.http.get(f"{LOGOUT}?id_token_hint={good}")).status == 200
        for token in (
            tokens["access_token"],
            forge(stranger, claims, head),
            forge(key, claims, head | {"typ": "at+jwt"}),
            forge(key, claims, head | {"alg": "none"}),
            forge(key, claims, head | {"alg": "HS256"}),
            forge(key, claims, head | {"kid": stranger.kid}),
            forge(key, claims, head | {"crit": ["x"]}),
            forge(key, claims | {"iss": "https://evil.example"}, head),
            forge(key, claims | {"aud": ["first"]}, head),
            good.rsplit(".", 1)[0] + ".",
        ):
            assert (await house.http.get(f"{LOGOUT}?id_token_hint={token}")).status == 400, token


class TestAdmin:
    async def test_clients_are_registered_and_forgotten(self, house: House) -> None:
        """A new client works at once, a deleted one no more, whoever gets its id; each change is audited."""
        admin = house.world.tokens.sign("backend", server=True)
        body = {"id": "new", "name": "New", "redirect_uris": ["com.example.new:/cb"], "first_party": True}
        answer = await house.http.request("PUT", "/v1/admin/clients/new", json=body, token=admin)
        assert answer.status == 200, answer.body
        listed = (await house.http.get("/v1/admin/clients", token=admin)).json()["clients"]
        assert [client["id"] for client in listed] == ["first", "third", "server", "bound", "new"]
        flow = Flow(redirect_uri="com.example.new:/cb", client_id="new", scope="openid offline_access api")
        browser = house.browser()
        code = await house.sign_in(flow, browser=browser)
        tokens = (await house.post(TOKEN, flow.redeem(code, client_id="new"))).json()
        later = flow.code(await browser.get(f"{AUTHORIZE}?{flow.query()}"))
        assert (await house.http.request("DELETE", "/v1/admin/clients/new", token=admin)).status == 204
        ended = await house.http.get("/v1/oauth/userinfo", token=tokens["access_token"])
        assert (ended.status, ended.code) == (401, "session_revoked")
        form = refresh_form(tokens["refresh_token"], "new")
        assert await error_of(house, form) == "invalid_client"
        assert (await house.browser().get(f"{AUTHORIZE}?{flow.query()}")).status == 400
        heir = body | {"first_party": False}
        answer = await house.http.request("PUT", "/v1/admin/clients/new", json=heir, token=admin)
        assert answer.status == 200, answer.body
        assert await error_of(house, form) == "invalid_grant"
        assert await error_of(house, flow.redeem(later, client_id="new")) == "invalid_grant"
        assert "consent" in Form((await browser.get(f"{AUTHORIZE}?{flow.query()}")).body).forms
        audited = [action for action in await house.world.actions() if action.startswith("client.")]
        assert sorted(audited) == ["client.delete", "client.list", "client.put", "client.put"]

    @pytest.mark.parametrize(
        "changed",
        [
            {"id": "other"},
            {"id": "a b"},
            {"redirect_uris": ["http://example.com/cb"]},
            {"redirect_uris": ["https://*.example.com/cb"]},
            {"redirect_uris": ["https://example.com/cb#x"]},
            {"redirect_uris": ["https://ann@example.com/cb"]},
            {"redirect_uris": ["javascript:alert(1)"]},
            {"redirect_uris": ["myapp:/cb"]},
            {"redirect_uris": ["/cb"]},
            {"redirect_uris": [""]},
            {"redirect_uris": ["com.example.a:/cb"] * 21},
            {"post_logout_redirect_uris": ["data:text/html,x"]},
            {"scopes": ["server"]},
            {"scopes": ["openid admin"]},
            {"name": ""},
            {"name": "a\nb"},
            {"secret_sha256": "plain secret"},
            {"secret": "x"},
        ],
        ids=str,
    )
    async def test_a_client_that_cannot_be_is_refused(self, house: House, changed: dict[str, Any]) -> None:
        """Addresses that anybody could own, scopes that nobody has, and secrets in the clear."""
        admin = house.world.tokens.sign("backend", server=True)
        body = {"id": "new", "name": "New", "redirect_uris": ["com.example.new:/cb"]} | changed
        answer = await house.http.request("PUT", "/v1/admin/clients/new", json=body, token=admin)
        assert (answer.status, answer.code) == (400, "malformed"), answer.body
        listed = (await house.http.get("/v1/admin/clients", token=admin)).json()["clients"]
        assert "new" not in [client["id"] for client in listed]

    async def test_a_client_that_may_do_less_keeps_nothing(self, house: House) -> None:
        """Neither a refresh nor a code brings what was taken away since; a new sign-in brings the rest."""
        admin = house.world.tokens.sign("backend", server=True)
        body = {"id": "new", "name": "New", "redirect_uris": ["com.example.new:/cb"], "first_party": True}
        wide, browser = ["openid", "offline_access", "api"], house.browser()

        async def put(scopes: list[str]) -> None:
            sent = body | {"scopes": scopes}
            answer = await house.http.request("PUT", "/v1/admin/clients/new", json=sent, token=admin)
            assert answer.status == 200, answer.body

        await put(wide)
        flow = Flow(redirect_uri="com.example.new:/cb", client_id="new", scope=" ".join(wide))
        first = flow.redeem(await house.sign_in(flow, browser=browser), client_id="new")
        tokens = (await house.post(TOKEN, first)).json()
        late = flow.redeem(flow.code(await browser.get(f"{AUTHORIZE}?{flow.query()}")), client_id="new")
        await put(wide[:2])
        form = refresh_form(tokens["refresh_token"], "new")
        assert [await error_of(house, form), await error_of(house, late)] == ["invalid_grant"] * 2
        code = flow.code(await browser.get(f"{AUTHORIZE}?{flow.query()}"))
        again = (await house.post(TOKEN, flow.redeem(code, client_id="new"))).json()
        assert again["scope"] == "openid offline_access"

    async def test_the_settings_clients_are_not_changed_here(self, house: House) -> None:
        """And nobody but admins sees this address."""
        admin = house.world.tokens.sign("backend", server=True)
        body = {"id": "first", "name": "Mine", "redirect_uris": ["com.evil.app:/cb"]}
        for method in ("PUT", "DELETE"):
            sent = body if method == "PUT" else None
            answer = await house.http.request(method, "/v1/admin/clients/first", json=sent, token=admin)
            assert (answer.status, answer.code) == (409, "conflict")
        tokens = await house.tokens(Flow(scope="api"))
        assert (await house.http.get("/v1/admin/clients", token=tokens["access_token"])).status == 403
        assert FIRST.redirects_to("com.example.crew:/signed-in")


async def test_what_has_expired_goes(house: House) -> None:
    """Codes, pushed requests and browsers are deleted in time, live ones are not."""
    flow = Flow()
    await house.sign_in(flow)
    await house.post("/v1/oauth/par", flow.parameters)
    await house.world.database.write(house.provider.store.sweep)
    counts = "SELECT (SELECT count(*) FROM oauth_code), (SELECT count(*) FROM oauth_request), "
    counts += "(SELECT count(*) FROM browser_session)"
    assert await house.world.rows(counts) == [(1, 1, 1)]
    house.clock.advance(14 * 24 * 3600 + 1)
    await house.world.database.write(house.provider.store.sweep)
    assert await house.world.rows(counts) == [(0, 0, 0)]
