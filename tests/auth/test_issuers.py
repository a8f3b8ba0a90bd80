"""Id tokens of others, against an issuer that is a real server and has bad days."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from lowtide.auth.outside.issuers import (
    AGAIN,
    FRESH,
    LEEWAY,
    MAX_ID_TOKEN,
    MAX_KEYS,
    SOON,
    STALE,
    IdTokens,
    Issuer,
    read_key_set,
)
from lowtide.egress import Egress
from lowtide.kernel.base64url import encode
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import InvalidGrant, Malformed, Unavailable
from tests.auth.issuer import KEY, NOW, OTHER_KEY, IssuerServer, good_claims, jwk, signed

pytestmark = pytest.mark.anyio
NONCE = "n-0S6_WzA2Mj"


@pytest.fixture
def server() -> Iterator[IssuerServer]:
    with IssuerServer() as running:
        yield running


@pytest.fixture
def tokens(server: IssuerServer, clock: ManualClock) -> Iterator[IdTokens]:
    egress = Egress(allowed=(server.address,))
    yield IdTokens(egress, clock)
    egress.close()


@pytest.fixture
def issuer(server: IssuerServer) -> Issuer:
    return Issuer(
        name="example",
        issuers=("https://issuer.example", "issuer.example"),
        audiences=("com.example.app", "com.example.web"),
        jwks_url=f"{server.url}/keys",
    )


class TestTokens:
    async def test_a_good_token_is_believed(self, tokens: IdTokens, issuer: Issuer) -> None:
        """Its claims come back; any spelling of the issuer and any of the app's client ids will do."""
        claims = await tokens.verify(issuer, signed(good_claims()), nonce=NONCE)
        assert claims["sub"] == "000123.abc"
        other = good_claims(iss="issuer.example", aud="com.example.web")
        assert (await tokens.verify(issuer, signed(other), nonce=NONCE))["aud"] == "com.example.web"

    async def test_a_nonce_may_be_hashed(self, tokens: IdTokens, issuer: Issuer) -> None:
        """Apple's native way: the token holds the SHA-256 of what the app sends here."""
        hashed = hashlib.sha256(NONCE.encode()).hexdigest()
        assert await tokens.verify(issuer, signed(good_claims(nonce=hashed)), nonce=NONCE)
        # Never the other way round: who has only the hash has seen only the token.
        with pytest.raises(InvalidGrant):
            await tokens.verify(issuer, signed(good_claims(nonce=NONCE)), nonce=hashed)

    @pytest.mark.parametrize(
        ("claim", "sent"),
        [("other", NONCE), (None, NONCE), (NONCE, None), (5, NONCE), ("", NONCE), ("é", NONCE)],
    )
    async def test_a_wrong_nonce_is_refused(
        self, tokens: IdTokens, issuer: Issuer, claim: Any, sent: str | None
    ) -> None:
        """Another, none where one was sent, one where none was sent."""
        with pytest.raises(InvalidGrant, match="nonce"):
            await tokens.verify(issuer, signed(good_claims(nonce=claim)), nonce=sent)

    @pytest.mark.parametrize(
        "changes",
        [
            {"iss": "https://issuer.example/"},
            {"iss": "https://evil.example"},
            {"iss": None},
            {"iss": ["https://issuer.example"]},
            {"aud": "com.other.app"},
            {"aud": None},
            {"aud": []},
            {"aud": [["com.example.app"]]},
            {"aud": ["com.example.app", "com.other.app"]},
            {"aud": ["com.example.app", "com.other.app"], "azp": "com.other.app"},
            {"exp": NOW - LEEWAY},
            {"exp": None},
            {"exp": "never"},
            {"exp": True},
            {"exp": 1e300},
            {"iat": NOW + LEEWAY + 1},
            {"iat": None},
            {"iat": NOW - 200_000, "exp": NOW + 1_000_000},
            {"nbf": NOW + LEEWAY + 1},
            {"sub": None},
            {"sub": ""},
            {"sub": 5},
            {"sub": "x" * 256},
            {"sub": "a\nb"},
        ],
        ids=str,
    )
    async def test_a_wrong_claim_is_refused(
        self, tokens: IdTokens, issuer: Issuer, changes: dict[str, Any]
    ) -> None:
        """Another issuer or app, a time that is over or not there yet, a subject that is none."""
        with pytest.raises(InvalidGrant):
            await tokens.verify(issuer, signed(good_claims(**changes)), nonce=NONCE)

    @pytest.mark.parametrize("changes", [{"exp": NOW - LEEWAY + 1}, {"iat": NOW + LEEWAY}], ids=str)
    async def test_clocks_may_differ(self, tokens: IdTokens, issuer: Issuer, changes: dict[str, Any]) -> None:
        """Two minutes, either way."""
        assert await tokens.verify(issuer, signed(good_claims(**changes)), nonce=NONCE)

    async def test_several_audiences_need_an_authorized_party(self, tokens: IdTokens, issuer: Issuer) -> None:
        """A token for several is good if it was given to this app (Core, section 3.1.3.7)."""
        claims = good_claims(aud=["com.example.app", "com.other.app"], azp="com.example.app")
        assert await tokens.verify(issuer, signed(claims), nonce=NONCE)


