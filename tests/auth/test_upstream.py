"""Signing in with an outside OpenID provider: a certified one, run as a process; and one that lies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from lowtide.app import Lowtide
from lowtide.auth import COMPONENT as AUTH
from lowtide.auth.challenges import LIFE, Challenges
from lowtide.auth.model import Evidence, Proof
from lowtide.auth.outside.discovery import read_metadata
from lowtide.auth.outside.issuers import IdTokens
from lowtide.auth.outside.routes import outside_routes
from lowtide.auth.outside.upstream import EVER, GOOGLE, WAY, Upstreams, read_proof, s256
from lowtide.declare.app import App
from lowtide.egress import Egress
from lowtide.kernel.base64url import encode
from lowtide.kernel.clock import Clock, ManualClock, SystemClock
from lowtide.kernel.errors import BadRequest, InvalidGrant, Malformed, NotFound, Unavailable
from lowtide.kernel.http import Request
from lowtide.kernel.ids import SystemIds
from lowtide.kernel.upstream import Upstream
from lowtide.settings import Settings
from lowtide.storage.db import Database
from lowtide.storage.db.migrate import migrate
from lowtide.storage.vault import COMPONENT as STORAGE
from lowtide.storage.vault import Vault
from tests.api.client import Client
from tests.auth.issuer import KEY, OTHER_KEY, IssuerServer, good_claims, jwk, signed
from tests.auth.upstream import Browser, ProviderProcess, query_of
from tests.server_process import SECRET_KEY

pytestmark = pytest.mark.anyio
HERE = "http://localhost:8420"
BACK = "com.example.app:/signed-in"
VERIFIER = "v" * 43
CALLBACK = f"{HERE}/v1/auth/oidc/there/callback"


async def upstreams(database: Database, clock: Clock, upstream: Upstream, address: str) -> Upstreams:
    await migrate(database, (STORAGE, AUTH), clock)
    ids = SystemIds(clock)
    vault = Vault(database, clock, ids, bytes(32))
    await vault.load()
    egress = Egress(allowed=(address,) if address else ())
    return Upstreams(
        [upstream],
        egress,
        IdTokens(egress, clock),
        Challenges(vault, clock, ids),
        database,
        clock,
        ids,
        address=HERE,
        redirects=(BACK, "https://app.example/back?from=here"),
    )


async def begin(there: Upstreams, **changes: Any) -> str:
    asked = {"redirect_uri": BACK, "challenge": s256(VERIFIER), "state": "the app's"}
    return await there.start("there", **(asked | changes))


async def spent(database: Database, evidence: Evidence) -> Proof:
    """What was proved, used up without a sign-in."""
    await database.write(evidence.spend)
    return evidence.proof


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderProcess]:
    with ProviderProcess(CALLBACK) as running:
        yield running


class TestACertifiedProvider:
    @pytest.fixture(params=["lowtide", "public"])
    async def there(
        self, request: pytest.FixtureRequest, provider: ProviderProcess, database: Database
    ) -> Upstreams:
        secret = "a-secret: with/odd+characters%" if request.param == "lowtide" else ""
        upstream = Upstream(name="there", issuer=provider.url, client_id=request.param, client_secret=secret)
        return await upstreams(database, SystemClock(), upstream, provider.address)

    async def test_a_user_goes_there_and_comes_back(self, there: Upstreams, database: Database) -> None:
        """The browser goes there and to the app, which exchanges its code; no token on the way."""
        back = await asyncio.to_thread(Browser().sign_in, await begin(there), "ann")
        assert back.startswith(CALLBACK)
        home = await there.callback("there", query_of(back))
        assert home.startswith(BACK)
        answer = query_of(home)
        assert answer.keys() == {"code", "state"}
        assert answer["state"] == "the app's"
        proof = await spent(database, await there.finish(answer["code"], VERIFIER))
        assert proof.auth_time is not None, "a provider that is asked how long ago says when"
        assert proof == Proof(
            provider="there",
            subject="ann",
            email="ann@example.com",
            email_verified=True,
            name="ann Example",
            amr=("fed",),
            auth_time=proof.auth_time,
        )
        # Each step happens once.
        with pytest.raises(InvalidGrant):
            await spent(database, await there.finish(answer["code"], VERIFIER))
        with pytest.raises(InvalidGrant):
            await there.callback("there", query_of(back))

    async def test_only_the_device_that_began_can_finish(self, there: Upstreams) -> None:
        """A code that fell into other hands is worth nothing, and stays good for its owner."""
        back = await asyncio.to_thread(Browser().sign_in, await begin(there), "mallory")
        code = query_of(await there.callback("there", query_of(back)))["code"]
        for verifier in ("", "x" * 43, VERIFIER + "v", s256(VERIFIER)):
            with pytest.raises(InvalidGrant, match="another device"):
                await there.finish(code, verifier)
        proof = (await there.finish(code, VERIFIER)).proof
        assert (proof.email, proof.email_verified) == ("mallory@example.com", False)

    async def test_a_user_who_declines_goes_back_to_the_app(self, there: Upstreams) -> None:
        """The app is told, with its state, and gets no code."""
        back = await asyncio.to_thread(Browser().refuse, await begin(there))
        answer = query_of(await there.callback("there", query_of(back)))
        assert answer == {"error": "access_denied", "state": "the app's"}


@pytest.fixture
def built(provider: ProviderProcess, tmp_path: Path) -> Lowtide:
    """A whole backend that signs in with the provider. Compiling an app reads its source: not on a loop."""
    clock = SystemClock()
    secret = "a-secret: with/odd+characters%"
    there = Upstream(name="there", issuer=provider.url, client_id="lowtide", client_secret=secret)
    settings = Settings(
        database=str(tmp_path / "data.db"),
        secret_key=SECRET_KEY,
        rate_limits=0,
        upstreams=(there,),
        egress_allowed=(provider.address,),
        app_redirects=(BACK,),
    )
    return Lowtide(settings, App("upstream"), clock, SystemIds(clock))


async def test_the_whole_way_over_http(built: Lowtide) -> None:
    """Start, provider, callback, finish: at the end the app has tokens, and no address held one."""
    await built.start()
    try:
        client = Client(built.asgi)
        asked = urlencode({"redirect_uri": BACK, "challenge": s256(VERIFIER), "state": "s"})
        begun = await client.get(f"/v1/auth/oidc/there/start?{asked}")
        assert (begun.status, begun.headers["cache-control"]) == (302, "no-store")
        back = await asyncio.to_thread(Browser().sign_in, begun.headers["location"], "ann")
        # Providers add parameters of their own: they are ignored (RFC 6749, section 4.1.2).
        home = await client.get(back.removeprefix(HERE) + "&session_state=x&scope=openid")
        assert home.status == 302
        code = query_of(home.headers["location"])["code"]
        body = {"code": code, "verifier": VERIFIER, "device": {"name": "Ann's phone"}}
        done = await client.post("/v1/auth/oidc/finish", json=body)
        assert done.status == 200
        assert done.json()["user"]["email"] == "ann@example.com"
        assert built.tokens.verify(done.json()["access_token"]).user == done.json()["user"]["id"]
        assert (await client.post("/v1/auth/oidc/finish", json=body)).code == "invalid_grant"
        for wrong in ("challenge=short&redirect_uri=x", f"challenge={'c' * 43}", f"{asked}&x=1", "x"):
            assert (await client.get(f"/v1/auth/oidc/there/start?{wrong}")).status == 400
        for wrong in ("", "state=x&code=c", "state=x&state=y", "%ff=%ff", "state=" + "x" * 9000):
            answer = await client.get(f"/v1/auth/oidc/there/callback?{wrong}")
            assert answer.status in (400, 401), wrong
    finally:
        await built.stop()


class TestStart:
    @pytest.fixture
    def server(self) -> Iterator[IssuerServer]:
        with IssuerServer() as running:
            yield running

    @pytest.fixture
    async def there(self, server: IssuerServer, sqlite_database: Database, clock: ManualClock) -> Upstreams:
        publish(server)
        return await upstreams(sqlite_database, clock, upstream_of(server), server.address)

    async def test_what_the_provider_is_asked(self, there: Upstreams, server: IssuerServer) -> None:
        """Code flow with PKCE, a nonce and a state; the app's own address and verifier stay hidden."""
        address = await begin(there, login_hint="ann@example.com")
        assert address.startswith(f"{server.url}/authorize?tenant=1&")
        asked = query_of(address)
        assert (asked["response_type"], asked["redirect_uri"]) == ("code", CALLBACK)
        assert asked["code_challenge_method"] == "S256"
        assert len(asked["code_challenge"]) == 43
        assert asked["code_challenge"] != s256(VERIFIER)
        assert asked["login_hint"] == "ann@example.com"
        assert asked["max_age"] == str(EVER)
        assert BACK not in address
        assert "the app's" not in address
        other = query_of(await begin(there))
        assert all(other[name] != asked[name] for name in ("state", "nonce", "code_challenge"))

    @pytest.mark.parametrize(
        "back",
        [
            "com.example.app:/other",
            "com.example.app:/signed-in/",
            "com.example.app:/signed-in?x=1",
            "https://app.example/back",
            "https://app.example.evil/back?from=here",
            "javascript:alert(1)",
            "",
        ],
    )
    async def test_the_app_is_called_back_only_where_it_may_be(self, there: Upstreams, back: str) -> None:
        """Redirect URIs are matched as a whole: an open redirect would give codes away."""
        with pytest.raises(BadRequest):
            await begin(there, redirect_uri=back)

    async def test_the_app_asks_how_long_ago(self, there: Upstreams) -> None:
        """For a step-up, in the request that opens the browser; what is no number of seconds is refused."""
        (route,) = [one for one in outside_routes(None, there, None) if one.path.endswith("/start")]  # type: ignore[arg-type]
        assert route.query is not None
        sent = {"redirect_uri": BACK, "challenge": s256(VERIFIER)}
        query = msgspec.convert(sent | {"max_age": "900"}, route.query, strict=False)
        answer = await route.handler(Request(body=None, query=query, params={"provider": "there"}))
        assert query_of(answer.headers["location"])["max_age"] == "900"
        for wrong in ("-1", "soon", str(EVER + 1)):
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert(sent | {"max_age": wrong}, route.query, strict=False)

    async def test_an_unknown_provider_is_not_found(self, there: Upstreams) -> None:
        """Only what the operator set up is there, for the way there and for the way back."""
        with pytest.raises(NotFound):
            await there.start("elsewhere", redirect_uri=BACK, challenge=s256(VERIFIER))

    async def test_a_provider_that_is_away_is_a_fault_of_the_moment(
        self, there: Upstreams, server: IssuerServer, clock: ManualClock
    ) -> None:
        """503 while nothing is known of it; what is known is used when it goes away."""
        server.fault = "500"
        with pytest.raises(Unavailable):
            await begin(there)
        server.fault = ""
        clock.advance(5)
        await begin(there)
        server.fault = "cut"
        clock.advance(4000)
        await begin(there)


