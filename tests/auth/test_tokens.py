"""Tokens: what is signed is believed, nothing else is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey

from lowtide.auth import Tokens
from lowtide.auth.keys import SigningKey, thumbprint
from lowtide.auth.tokens import MAX_TOKEN, REGISTERED, SessionChange
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import SessionRevoked, TokenExpired, Unauthorized
from lowtide.kernel.schema import Principal
from tests.auth.ring import NOW, Ring, es256, forge, good_claims, good_header, segment


@pytest.fixture
def ring() -> Ring:
    return Ring()


@pytest.fixture
def tokens(ring: Ring, clock: ManualClock) -> Tokens:
    return Tokens(ring, clock, audience="app", issuer="lowtide")


def pem(key: SigningKey) -> bytes:
    return key.public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class TestSign:
    def test_what_is_signed_is_read_back(self, tokens: Tokens) -> None:
        """A token carries user, space, end and the app's claims; it is no server's."""
        who = tokens.verify(tokens.sign("ann", space="acme", ttl=60, claims={"teams": ["a", "b"]}))
        assert (who.user, who.space, who.expires_at) == ("ann", "acme", (NOW + 60) * 1000)
        assert who.claims == {"teams": ["a", "b"]}
        assert not who.server

    def test_a_server_token_is_a_servers(self, tokens: Tokens) -> None:
        """Only ``server=True`` makes a principal that write rules do not bind."""
        assert tokens.verify(tokens.sign("backup", server=True)).server

    @pytest.mark.parametrize("name", ["scope", "sub", "exp", "iss", "space", "jti"])
    def test_an_app_cannot_set_what_lowtide_means(self, tokens: Tokens, name: str) -> None:
        """A claim of ours is refused, so that no app makes a server out of a user by mistake."""
        with pytest.raises(ValueError, match="not yours"):
            tokens.sign("ann", claims={name: "server"})

    @pytest.mark.parametrize(
        "bad",
        [
            {"user": ""},
            {"user": "x" * 129},
            {"user": "a\nb"},
            {"user": "ann", "space": ""},
            {"user": "ann", "space": "\x00"},
            {"user": "ann", "space": "acme/x"},
            {"user": "ann", "ttl": 0},
            {"user": "ann", "ttl": -1},
            {"user": "ann", "ttl": 24 * 3600 + 1},
            {"user": "ann", "claims": {"big": "x" * MAX_TOKEN}},
        ],
    )
    def test_what_would_not_verify_is_not_signed(self, tokens: Tokens, bad: dict[str, Any]) -> None:
        """A mistake is told to who signs, not to the device that brings the token."""
        with pytest.raises(ValueError, match=r"."):
            tokens.sign(**bad)

    def test_another_library_reads_it(self, tokens: Tokens, ring: Ring) -> None:
        """joserfc verifies our token with our public key."""
        token = tokens.sign("ann", claims={"role": "admin"})
        found = jwt.decode(token, ECKey.import_key(pem(ring.current)), algorithms=["ES256"])
        assert found.header == {"alg": "ES256", "typ": "at+jwt", "kid": ring.current.kid}
        assert found.claims["sub"] == "ann"
        assert found.claims["role"] == "admin"

    def test_another_librarys_token_is_read(self, tokens: Tokens, ring: Ring) -> None:
        """We verify a token that joserfc signed with our key."""
        private = ring.current.private
        assert private is not None
        secret = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        token = jwt.encode(good_header(ring.current), good_claims(), ECKey.import_key(secret))
        assert tokens.verify(token).user == "ann"


Attack = Callable[[SigningKey], str]


def none(key: SigningKey) -> str:
    return f"{segment(good_header(key, alg='none'))}.{segment(good_claims())}."


def none_with_signature(key: SigningKey) -> str:
    return forge(key, header=good_header(key, alg="none"))


def hs256_with_the_public_key(key: SigningKey) -> str:
    signed = f"{segment(good_header(key, alg='HS256'))}.{segment(good_claims())}"
    return f"{signed}.{segment(hmac.digest(pem(key), signed.encode(), hashlib.sha256))}"


def hs256_named_es256(key: SigningKey) -> str:
    signed = f"{segment(good_header(key))}.{segment(good_claims())}"
    mac = hmac.digest(pem(key), signed.encode(), hashlib.sha256)
    return f"{signed}.{segment(mac + mac)}"


def rs256(key: SigningKey) -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signed = f"{segment(good_header(key, alg='RS256'))}.{segment(good_claims())}"
    return f"{signed}.{segment(private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def another_key(key: SigningKey) -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    stranger = SigningKey(key.kid, "current", private.public_key(), private, 0)
    return forge(stranger)


def own_key_in_the_header(key: SigningKey) -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    stranger = SigningKey(thumbprint(public), "current", public, private, 0)
    numbers = public.public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": segment(numbers.x.to_bytes(32, "big")),
        "y": segment(numbers.y.to_bytes(32, "big")),
    }
    return forge(stranger, header=good_header(stranger, jwk=jwk))


def der_signature(key: SigningKey) -> str:
    signed = f"{segment(good_header(key))}.{segment(good_claims())}"
    assert key.private is not None
    return f"{signed}.{segment(key.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))}"


def zero_signature(key: SigningKey) -> str:
    return f"{segment(good_header(key))}.{segment(good_claims())}.{segment(bytes(64))}"


def changed_payload(key: SigningKey) -> str:
    head, _, signature = forge(key).split(".")
    return f"{head}.{segment(good_claims(sub='bob'))}.{signature}"


def changed_header(key: SigningKey) -> str:
    _, payload, signature = forge(key).split(".")
    return f"{segment(json.dumps(good_header(key), indent=1))}.{payload}.{signature}"


def loose_bits(key: SigningKey) -> str:
    # 64 bytes are 86 characters, the last of which has four bits that say nothing.
    token = forge(key)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


def standard_alphabet(key: SigningKey) -> str:
    token = next(t for t in iter(lambda: forge(key), "") if "-" in t.split(".")[2] or "_" in t.split(".")[2])
    head, payload, signature = token.split(".")
    return f"{head}.{payload}.{signature.replace('-', '+').replace('_', '/')}"


SIGNATURE_ATTACKS: list[Attack] = [
    none,
    none_with_signature,
    hs256_with_the_public_key,
    hs256_named_es256,
    rs256,
    another_key,
    own_key_in_the_header,
    der_signature,
    zero_signature,
    changed_payload,
    changed_header,
    loose_bits,
    standard_alphabet,
]

HEADERS: dict[str, dict[str, Any]] = {
    "id token": {"typ": "JWT"},
    "no typ": {"typ": None},
    "typ not a text": {"typ": ["at+jwt"]},
    "no kid": {"kid": None},
    "unknown kid": {"kid": "nobody"},
    "kid is a path": {"kid": "../../../../dev/null"},
    "kid is SQL": {"kid": "x' UNION SELECT 'k"},
    "kid is a list": {"kid": ["a"]},
    "kid is an object": {"kid": {"$ne": ""}},
    "kid is a number": {"kid": 0},
    "kid is empty": {"kid": ""},
    "no alg": {"alg": None},
    "ES384": {"alg": "ES384"},
    "es256": {"alg": "es256"},
    "ES256K": {"alg": "ES256K"},
    "EdDSA": {"alg": "EdDSA"},
    "alg is a list": {"alg": ["ES256"]},
    "unknown critical": {"crit": ["exp"], "exp": 1},
    "unencoded payload": {"b64": False, "crit": ["b64"]},
    "key address": {"jku": "https://evil.example/jwks.json"},
    "certificate": {"x5u": "https://evil.example/cert.pem"},
    "compressed": {"zip": "DEF"},
}

CLAIMS: dict[str, dict[str, Any]] = {
    "wrong issuer": {"iss": "evil"},
    "no issuer": {"iss": None},
    "issuer is a list": {"iss": ["lowtide"]},
    "wrong audience": {"aud": "other"},
    "no audience": {"aud": None},
    "wrong audiences": {"aud": ["other", "app2"]},
    "audience within a text": {"aud": "app2 app"},
    "audience within a list": {"aud": [["app"]]},
    "audience as a key": {"aud": {"app": 1}},
    "no sub": {"sub": None},
    "sub is a number": {"sub": 7},
    "sub is a list": {"sub": ["ann"]},
    "sub is empty": {"sub": ""},
    "sub is long": {"sub": "x" * 129},
    "sub with a NUL": {"sub": "a\x00"},
    "sub with a line end": {"sub": "a\nb"},
    "sub with half a pair": {"sub": "\ud800"},
    "space is empty": {"space": ""},
    "space is a number": {"space": 1},
    "space is long": {"space": "x" * 129},
    "space could be another's part": {"space": "acme/x"},
    "scope is a list": {"scope": ["server"]},
    "session is a number": {"sid": 7},
    "session is long": {"sid": "x" * 129},
    "epoch is a text": {"epoch": "1"},
    "epoch is true": {"epoch": True},
    "epoch is negative": {"epoch": -1},
    "roles are a text": {"roles": "admin"},
    "a role is a list": {"roles": [["admin"]]},
    "roles without end": {"roles": ["a"] * 65},
    "amr is a text": {"amr": "pwd"},
    "auth_time is a text": {"auth_time": "now"},
    "client is a list": {"client_id": ["a"]},
    "bound to a text": {"cnf": "abc"},
    "bound to a certificate": {"cnf": {"x5t#S256": "abc"}},
    "bound to a number": {"cnf": {"jkt": 7}},
    "former ids are a text": {"was": "bob"},
    "no exp": {"exp": None},
    "exp is a text": {"exp": str(NOW + 600)},
    "exp is true": {"exp": True},
    "exp is never": {"exp": 2**53},
    "exp is negative": {"exp": -1},
    "exp is a list": {"exp": [NOW + 600]},
    "no iat": {"iat": None},
    "iat is a text": {"iat": "now"},
    "from the future": {"iat": NOW + 61, "exp": NOW + 600},
    "not yet": {"nbf": NOW + 61},
    "nbf is a text": {"nbf": "x"},
    "ends before it begins": {"iat": NOW, "exp": NOW},
    "deep": {"x": [[[[[[[[1]]]]]]]]},
    "huge number": {"x": 10**30},
}

TEXTS: dict[str, str] = {
    "empty": "",
    "dots": "..",
    "two parts": "a.b",
    "four parts": "a.b.c.d",
    "five parts, as encrypted": "a.b.c.d.e",
    "not base64": "a!.b.c",
    "padded": "e30=.e30=.e30=",
    "spaces": " . . ",
    "not ASCII": "é.é.é",
    "huge": "a" * (MAX_TOKEN + 1),
    "a million dots": "." * 1_000_000,
    "one bit": "a.a.a",
}


def refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        tokens.verify(token)
    assert type(caught.value) is Unauthorized
    # A second look must not find it remembered.
    with pytest.raises(Unauthorized):
        tokens.verify(token)


class TestAttacks:
    def test_the_untouched_token_is_good(self, tokens: Tokens, ring: Ring) -> None:
        """The forger's own parts make a good token: so each refusal below has one cause."""
        assert tokens.verify(forge(ring.current)).user == "ann"

    @pytest.mark.parametrize("attack", SIGNATURE_ATTACKS)
    def test_a_forged_signature_is_refused(self, tokens: Tokens, ring: Ring, attack: Attack) -> None:
        """Only an ES256 signature over exactly these bytes, by one of our keys, counts."""
        refused(tokens, attack(ring.current))

    @pytest.mark.parametrize("changes", HEADERS.values(), ids=HEADERS)
    def test_a_strange_header_is_refused(self, tokens: Tokens, ring: Ring, changes: dict[str, Any]) -> None:
        """Even rightly signed: the header names our algorithm, our type, our key, and nothing else."""
        refused(tokens, forge(ring.current, header=good_header(ring.current, **changes)))

    @pytest.mark.parametrize("changes", CLAIMS.values(), ids=CLAIMS)
    def test_a_strange_claim_is_refused(self, tokens: Tokens, ring: Ring, changes: dict[str, Any]) -> None:
        """Even rightly signed: every claim that means something has its type and its bounds."""
        refused(tokens, forge(ring.current, good_claims(**changes)))

    @pytest.mark.parametrize("token", TEXTS.values(), ids=TEXTS)
    def test_what_is_no_token_is_refused(self, tokens: Tokens, token: str) -> None:
        """Any text gets an answer, and never a fault."""
        refused(tokens, token)

    @pytest.mark.parametrize(
        "claims",
        [
            json.dumps(good_claims())[:-1] + ',"sub":"bob"}',
            json.dumps(good_claims())[:-1] + ',"x":{"a":1,"a":2}}',
            "[]",
            '"ann"',
            "null",
            "",
            "{",
            "\ufeff{}",
            '{"exp":NaN}',
            "[" * 3000 + "]" * 3000,
            json.dumps(good_claims()).encode("utf-16"),
            b'{"sub":"\xff"}',
        ],
    )
    def test_a_strange_payload_is_refused(self, tokens: Tokens, ring: Ring, claims: str | bytes) -> None:
        """Names given twice, other encodings, no object, no JSON: nothing that can be read in two ways."""
        refused(tokens, forge(ring.current, claims))

    def test_a_header_name_given_twice_is_refused(self, tokens: Tokens, ring: Ring) -> None:
        """The second alg does not replace the first."""
        kid = ring.current.kid
        header = f'{{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"{kid}"}}'
        refused(tokens, forge(ring.current, header=header))

    @given(position=st.integers(0, 10_000), bit=st.integers(0, 5))
    def test_any_changed_character_is_refused(self, position: int, bit: int) -> None:
        """No single character of a token can be another one."""
        clock = ManualClock()
        ring = Ring()
        tokens = Tokens(ring, clock, audience="app", issuer="lowtide")
        token = forge(ring.current)
        at = position % len(token)
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        if token[at] == ".":
            return
        other = alphabet[alphabet.index(token[at]) ^ (1 << bit)]
        with pytest.raises(Unauthorized):
            tokens.verify(token[:at] + other + token[at + 1 :])

    @pytest.mark.parametrize("aud", ["app", ["app"], ["other", "app"]])
    def test_one_of_several_audiences_will_do(self, tokens: Tokens, ring: Ring, aud: object) -> None:
        """``aud`` is a text or a list that holds ours."""
        assert tokens.verify(forge(ring.current, good_claims(aud=aud))).user == "ann"

    @pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
    def test_the_type_is_a_media_type(self, tokens: Tokens, ring: Ring, typ: str) -> None:
        """RFC 9068: with or without its prefix, in any case."""
        assert tokens.verify(forge(ring.current, header=good_header(ring.current, typ=typ))).user == "ann"

    def test_the_longest_names_are_good(self, tokens: Tokens, ring: Ring) -> None:
        """128 characters, of any language."""
        name = "ü" * 128
        assert tokens.verify(forge(ring.current, good_claims(sub=name, space=name))).user == name

    @pytest.mark.parametrize(
        ("scope", "server"),
        [("server", True), ("read server", True), ("servers", False), ("", False), ("read\tserver", False)],
    )
    def test_scope_makes_a_server(self, tokens: Tokens, ring: Ring, scope: str, server: bool) -> None:
        """Only the whole word, and never a claim of the app."""
        assert tokens.verify(forge(ring.current, good_claims(scope=scope, server=True))).server is server