class TestForgeries:
    @pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS384", "ES256", "", None, 5, ["RS256"]])
    async def test_the_algorithm_is_not_the_tokens_to_choose(
        self, tokens: IdTokens, issuer: Issuer, server: IssuerServer, algorithm: Any
    ) -> None:
        """What is not on the issuer's list is refused before its keys are even fetched."""
        with pytest.raises(InvalidGrant, match="algorithm"):
            await tokens.verify(
                issuer, signed(good_claims(), header={"alg": algorithm, "kid": "first"}), nonce=NONCE
            )
        assert server.fetches() == 0

    async def test_a_public_key_is_no_shared_secret(self, tokens: IdTokens, issuer: Issuer) -> None:
        """HMAC with the published key as its secret: the oldest forgery. Unsigned tokens are another."""
        pem = json.dumps(jwk("first", KEY)).encode()
        head = encode(b'{"alg":"HS256","kid":"first"}')
        content = f"{head}.{encode(json.dumps(good_claims()).encode())}"
        mac = hmac.new(pem, content.encode(), hashlib.sha256).digest()
        bare = encode(b'{"alg":"none"}') + "." + content.split(".")[1] + "."
        for token in (f"{content}.{encode(mac)}", bare):
            with pytest.raises(InvalidGrant):
                await tokens.verify(issuer, token, nonce=NONCE)

    async def test_another_key_is_refused(self, tokens: IdTokens, issuer: Issuer) -> None:
        """A right name with another key's signature, and a changed payload with the right signature."""
        with pytest.raises(InvalidGrant, match="signature"):
            await tokens.verify(issuer, signed(good_claims(), OTHER_KEY), nonce=NONCE)
        head, _, signature = signed(good_claims()).split(".")
        changed = encode(json.dumps(good_claims(sub="victim")).encode())
        with pytest.raises(InvalidGrant, match="signature"):
            await tokens.verify(issuer, f"{head}.{changed}.{signature}", nonce=NONCE)

    @pytest.mark.parametrize(
        "extra",
        [
            {"jwk": jwk("own", OTHER_KEY), "kid": "own"},
            {"jku": "http://127.0.0.1:1/keys", "kid": "own"},
            {"x5u": "http://127.0.0.1:1/", "x5c": ["AAAA"], "kid": "own"},
            {"kid": "../../keys"},
            {"kid": "' OR 1=1 --"},
            {"kid": "\u0000first"},
            {"kid": ""},
            {"kid": {"$ne": None}},
            {"kid": "x" * 9000},
            {"crit": ["exp"], "exp": 1, "kid": "first"},
        ],
        ids=lambda extra: "-".join(extra),
    )
    async def test_a_header_brings_no_key(
        self, tokens: IdTokens, issuer: Issuer, extra: dict[str, Any]
    ) -> None:
        """Keys come from the issuer's address only; a name is looked up and nothing else."""
        with pytest.raises(InvalidGrant):
            await tokens.verify(
                issuer, signed(good_claims(), OTHER_KEY, header={"alg": "RS256"} | extra), nonce=NONCE
            )

    async def test_what_is_no_token_is_refused(
        self, tokens: IdTokens, issuer: Issuer, server: IssuerServer
    ) -> None:
        """Wrong parts, padding, other alphabets, deep and huge JSON: refused, and nobody is asked."""
        head, body, signature = signed(good_claims()).split(".")
        deep = encode(b'{"a":' * 2000 + b"1" + b"}" * 2000)
        twice = encode(b'{"iss":"https://issuer.example","iss":"x"}')
        for token in (
            "",
            ".",
            "..",
            "...",
            f"{head}.{body}",
            f"{head}.{body}.{signature}.{signature}",
            f"{head}.{body}=.{signature}",
            f"{head}.{body}.{base64.b64encode(b'+/+/').decode()}",
            f"{head}.{deep}.{signature}",
            f"{deep}.{body}.{signature}",
            f"{head}.{twice}.{signature}",
            f"{head}.{encode(b'[]')}.{signature}",
            "é" * 50,
            "A" * (MAX_ID_TOKEN + 1),
        ):
            with pytest.raises(InvalidGrant):
                await tokens.verify(issuer, token, nonce=NONCE)
        assert server.fetches() == 0