def upstream_of(server: IssuerServer) -> Upstream:
    return Upstream(name="there", issuer=server.url, client_id="com.example.app", client_secret="s")


def publish(server: IssuerServer, **changes: Any) -> None:
    server.answers["/.well-known/openid-configuration"] = (200, metadata(server.url, **changes))


def metadata(url: str, **changes: Any) -> dict[str, Any]:
    found = {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize?tenant=1",
        "token_endpoint": f"{url}/token",
        "jwks_uri": f"{url}/keys",
        "authorization_response_iss_parameter_supported": True,
    } | changes
    return {name: value for name, value in found.items() if value is not None}


class TestTheWayBack:
    """Against a provider that does what the test says: each lie sends the app an error, and no code."""

    @pytest.fixture
    def server(self) -> Iterator[IssuerServer]:
        with IssuerServer() as running:
            publish(running)
            yield running

    @pytest.fixture
    async def there(self, server: IssuerServer, sqlite_database: Database, clock: ManualClock) -> Upstreams:
        return await upstreams(sqlite_database, clock, upstream_of(server), server.address)

    async def answer(
        self,
        there: Upstreams,
        server: IssuerServer,
        token: Any = None,
        max_age: int | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """The way there and back; ``token`` makes the id token of the claims that would be right."""
        asked = query_of(await begin(there, max_age=max_age))
        assert asked["max_age"] == str(EVER if max_age is None else max_age)
        claims = good_claims(iss=server.url, nonce=asked["nonce"])
        id_token = signed(claims) if token is None else token(claims)
        if "/token" not in server.answers:
            server.answers["/token"] = (
                200,
                {"id_token": id_token, "access_token": "a", "token_type": "Bearer"},
            )
        back = {"code": "c", "state": asked["state"], "iss": server.url} | changes
        home = await there.callback(
            "there", {name: value for name, value in back.items() if value is not None}
        )
        return query_of(home)

    async def test_a_right_answer_is_taken(self, there: Upstreams, server: IssuerServer) -> None:
        """The code is exchanged with the verifier and the client's secret."""
        found = await self.answer(there, server)
        assert (await there.finish(found["code"], VERIFIER)).proof.subject == "000123.abc"
        ((_, _, form),) = [one for one in server.requests if one[1] == "/token"]
        assert (form["grant_type"], form["code"], form["redirect_uri"]) == (
            "authorization_code",
            "c",
            CALLBACK,
        )
        assert len(form["code_verifier"]) == 64

    @pytest.mark.parametrize("issuer", [None, "https://evil.example", ""])
    async def test_another_issuers_answer_is_refused(
        self, there: Upstreams, server: IssuerServer, issuer: str | None
    ) -> None:
        """RFC 9207: an answer that does not say its issuer, or another, is not exchanged (mix-up)."""
        assert (await self.answer(there, server, iss=issuer)).keys() == {
            "error",
            "error_description",
            "state",
        }
        assert server.fetches("/token") == 0

    @pytest.mark.parametrize(
        "changes",
        [
            {"nonce": "another"},
            {"nonce": None},
            {"aud": "another"},
            {"iss": "https://evil.example"},
            {"exp": 1},
            {"sub": ""},
        ],
        ids=str,
    )
    async def test_a_wrong_id_token_is_refused(
        self, there: Upstreams, server: IssuerServer, changes: dict[str, Any]
    ) -> None:
        """A token for another flow or app, from another issuer, or one that is over."""

        def token(claims: dict[str, Any]) -> str:
            return signed({name: value for name, value in (claims | changes).items() if value is not None})

        assert "code" not in await self.answer(there, server, token)

    @pytest.mark.parametrize(
        ("told", "enough"),
        [(0, True), (-180, True), (-181, False), (9000, True), (None, False), ("now", False), (True, False)],
        ids=str,
    )
    async def test_how_long_ago_is_not_left_to_the_provider(
        self, there: Upstreams, server: IssuerServer, clock: ManualClock, told: Any, enough: bool
    ) -> None:
        """A minute, and two for clocks that differ; without auth_time, or in userinfo only, it is no sign-in.

        Who did not ask for it takes what comes, and is told the time if there is one, never in the future.
        """
        publish(server, userinfo_endpoint=f"{server.url}/me")
        now = clock.now() // 1000
        time = now + told if type(told) is int else told
        server.answers["/me"] = (200, {"sub": "000123.abc", "auth_time": now})

        def token(claims: dict[str, Any]) -> str:
            found = {name: value for name, value in claims.items() if name != "email"}
            return signed(found if time is None else found | {"auth_time": time})

        found = await self.answer(there, server, token, max_age=60)
        assert found.get("error") == (None if enough else "login_required")
        assert ("code" in found) == enough
        server.answers.pop("/token")
        found = await self.answer(there, server, token)
        expected = min(time, now) * 1000 if type(told) is int else None
        assert (await there.finish(found["code"], VERIFIER)).proof.auth_time == expected

    async def test_a_forged_id_token_is_refused(self, there: Upstreams, server: IssuerServer) -> None:
        """Another key, no signature, and none at all."""
        assert "code" not in await self.answer(there, server, lambda claims: signed(claims, OTHER_KEY))
        server.answers.pop("/token")
        head, none = {"alg": "none"}, encode(b'{"alg":"none"}')
        for forged in (
            lambda claims: signed(claims, header=head),
            lambda claims: f"{none}.{encode(json.dumps(claims).encode())}.",
            lambda _: None,
            lambda _: 5,
        ):
            assert "code" not in await self.answer(there, server, forged)
            server.answers.pop("/token")

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            ((400, {"error": "invalid_grant"}), "server_error"),
            ((500, {}), "temporarily_unavailable"),
            ((429, {}), "temporarily_unavailable"),
            ((200, []), "server_error"),
            ((200, {}), "server_error"),
            ((200, b"<html>"), "server_error"),
            ((200, b"[" * 50_000), "server_error"),
            ((302, {}), "server_error"),
        ],
    )
    async def test_a_broken_exchange_goes_back_to_the_app(
        self, there: Upstreams, server: IssuerServer, answer: tuple[int, Any], error: str
    ) -> None:
        """The browser is never left at a dead end: the app hears what kind of fault it is."""
        server.answers["/token"] = answer
        found = await self.answer(there, server)
        assert found["error"] == error
        assert found["state"] == "the app's"
        assert "code" not in found

    @pytest.mark.parametrize(
        ("told", "heard"),
        [("access_denied", "access_denied"), ("<script>", "server_error"), ("x" * 5000, "server_error")],
    )
    async def test_the_providers_errors_are_passed_on(
        self, there: Upstreams, server: IssuerServer, told: str, heard: str
    ) -> None:
        """Only those that are known; nothing that a stranger wrote reaches the app."""
        found = await self.answer(there, server, code=None, error=told, error_description="<script>")
        assert found == {"error": heard, "state": "the app's"}

    async def test_userinfo_of_another_user_is_refused(self, there: Upstreams, server: IssuerServer) -> None:
        """What the id token leaves out is asked for, and must be of the same user."""
        publish(server, userinfo_endpoint=f"{server.url}/me")
        claims = {"sub": "000123.abc", "email": "ann@example.com", "email_verified": True}
        server.answers["/me"] = (200, claims | {"sub": "victim"})

        def token(claims: dict[str, Any]) -> str:
            return signed({name: value for name, value in claims.items() if name != "email"})

        assert "code" not in await self.answer(there, server, token)
        server.answers["/me"] = (200, claims)
        server.answers.pop("/token")
        found = await self.answer(there, server, token)
        assert (await there.finish(found["code"], VERIFIER)).proof.email == "ann@example.com"

    async def test_a_state_that_is_not_ours_leads_nowhere(
        self, there: Upstreams, server: IssuerServer, clock: ManualClock
    ) -> None:
        """Made up, for another provider, too old, or a code in its place: there is no app to go back to."""
        state = query_of(await begin(there))["state"]
        code = (await self.answer(there, server))["code"]
        for wrong in ("", "x", state[:-3], code):
            with pytest.raises(InvalidGrant):
                await there.callback("there", {"code": "c", "state": wrong, "iss": server.url})
        with pytest.raises(InvalidGrant):
            await there.callback("elsewhere", {"code": "c", "state": state, "iss": server.url})
        clock.advance(WAY)
        with pytest.raises(InvalidGrant, match="expired"):
            await there.callback("there", {"code": "c", "state": state, "iss": server.url})
        assert server.fetches("/token") == 1

    async def test_a_code_ends(self, there: Upstreams, server: IssuerServer, clock: ManualClock) -> None:
        """The app has five minutes; a state is no code."""
        state = query_of(await begin(there))["state"]
        with pytest.raises(InvalidGrant):
            await there.finish(state, VERIFIER)
        code = (await self.answer(there, server))["code"]
        clock.advance(LIFE)
        with pytest.raises(InvalidGrant, match="expired"):
            await there.finish(code, VERIFIER)

    async def test_a_provider_cannot_turn_the_server_inwards(
        self, there: Upstreams, server: IssuerServer, clock: ManualClock
    ) -> None:
        """Addresses in its metadata that lead into the own network are never asked."""
        with IssuerServer() as inside:
            inside.document = {"keys": [jwk("first", KEY)]}
            for address in (f"https://localhost:{inside.port}/keys", "https://169.254.169.254/keys"):
                for name in ("jwks_uri", "token_endpoint"):
                    publish(server, **{name: address})
                    clock.advance(4000)
                    server.answers.pop("/token", None)
                    assert "code" not in await self.answer(there, server)
            clock.advance(700_000)
            publish(server, jwks_uri=f"{inside.url}/keys")
            with pytest.raises(Unavailable):
                await begin(there)
            assert inside.requests == []