class TestTime:
    def test_a_token_is_good_until_its_end_and_the_leeway(self, tokens: Tokens, clock: ManualClock) -> None:
        """Clocks may differ by 60 seconds; then it has expired, remembered or not."""
        token = tokens.sign("ann", ttl=600)
        clock.advance(659)
        assert tokens.verify(token).user == "ann"
        clock.advance(1)
        with pytest.raises(TokenExpired):
            tokens.verify(token)
        with pytest.raises(TokenExpired):
            tokens.verify(token)

    def test_the_future_has_the_same_leeway(self, tokens: Tokens, ring: Ring) -> None:
        """A token issued 60 seconds ahead of our clock is good."""
        ahead = good_claims(iat=NOW + 60, nbf=NOW + 60)
        assert tokens.verify(forge(ring.current, ahead)).user == "ann"

    def test_fractions_of_seconds_count(self, tokens: Tokens, ring: Ring) -> None:
        """A NumericDate may have a fraction (RFC 7519)."""
        who = tokens.verify(forge(ring.current, good_claims(exp=NOW + 0.5)))
        assert who.expires_at == NOW * 1000 + 500

    def test_an_expired_forgery_is_not_called_expired(self, tokens: Tokens, ring: Ring) -> None:
        """Who cannot sign learns nothing about time."""
        token = forge(ring.current, good_claims(iat=1, exp=2))
        with pytest.raises(TokenExpired):
            tokens.verify(token)
        refused(tokens, token[:-2] + ("AA" if token[-2:] != "AA" else "BB"))