class TestKeys:
    async def test_keys_are_fetched_once(
        self, tokens: IdTokens, issuer: Issuer, server: IssuerServer
    ) -> None:
        """However many sign in, also at the same time."""
        await asyncio.gather(*[tokens.verify(issuer, signed(good_claims()), nonce=NONCE) for _ in range(8)])
        await tokens.verify(issuer, signed(good_claims()), nonce=NONCE)
        assert server.fetches() == 1

    async def test_a_rotated_key_is_found(
        self, tokens: IdTokens, issuer: Issuer, server: IssuerServer, clock: ManualClock
    ) -> None:
        """A name that is not known has the keys fetched again; the old key is then gone."""
        await tokens.verify(issuer, signed(good_claims()), nonce=NONCE)
        server.keys = {"second": OTHER_KEY}
        clock.advance(AGAIN)
        new = signed(good_claims(), OTHER_KEY, header={"alg": "RS256", "kid": "second"})
        assert await tokens.verify(issuer, new, nonce=NONCE)
        with pytest.raises(InvalidGrant):
            await tokens.verify(issuer, signed(good_claims()), nonce=NONCE)
        assert server.fetches() == 2

    async def test_made_up_names_cost_the_issuer_nothing(
        self, tokens: IdTokens, issuer: Issuer, server: IssuerServer, clock: ManualClock
    ) -> None:
        """A hundred unknown names: one fetch a minute."""
        for at in range(100):
            token = signed(good_claims(), header={"alg": "RS256", "kid": f"made-up-{at}"})
            with pytest.raises(InvalidGrant):
                await tokens.verify(issuer, token, nonce=NONCE)
        assert server.fetches() == 1
        clock.advance(AGAIN)
        another = signed(good_claims(), header={"alg": "RS256", "kid": "another"})
        with pytest.raises(InvalidGrant):
            await tokens.verify(issuer, another, nonce=NONCE)
        assert server.fetches() == 2

    @pytest.mark.parametrize("fault", ["500", "cut", "text", "huge", "redirect"])
    async def test_known_keys_outlive_a_bad_day(
        self,
        tokens: IdTokens,
        issuer: Issuer,
        server: IssuerServer,
        clock: ManualClock,
        fault: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """While the issuer is away, its keys go on for a week; then nobody is believed."""
        await tokens.verify(issuer, signed(good_claims()), nonce=NONCE)
        server.fault = fault
        clock.advance(FRESH + 1)
        later = clock.now() // 1000
        with caplog.at_level(logging.WARNING, "lowtide.auth"):
            assert await tokens.verify(issuer, signed(good_claims(iat=later, exp=later + 600)), nonce=NONCE)
        assert "could not be fetched" in caplog.text
        clock.advance(STALE)
        later = clock.now() // 1000
        with pytest.raises(Unavailable):
            await tokens.verify(issuer, signed(good_claims(iat=later, exp=later + 600)), nonce=NONCE)
        server.fault = ""
        clock.advance(AGAIN)
        later = clock.now() // 1000
        assert await tokens.verify(issuer, signed(good_claims(iat=later, exp=later + 600)), nonce=NONCE)

    async def test_an_issuer_that_never_answered_is_asked_again_soon(
        self, tokens: IdTokens, issuer: Issuer, server: IssuerServer, clock: ManualClock
    ) -> None:
        """That is a fault of the moment (503) and not of the token; two seconds later it may work."""
        server.fault = "500"
        for _ in range(3):
            with pytest.raises(Unavailable):
                await tokens.verify(issuer, signed(good_claims()), nonce=NONCE)
        assert server.fetches() == 1
        server.fault = ""
        clock.advance(SOON)
        assert await tokens.verify(issuer, signed(good_claims()), nonce=NONCE)

    async def test_a_slow_issuer_holds_up_only_who_needs_it(
        self, tokens: IdTokens, issuer: Issuer, server: IssuerServer, clock: ManualClock
    ) -> None:
        """While one request waits for fresh keys, the others go on with those that are known."""
        await tokens.verify(issuer, signed(good_claims()), nonce=NONCE)
        server.fault, server.delay = "slow", 1.0
        clock.advance(FRESH + 1)
        later = clock.now() // 1000
        token = signed(good_claims(iat=later, exp=later + 600))
        waiting = asyncio.create_task(tokens.verify(issuer, token, nonce=NONCE))
        while server.fetches() < 2:
            await asyncio.sleep(0.01)
        assert await tokens.verify(issuer, token, nonce=NONCE)
        assert not waiting.done()
        assert await waiting

    async def test_keys_at_a_private_address_are_not_fetched(
        self, clock: ManualClock, issuer: Issuer, server: IssuerServer
    ) -> None:
        """An address inside the own network is refused unless the operator allowed it."""
        egress = Egress()
        with pytest.raises(Unavailable):
            await IdTokens(egress, clock).verify(issuer, signed(good_claims()), nonce=NONCE)
        egress.close()
        assert server.requests == []


class TestKeySets:
    def test_unknown_kinds_are_left_out(self) -> None:
        """Keys for encryption, of unknown kinds, weak or broken ones do not spoil their neighbours."""
        good = jwk("good", KEY)
        odd: list[Any] = [
            good | {"kid": "enc", "use": "enc"},
            {"kty": "oct", "kid": "secret", "k": "AAAA"},
            {"kty": "RSA", "kid": "weak", "n": encode(b"\xff" * 128), "e": "AQAB"},
            {"kty": "RSA", "kid": "vast", "n": encode(b"\xff" * 4096), "e": "AQAB"},
            {"kty": "RSA", "kid": "e1", "n": good["n"], "e": "AQ"},
            {"kty": "RSA", "kid": "none"},
            {"kty": "RSA", "kid": "odd", "n": 5, "e": []},
            {"kty": "EC", "crv": "P-256", "kid": "off", "x": "AQ", "y": "AQ"},
            {"kty": "EC", "crv": "secp256k1", "kid": "k1", "x": "AQ", "y": "AQ"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "short", "x": "AQ"},
            {},
            [],
            None,
            "key",
        ]
        assert set(read_key_set(json.dumps({"keys": [*odd, good]}).encode())) == {"good"}

    def test_a_key_keeps_to_its_algorithm(self) -> None:
        """A key that says RS256 verifies nothing else; one that says HS256 nothing at all."""
        keys = read_key_set(json.dumps({"keys": [jwk("a", KEY), jwk("b", KEY) | {"alg": "HS256"}]}).encode())
        assert keys["a"].algorithms == {"RS256"}
        assert keys["b"].algorithms == set()

    def test_thousands_of_keys_are_refused(self) -> None:
        """More than 64 keys are an attack or a mistake: none is believed."""
        one = {"kty": "oct", "kid": "x"}
        assert read_key_set(json.dumps({"keys": [one] * MAX_KEYS}).encode()) == {}
        with pytest.raises(ValueError, match="64"):
            read_key_set(json.dumps({"keys": [one] * (MAX_KEYS + 1)}).encode())

    @pytest.mark.parametrize("text", ["[]", "{}", '{"keys":{}}', "7", "[" * 90_000, '{"keys":' + "[" * 40])
    def test_what_is_no_key_set_is_refused(self, text: str) -> None:
        """Other shapes, depth, and what is not JSON."""
        with pytest.raises((ValueError, Malformed)):
            read_key_set(text.encode())
