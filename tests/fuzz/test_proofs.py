"""Tokens and proofs of possession, given anything: nobody becomes somebody, all else is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from lowtide.auth.dpop import Proofs
from lowtide.auth.tokens import Tokens
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import ProofInvalid, Unauthorized
from lowtide.kernel.schema import Principal
from tests.auth.ring import NOW, Ring, es256, forge, good_claims, good_header, segment
from tests.fuzz.bounds import answers, is_linear, thorough

RING = Ring()
CLOCK = ManualClock(NOW * 1000)
GOOD = forge(RING.current)
KEY = ec.generate_private_key(ec.SECP256R1())

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
parts = st.text(st.characters(max_codepoint=127), max_size=30)


def tokens() -> Tokens:
    return Tokens(RING, CLOCK, audience="app", issuer="lowtide")


def spoilt(token: str, draw: st.DataObject) -> str:
    """``token`` with one character changed, removed or put in."""
    at = draw.draw(st.integers(0, len(token) - 1))
    by = draw.draw(st.characters(max_codepoint=127))
    return token[:at] + draw.draw(st.sampled_from(["", by, by + token[at]])) + token[at + 1 :]


class TestTokens:
    @thorough
    @given(st.text(max_size=60) | st.tuples(parts, parts, parts).map(".".join))
    def test_no_text_is_a_token(self, text: str) -> None:
        """Whatever is sent, it is refused as unauthorised."""
        assert isinstance(answers(lambda: tokens().verify(text), Unauthorized), Unauthorized)

    @thorough
    @given(st.data())
    def test_no_changed_token_is_a_token(self, draw: st.DataObject) -> None:
        """A good token with any one character changed, removed or added is refused."""
        changed = spoilt(GOOD, draw)
        if changed != GOOD:
            assert isinstance(answers(lambda: tokens().verify(changed), Unauthorized), Unauthorized)

    @thorough
    @given(st.data())
    def test_claims_of_any_type_are_read_or_refused(self, draw: st.DataObject) -> None:
        """Rightly signed by us, but with any value in any claim: somebody with a name, or unauthorised."""
        names = [
            *good_claims(),
            "space",
            "scope",
            "roles",
            "sid",
            "amr",
            "auth_time",
            "epoch",
            "cnf",
            "nbf",
            "was",
        ]
        changes = draw.draw(st.dictionaries(st.sampled_from(names), anything, max_size=3))
        claims = {**good_claims(), **changes}
        found = answers(lambda: tokens().verify(forge(RING.current, json.dumps(claims))), Unauthorized)
        if isinstance(found, Principal):
            assert isinstance(found.user, str)
            assert found.user
            assert "/" not in found.space
            assert isinstance(found.roles, tuple)

    @thorough
    @given(
        st.dictionaries(st.sampled_from(["alg", "typ", "kid", "jwk", "crit", "b64"]), anything, max_size=4)
    )
    def test_headers_of_any_type_are_refused_or_the_usual_one(self, changes: dict[str, Any]) -> None:
        """No header lets another algorithm, key or type in."""
        header = {**good_header(RING.current), **changes}
        found = answers(lambda: tokens().verify(forge(RING.current, header=json.dumps(header))), Unauthorized)
        if isinstance(found, Principal):
            assert header == good_header(RING.current)

    @pytest.mark.parametrize("text", ["a", ".", "a.", "eyJ", "[" * 3])
    def test_a_long_token_costs_its_length(self, text: str) -> None:
        """Steps grow with the text, not with its square."""
        assert is_linear(lambda n: lambda: tokens().verify(text * n), 300)


def proof(header: Any = None, claims: Any = None) -> str:
    """A proof that is signed by its own key; a right one where nothing is said."""
    numbers = KEY.public_key().public_numbers()
    x, y = (
        base64.urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y)
    )
    usual = {"typ": "dpop+jwt", "alg": "ES256", "jwk": {"kty": "EC", "crv": "P-256", "x": x, "y": y}}
    said = {"htm": "GET", "htu": "http://localhost/x", "iat": NOW, "jti": "one"}
    both = [{**usual, **(header or {})}, {**said, **(claims or {})}]
    signed = ".".join(segment(json.dumps(one)) for one in both)

    class Own:
        private = KEY

    return f"{signed}.{segment(es256(Own(), signed))}"  # type: ignore[arg-type]


def check(text: str) -> str:
    checked = Proofs(CLOCK, lambda: (b"secret",))
    return checked.check(text, method="GET", host="localhost", path="/x")


class TestProofs:
    def test_the_usual_one_counts(self) -> None:
        """What the others change is a proof that counts."""
        assert check(proof())

    @thorough
    @given(st.text(max_size=60) | st.tuples(parts, parts, parts).map(".".join))
    def test_no_text_is_a_proof(self, text: str) -> None:
        """Whatever is sent, it is refused as a proof."""
        assert isinstance(answers(lambda: check(text), ProofInvalid), ProofInvalid)

    @thorough
    @given(st.data())
    def test_no_changed_proof_is_a_proof(self, draw: st.DataObject) -> None:
        """A good proof with any one character changed, removed or added is refused."""
        good = proof()
        changed = spoilt(good, draw)
        if changed != good:
            assert isinstance(answers(lambda: check(changed), ProofInvalid), ProofInvalid)

    @thorough
    @given(
        st.dictionaries(st.sampled_from(["typ", "alg", "jwk", "kid", "crit"]), anything, max_size=2),
        st.dictionaries(
            st.sampled_from(["htm", "htu", "iat", "jti", "ath", "nonce", "exp"]), anything, max_size=2
        ),
    )
    def test_any_value_in_any_place_is_refused_or_harmless(
        self, header: dict[str, Any], claims: dict[str, Any]
    ) -> None:
        """Rightly signed by its own key, but with any value anywhere: a thumbprint, or a refusal."""
        answers(lambda: check(proof(header, claims)), ProofInvalid)

    @thorough
    @given(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "d", "k"]), anything | st.just("EC") | st.just("P-256")
        )
    )
    def test_no_other_key_counts(self, jwk: dict[str, Any]) -> None:
        """A key that is none, or another than the one that signed, is refused."""
        assert isinstance(answers(lambda: check(proof({"jwk": jwk})), ProofInvalid), ProofInvalid)