class TestSessions:
    def test_a_token_says_all_that_its_principal_is(self, tokens: Tokens) -> None:
        """What is signed for a session comes back: session, roles, key, former ids; and roles are claims."""
        who = Principal(
            user="ann",
            space="acme",
            claims={"plan": "pro"},
            session="s1",
            epoch=3,
            auth_time=1_790_000_000_000,
            amr=("pwd", "otp"),
            roles=("editor",),
            scope=("openid", "read"),
            client="c1",
            jkt="k1",
            aliases=("old",),
        )
        found = tokens.verify(tokens.issue(who, ttl=600))
        expected = msgspec.structs.replace(
            who, expires_at=found.expires_at, claims={"plan": "pro", "roles": ["editor"]}
        )
        assert found == expected
        assert not found.admin
        assert not found.server

    @pytest.mark.parametrize(
        ("roles", "admin"), [(("admin",), True), (("Admin", "admins"), False), ((), False)]
    )
    def test_the_role_admin_makes_an_admin(self, tokens: Tokens, roles: tuple[str, ...], admin: bool) -> None:
        """Only that word; and an admin is no server."""
        found = tokens.verify(tokens.issue(Principal(user="ann", session="s", roles=roles), ttl=60))
        assert found.admin is admin
        assert not found.server

    def test_an_app_cannot_claim_what_means_something(self, tokens: Tokens) -> None:
        """Custom claims never become roles, sessions or keys."""
        for name in REGISTERED:
            with pytest.raises(ValueError, match="not yours"):
                tokens.issue(Principal(user="ann", claims={name: ["admin"]}), ttl=60)

    def test_a_revoked_session_is_refused_at_once(self, ring: Ring, clock: ManualClock) -> None:
        """Also where the token is remembered; another session and a token without one go on."""
        changes: dict[str, SessionChange] = {}
        tokens = Tokens(ring, clock, audience="app", issuer="lowtide", changes=changes)
        mine, other = (tokens.issue(Principal(user="ann", session=s), ttl=600) for s in ("s1", "s2"))
        bare = tokens.sign("ann")
        assert tokens.verify(mine).session == "s1"
        changes["s1"] = SessionChange(1, "user", wipe=True)
        changes[""] = SessionChange(0)
        with pytest.raises(SessionRevoked) as caught:
            tokens.verify(mine)
        assert caught.value.details == {"reason": "user", "wipe": True}
        assert tokens.verify(other).session == "s2"
        assert tokens.verify(bare).session == ""

    def test_a_stale_epoch_is_called_expired(self, ring: Ring, clock: ManualClock) -> None:
        """The client fetches a new token: it is not signed out."""
        changes: dict[str, SessionChange] = {}
        tokens = Tokens(ring, clock, audience="app", issuer="lowtide", changes=changes)
        old, new = (tokens.issue(Principal(user="ann", session="s1", epoch=e), ttl=600) for e in (1, 2))
        changes["s1"] = SessionChange(2)
        with pytest.raises(TokenExpired):
            tokens.verify(old)
        assert tokens.verify(new).epoch == 2


