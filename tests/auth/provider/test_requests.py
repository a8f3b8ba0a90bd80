"""Authorization requests: what OpenID Connect's Basic conformance plan asks of a provider, case by case.

The names in brackets are those of the plan's modules. What a provider may refuse (``request`` objects, other
response types) is refused here in the way that the plan wants it refused.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.auth.provider.world import AUTHORIZE, FIRST, ISSUER, PAR, SERVER, THIRD, TOKEN, Flow, Form, House

pytestmark = pytest.mark.anyio


async def answered(house: House, flow: Flow) -> dict[str, str]:
    """What the app is told without anybody signing in."""
    return flow.answer(await house.browser().get(f"{AUTHORIZE}?{flow.query()}"))


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"response_type": None}, "invalid_request"),  # [oidcc-response-type-missing]
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_type": "none"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"response_mode": "form_post"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge": "x" * 44}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": None}, "invalid_scope"),
        ({"scope": "unknown"}, "invalid_scope"),
        ({"scope": "server"}, "invalid_scope"),
        ({"prompt": "none login"}, "invalid_request"),  # [oidcc-prompt-none-with-others]
        ({"prompt": "sometimes"}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),  # [oidcc-prompt-none-not-logged-in]
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"dpop_jkt": "x"}, "invalid_request"),
        # [oidcc-unsigned-request-object-supported-correctly-or-rejected-as-unsupported]
        ({"request": "e30.e30."}, "request_not_supported"),
        ({"request_uri": "https://first.example/request"}, "request_uri_not_supported"),
        ({"registration": "{}"}, "registration_not_supported"),
    ],
    ids=str,
)
async def test_a_wrong_request_is_told_to_its_app(house: House, changed: dict[str, Any], error: str) -> None:
    """With state and issuer, at the registered address, and with no code."""
    found = await answered(house, Flow(**changed))
    assert (found["error"], found["state"], found["iss"]) == (error, "the state", ISSUER)
    assert "code" not in found
    assert found["error_description"]


@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": None},
        {"client_id": "unknown"},
        {"client_id": "x" * 4000},
        {"redirect_uri": None},  # [oidcc-ensure-request-without-redirect-uri]
        {"redirect_uri": "https://evil.example/cb"},  # [oidcc-ensure-registered-redirect-uri]
        {"redirect_uri": "https://app.example.com/cb"},  # [oidcc-redirect-uri-query-mismatch]
        {
            "redirect_uri": "https://app.example.com/cb?from=lowtide&more=1"
        },  # [oidcc-redirect-uri-query-added]
        {"redirect_uri": "https://app.example.com/cb?from=lowtide#x"},
        {"redirect_uri": "https://app.example.com/CB?from=lowtide"},
        {"redirect_uri": "https://app.example.com:443/cb?from=lowtide"},
        {"redirect_uri": "https://app.example.com/./cb?from=lowtide"},
        {"redirect_uri": "https://app.example.com@evil.example/cb?from=lowtide"},
        {"redirect_uri": "https://app.example.com.evil.example/cb?from=lowtide"},
        {"redirect_uri": "https://app.example.com\\@evil.example/cb?from=lowtide"},
        {"redirect_uri": "com.example.crew:/signed-in/more"},
        {"redirect_uri": "com.example.crew://signed-in"},
        {"redirect_uri": "http://127.0.0.1:80801/cb"},
        {"redirect_uri": "http://127.0.0.1:80/cb/../x"},
        {"redirect_uri": "http://127.0.0.1.evil.example/cb"},
        {"redirect_uri": "http://127.0.0.1:80@evil.example/cb"},
        {"redirect_uri": "http://127.0.0.1:x/cb"},
        {"redirect_uri": "http://localhost:80/cb"},
        {"redirect_uri": "https://127.0.0.1:80/cb"},
        {"redirect_uri": "http://[::1]:80/cb"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": "data:text/html,x"},
        {"redirect_uri": "//evil.example/cb"},
        {"request_uri": "urn:ietf:params:oauth:request_uri:unknown"},
    ],
    ids=str,
)
async def test_nobody_is_led_astray(house: House, changed: dict[str, Any]) -> None:
    """Without a known client and its own address nothing is sent anywhere: a page of ours says so."""
    answer = await house.browser().get(f"{AUTHORIZE}?{Flow(**changed).query()}")
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("text/html")
    assert "location" not in answer.headers
    assert b"evil.example" not in answer.body


@pytest.mark.parametrize(
    "raw",
    ["client_id=first&client_id=third", "%ff=1", "a=%00", "&".join(f"a{n}=1" for n in range(70)), "a=é"],
)
async def test_a_query_that_is_ambiguous_is_not_read(house: House, raw: str) -> None:
    """Names given twice, bad UTF-8, control characters, too many: two readers could see two requests."""
    flow = Flow()
    answer = await house.browser().get(f"{AUTHORIZE}?{flow.query()}&{raw}")
    assert answer.status == 400
    assert "location" not in answer.headers


@pytest.mark.parametrize("port", ["", ":1", ":51234", ":65535"])
async def test_a_loopback_address_may_have_any_port(house: House, port: str) -> None:
    """RFC 8252 section 7.3: a desktop app takes the port that is free."""
    flow = Flow(redirect_uri=f"http://127.0.0.1{port}/cb", prompt="none")
    assert (await answered(house, flow))["error"] == "login_required"


async def test_a_registered_query_is_kept(house: House) -> None:
    """The answer is added to it. [oidcc-redirect-uri-query-OK]"""
    flow = Flow(redirect_uri="https://app.example.com/cb?from=lowtide", prompt="none")
    found = await answered(house, flow)
    assert (found["from"], found["error"]) == ("lowtide", "login_required")


@pytest.mark.parametrize(
    "changed",
    [
        {"display": "page"},  # [oidcc-display-page]
        {"display": "popup"},  # [oidcc-display-popup]
        {"ui_locales": "se"},  # [oidcc-ui-locales]
        {"claims_locales": "se"},  # [oidcc-claims-locales]
        {"acr_values": "1 2"},  # [oidcc-ensure-request-with-acr-values-succeeds]
        {"extra": "foobar"},  # [oidcc-ensure-request-with-unknown-parameter-succeeds]
        {"scope": "openid unknown"},
        {"nonce": None},  # [oidcc-ensure-request-without-nonce-succeeds-for-code-flow]
        {"state": None},
        {"state": ""},
        {"login_hint": "ann@example.com"},  # [oidcc-login-hint]
        {"id_token_hint": "nonsense"},
        {"claims": '{"id_token":{"name":{"essential":true}}}'},  # [oidcc-claims-essential]
        {"max_age": "999999999999999999"},
        {"prompt": "select_account"},
    ],
    ids=str,
)
async def test_what_is_unknown_does_not_matter(house: House, changed: dict[str, Any]) -> None:
    """The sign-in goes its way."""
    flow = Flow(**changed)
    page = await house.browser().get(f"{AUTHORIZE}?{flow.query()}")
    assert page.status == 200
    assert "email" in Form(page.body).forms


async def test_the_hint_is_in_the_field(house: House) -> None:
    """login_hint fills in the address, as text only. [oidcc-login-hint]"""
    flow = Flow(login_hint='"><script>alert(1)</script>')
    page = await house.browser().get(f"{AUTHORIZE}?{flow.query()}")
    assert b"<script" not in page.body
    fields = [found for tag, found in Form(page.body).tags if tag == "input" and found.get("name") == "email"]
    assert fields[0]["value"] == '"><script>alert(1)</script>'


class TestHowLongAgo:
    async def test_a_fresh_sign_in_is_asked_for(self, house: House) -> None:
        """prompt=login, and max_age that has passed, show the page to who is signed in; 10000 s does not.

        [oidcc-prompt-login, oidcc-max-age-1, oidcc-max-age-10000]
        """
        browser = house.browser()
        await house.sign_in(Flow(), browser=browser)
        house.clock.advance(2)
        for flow in (Flow(prompt="login"), Flow(max_age="1"), Flow(max_age="0")):
            page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
            assert page.status == 200, flow.parameters
            silent = Flow(max_age="1", prompt="none")
            assert (silent.answer(await browser.get(f"{AUTHORIZE}?{silent.query()}")))[
                "error"
            ] == "login_required"
        flow = Flow(max_age="10000", prompt="none")
        assert flow.code(await browser.get(f"{AUTHORIZE}?{flow.query()}"))
        flow = Flow(max_age="1")
        page = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        assert flow.code(await browser.sign_in(page))

    async def test_a_browser_is_signed_out_in_time(self, house: House) -> None:
        """After two weeks, and when the user is gone."""
        browser = house.browser()
        await house.sign_in(Flow(), browser=browser)
        house.clock.advance(14 * 24 * 3600 + 1)
        flow = Flow(prompt="none")
        assert (flow.answer(await browser.get(f"{AUTHORIZE}?{flow.query()}")))["error"] == "login_required"


async def test_a_request_may_come_as_a_form(house: House) -> None:
    """POST leads to the same request by GET. [oidcc-ensure-post-request-succeeds]"""
    flow, browser = Flow(), house.browser()
    answer = await browser.send(flow.parameters, at=AUTHORIZE, origin="https://app.example.com")
    assert answer.status == 303
    page = await browser.get(answer.headers["location"])
    assert flow.code(await browser.sign_in(page))


class TestPushed:
    @pytest.mark.parametrize(
        ("changed", "error"),
        [
            ({"redirect_uri": "https://evil.example/cb"}, "invalid_request"),
            ({"response_type": "token"}, "unsupported_response_type"),
            ({"request_uri": "urn:ietf:params:oauth:request_uri:x"}, "invalid_request"),
            ({"code_challenge": None}, "invalid_request"),
            ({"client_id": "unknown"}, "invalid_client"),
            ({"client_id": "server"}, "invalid_client"),
            ({"client_secret": "x"}, "invalid_client"),
        ],
        ids=str,
    )
    async def test_a_wrong_request_is_refused_at_once(
        self, house: House, changed: dict[str, Any], error: str
    ) -> None:
        """RFC 9126 section 2.3: the client learns it before any browser opens."""
        answer = await house.post(PAR, Flow(**changed).parameters)
        assert answer.status in (400, 401)
        assert answer.json()["error"] == error

    async def test_only_its_client_can_use_it(self, house: House) -> None:
        """Its name with another client_id is worth nothing, and it ends after ten minutes."""
        flow = Flow()
        uri = (await house.post(PAR, flow.parameters)).json()["request_uri"]
        other = await house.browser().get(
            f"{AUTHORIZE}?{urlencode({'client_id': THIRD.id, 'request_uri': uri})}"
        )
        assert other.status == 400
        mine = f"{AUTHORIZE}?{urlencode({'client_id': FIRST.id, 'request_uri': uri})}"
        assert (await house.browser().get(mine)).status == 200
        house.clock.advance(601)
        assert (await house.browser().get(mine)).status == 400

    async def test_what_is_pushed_counts_and_nothing_beside_it(self, house: House) -> None:
        """Parameters next to the name cannot change the request."""
        flow = Flow()
        uri = (await house.post(PAR, flow.parameters)).json()["request_uri"]
        target = urlencode(
            {
                "client_id": FIRST.id,
                "request_uri": uri,
                "redirect_uri": "https://evil.example",
                "state": "other",
            }
        )
        browser = house.browser()
        page = await browser.get(f"{AUTHORIZE}?{target}")
        assert flow.code(await browser.sign_in(page))

    async def test_a_client_with_a_secret_proves_it(self, house: House) -> None:
        """And the secret is not kept with the request."""
        flow = Flow(SERVER)
        answer = await house.post(PAR, flow.parameters | {"client_secret": "server-secret"})
        assert answer.status == 201
        ((kept,),) = await house.world.rows("SELECT parameters FROM oauth_request")
        assert "server-secret" not in kept


async def test_the_document_says_what_is_true(house: House) -> None:
    """Both addresses have one document; each address in it answers; what is not there is not promised.

    [oidcc-discovery-endpoint-verification, oidcc-server]
    """
    one = await house.http.get("/.well-known/openid-configuration")
    two = await house.http.get("/.well-known/oauth-authorization-server")
    found = one.json()
    assert found == two.json()
    assert found["issuer"] == ISSUER
    assert found["response_types_supported"] == ["code"]
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert "implicit" not in found["grant_types_supported"]
    assert "password" not in found["grant_types_supported"]
    for name, address in found.items():
        if name.endswith(("_endpoint", "_uri")):
            assert address.startswith(ISSUER)
            answer = await house.http.get(address.removeprefix(ISSUER))
            assert answer.status != 404, name


async def test_the_document_s_pages_are_not_framed(house: House) -> None:
    """No frame, no script, no other host; the form may lead to us and to the app, and nowhere else."""
    flow = Flow(redirect_uri="https://app.example.com/cb?from=lowtide")
    page = await house.browser().get(f"{AUTHORIZE}?{flow.query()}")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["form-action"] == "'self' https://app.example.com"
    assert policy["style-src"].startswith("'sha256-")
    assert "script-src" not in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["cache-control"] == "no-store"
    assert b"<script" not in page.body
    assert b"style=" not in page.body
    tags = Form(page.body).tags
    assert [found["lang"] for tag, found in tags if tag == "html"] == ["en"]
    inputs = [found for tag, found in tags if tag == "input" and found.get("type") != "hidden"]
    assert all(found.get("autocomplete") for found in inputs)


@pytest.mark.parametrize("fields", [{}, {"grant_type": "password", "username": "a", "password": "b"}])
async def test_there_is_no_other_grant(house: House, fields: dict[str, str]) -> None:
    """No password grant, none without a type, no client credentials."""
    answer = await house.post(TOKEN, fields | {"client_id": "first"})
    assert answer.status == 400
    assert answer.json()["error"] in ("invalid_request", "unsupported_grant_type")