class TestMetadata:
    def test_a_provider_must_be_who_it_says(self) -> None:
        """The document names its issuer exactly, and its addresses are https."""
        good = metadata("https://there.example")
        assert read_metadata(json.dumps(good).encode(), "https://there.example").jwks_uri
        for changes in (
            {"issuer": "https://there.example/"},
            {"issuer": "https://evil.example"},
            {"token_endpoint": "http://there.example/token"},
            {"jwks_uri": "http://169.254.169.254/"},
            {"jwks_uri": "file:///etc/passwd"},
            {"jwks_uri": "https:///keys"},
            {"authorization_endpoint": "javascript:alert(1)"},
            {"userinfo_endpoint": "ftp://there.example"},
            {"id_token_signing_alg_values_supported": ["none", "HS256"]},
        ):
            with pytest.raises(ValueError, match=r"it calls|https|signs"):
                read_metadata(json.dumps(good | changes).encode(), "https://there.example")

    @pytest.mark.parametrize("text", ["", "[]", "{}", "7", "[" * 5000, '{"issuer":5}'])
    def test_what_is_no_metadata_is_refused(self, text: str) -> None:
        """Other shapes, depth, and what is not JSON."""
        with pytest.raises(Malformed):
            read_metadata(text.encode(), "https://there.example")