class TestMemory:
    def test_a_signature_is_checked_once(self, ring: Ring, clock: ManualClock) -> None:
        """The second time costs a look-up: the key is not even asked for."""
        asked: list[str] = []

        class Counting(Ring):
            def find(self, kid: str) -> SigningKey | None:
                asked.append(kid)
                return super().find(kid)

        counting = Counting()
        tokens = Tokens(counting, clock, audience="app", issuer="lowtide")
        token = tokens.sign("ann")
        assert tokens.verify(token) is tokens.verify(token)
        assert len(asked) == 1

    def test_memory_is_bounded_and_the_least_used_goes(self, clock: ManualClock) -> None:
        """A full memory forgets the token that was seen longest ago, and that one is just checked again."""
        asked: list[str] = []

        class Counting(Ring):
            def find(self, kid: str) -> SigningKey | None:
                asked.append(kid)
                return super().find(kid)

        tokens = Tokens(Counting(), clock, audience="app", issuer="lowtide", remembered=2)
        a, b, c = (tokens.sign(user) for user in "abc")
        for token in (a, b, a, c):  # b goes
            tokens.verify(token)
        assert len(asked) == 3
        tokens.verify(a)
        tokens.verify(c)
        assert len(asked) == 3
        assert tokens.verify(b).user == "b"
        assert len(asked) == 4

    def test_a_dropped_key_takes_its_tokens_along(self, tokens: Tokens, ring: Ring) -> None:
        """A remembered token is refused as soon as its key is gone."""
        token, old = tokens.sign("ann"), ring.current.kid
        tokens.verify(token)
        ring.add()
        assert tokens.verify(token).user == "ann"
        ring.drop(old)
        refused(tokens, token)

    def test_a_rotated_key_verifies_what_it_signed(self, tokens: Tokens, ring: Ring) -> None:
        """New tokens are signed by the new key, old ones stay good."""
        old = tokens.sign("ann")
        key = ring.add()
        new = tokens.sign("ann")
        kid = json.loads(base64.urlsafe_b64decode(new.split(".")[0] + "=="))["kid"]
        assert kid == key.kid
        assert tokens.verify(old) == tokens.verify(new)


def test_the_forgers_signature_is_es256(ring: Ring) -> None:
    """The test's own signature has the size that it should: 64 bytes."""
    assert len(es256(ring.current, "x")) == 64