class TestProofs:
    def test_an_address_counts_only_if_it_was_verified(self) -> None:
        """true, or Apple's "true"; everything else is not, and an address that is none is left out."""
        for told, verified in ((True, True), ("true", True), ("false", False), (1, False), (None, False)):
            proof = read_proof("apple", {"sub": "s", "email": " Ann@Example.COM", "email_verified": told})
            assert (proof.email, proof.email_verified) == ("ann@example.com", verified is True)
        for email in (5, "", "x" * 300 + "@a.example", "no address", "a@b\n"):
            proof = read_proof("apple", {"sub": "s", "email": email, "email_verified": True})
            assert (proof.email, proof.email_verified) in ((None, False), ("a@b", True))

    @pytest.mark.parametrize("issuer", GOOGLE)
    def test_google_vouches_for_its_own_addresses_and_its_customers(self, issuer: str) -> None:
        """An account that outlived a mailbox elsewhere does not become the account of the next owner."""
        for email, more, verified in (
            ("ann@gmail.com", {}, True),
            ("ann@firm.example", {"hd": "firm.example"}, True),
            ("ann@firm.example", {}, False),
            ("ann@evilgmail.com", {}, False),
            ("ann@gmail.com", {"email_verified": False}, False),
        ):
            claims = {"iss": issuer, "sub": "s", "email": email, "email_verified": True} | more
            proof = read_proof("google", claims)
            assert (proof.email, proof.email_verified) == (email, verified)

    def test_letters_that_look_alike_are_not_made_the_same(self) -> None:
        """The Kelvin sign is no k: who has one of the two addresses does not get the other's account."""
        proof = read_proof("there", {"sub": "s", "email": "mi\u212ae@Example.com", "email_verified": True})
        assert proof.email == "mi\u212ae@example.com"

    def test_what_does_not_fit_is_left_out(self) -> None:
        """A long name is cut, and claims that are too large are not shown: nobody is locked out for them."""
        proof = read_proof("there", {"sub": "s", "name": "n" * 999 + "\n", "groups": ["g" * 100] * 50})
        assert proof.name == "n" * 200
        assert proof.claims == {}
        assert read_proof("there", {"sub": "s", "hd": "a.example"}, "Ann").claims == {"hd": "a.example"}
        assert read_proof("apple", {"sub": "s"}, "  Ann ").name == "Ann"
        assert not proof.strong

    def test_the_challenge_is_the_hash_of_the_verifier(self) -> None:
        """RFC 7636, appendix B."""
        verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        assert s256(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
