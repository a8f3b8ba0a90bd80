"""Proof of possession (RFC 9449): a proof counts for one request, one key, one time and one token."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from lowtide.auth.dpop import MAX_JTI, MAX_PROOF, REMEMBERED, SLOT, WINDOW, Proofs
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import NonceNeeded, ProofInvalid
from lowtide.kernel.http import Request
from tests.auth.device import Device
from tests.auth.ring import NOW, segment

HOST, PATH = "api.example.com", "/v1/oauth/token"
SECRET = b"s" * 32


def checker(clock: ManualClock, *secrets: bytes, public_url: str = "") -> Proofs:
    return Proofs(clock, lambda: secrets or (SECRET,), public_url=public_url)


def check(proofs: Proofs, proof: str, **changed: Any) -> str:
    where: dict[str, Any] = {"method": "POST", "host": HOST, "path": PATH} | changed
    return proofs.check(proof, **where)


@pytest.fixture
def proofs(clock: ManualClock) -> Proofs:
    return checker(clock)


class TestWhatCounts:
    @pytest.mark.parametrize("edwards", [False, True])
    def test_a_right_proof_names_its_key(self, proofs: Proofs, edwards: bool) -> None:
        """ES256 and EdDSA proofs give the thumbprint of RFC 7638."""
        device = Device(edwards=edwards)
        assert check(proofs, device.proof()) == device.jkt

    def test_ed25519_has_two_names(self, proofs: Proofs) -> None:
        """RFC 9864's, which new clients say, and the older one."""
        device = Device(edwards=True)
        assert check(proofs, device.proof(header={"alg": "Ed25519"})) == device.jkt
        with pytest.raises(ProofInvalid):
            check(proofs, Device().proof(header={"alg": "Ed25519"}))

    def test_the_thumbprint_is_the_standard_s(self, proofs: Proofs) -> None:
        """The example of RFC 9449 section 4.1 and 6.1: this key has this thumbprint."""
        from lowtide.auth.jws import read_jwk

        jwk = {
            "kty": "EC",
            "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
            "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
            "crv": "P-256",
        }
        assert read_jwk(jwk)[1] == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"

    def test_a_proof_counts_once(self, proofs: Proofs) -> None:
        """The same proof again is refused; another of the same key is not."""
        device = Device()
        proof = device.proof()
        check(proofs, proof)
        with pytest.raises(ProofInvalid, match="used before"):
            check(proofs, proof)
        assert check(proofs, device.proof()) == device.jkt

    def test_two_devices_may_choose_the_same_number(self, proofs: Proofs) -> None:
        """A jti is of its key: nobody can use up another device's."""
        one, two = Device(), Device()
        check(proofs, one.proof(jti="same"))
        assert check(proofs, two.proof(jti="same")) == two.jkt

    def test_a_number_is_remembered_for_as_long_as_its_proof_could_count(self, clock: ManualClock) -> None:
        """Neither the last second of the window nor of the nonce lets a proof in again."""
        proofs, device = checker(clock), Device()
        early = device.proof(iat=NOW + WINDOW)
        nonced = device.proof(iat=5, nonce=proofs.nonce())
        check(proofs, early)
        check(proofs, nonced)
        for _ in range(2 * WINDOW):
            clock.advance(1)
            for proof in (early, nonced):
                with pytest.raises(ProofInvalid):
                    check(proofs, proof)

    def test_what_is_remembered_is_bounded(self, proofs: Proofs) -> None:
        """Beyond its room the oldest is forgotten; time empties it."""
        for number in range(REMEMBERED + 10):
            proofs._once("key", str(number))
        assert len(proofs._seen) == REMEMBERED

    def test_a_request_without_the_header_proves_nothing(self, proofs: Proofs) -> None:
        """``of`` gives None, so that an address may take unbound requests, too."""
        assert proofs.of(Request(body=None, query=None, method="POST", path=PATH)) is None

    def test_a_request_with_the_header_is_checked(self, proofs: Proofs) -> None:
        """Method, host and path are the request's own."""
        device = Device()
        headers = [(b"host", HOST.encode()), (b"dpop", device.proof().encode())]
        request: Request[None, None] = Request(
            body=None, query=None, method="POST", path=PATH, headers=headers
        )
        assert proofs.of(request) == device.jkt
        twice = [*headers, (b"dpop", device.proof().encode())]
        with pytest.raises(ProofInvalid):
            proofs.of(Request(body=None, query=None, method="POST", path=PATH, headers=twice))


P256 = Device()
OTHER = Device()


def private_jwk() -> dict[str, str]:
    assert isinstance(P256.private, ec.EllipticCurvePrivateKey)
    return P256.jwk | {"d": segment(P256.private.private_numbers().private_value.to_bytes(32, "big"))}


@pytest.mark.parametrize(
    "header",
    [
        {"typ": None},
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"typ": ["dpop+jwt"]},
        {"alg": None},
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "EdDSA"},
        {"alg": "RS256"},
        {"alg": 7},
        {"jwk": None},
        {"jwk": OTHER.jwk},
        {"jwk": private_jwk()},
        {"jwk": {"kty": "oct", "k": segment(b"k" * 32)}},
        {"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}},
        {"jwk": P256.jwk | {"crv": "secp256k1"}},
        {"jwk": P256.jwk | {"crv": ["P-256"]}},
        {"jwk": P256.jwk | {"x": P256.jwk["x"] + "AA"}},
        {"jwk": P256.jwk | {"x": P256.jwk["y"]}},
        {"jwk": P256.jwk | {"x": segment(b"\0" * 32), "y": segment(b"\0" * 32)}},
        {"jwk": P256.jwk | {"x": 5}},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": P256.jwk["x"]}},
        {"jwk": "https://evil.example/key"},
        {"jku": "https://evil.example/keys"},
        {"x5c": ["AA"]},
        {"crit": ["exp"]},
        {"b64": False},
    ],
    ids=lambda header: next(iter(header)),
)
def test_a_header_that_is_not_a_proof_s_is_refused(proofs: Proofs, header: Mapping[str, Any]) -> None:
    """No other type, algorithm, key or extension gets in, whatever the signature."""
    with pytest.raises(ProofInvalid):
        check(proofs, P256.proof(header=header))


@pytest.mark.parametrize(
    "claims",
    [
        {"htm": None},
        {"htm": "GET"},
        {"htm": "post"},
        {"htu": None},
        {"htu": 5},
        {"htu": "https://api.example.com/v1/oauth/tokens"},
        {"htu": "https://api.example.com/v1/oauth/token/"},
        {"htu": "https://api.example.com/v1/oauth%2Ftoken"},
        {"htu": "https://api.example.com/v1//oauth/token"},
        {"htu": "https://api.example.com/v1/x/../oauth/token"},
        {"htu": "https://evil.example/v1/oauth/token"},
        {"htu": "https://api.example.com.evil.example/v1/oauth/token"},
        {"htu": "https://api.example.com@evil.example/v1/oauth/token"},
        {"htu": "https://ann@api.example.com/v1/oauth/token"},
        {"htu": "https://evil.example#@api.example.com/v1/oauth/token"},
        {"htu": "https://evil.example\\@api.example.com/v1/oauth/token"},
        {"htu": "https://api.example.com:8443/v1/oauth/token"},
        {"htu": "https://api.example.com:80/v1/oauth/token"},
        {"htu": "http://api.example.com:443/v1/oauth/token"},
        {"htu": "ftp://api.example.com/v1/oauth/token"},
        {"htu": "//api.example.com/v1/oauth/token"},
        {"htu": "/v1/oauth/token"},
        {"htu": "https:///v1/oauth/token"},
        {"htu": "https://[::1/v1/oauth/token"},
        {"htu": ""},
        {"jti": None},
        {"jti": ""},
        {"jti": 5},
        {"jti": "x" * (MAX_JTI + 1)},
        {"iat": None},
        {"iat": "now"},
        {"iat": True},
        {"iat": -1},
        {"iat": 2**60},
        {"iat": [NOW]},
        {"nonce": ""},
        {"nonce": 5},
        {"nonce": "ünïcode"},
    ],
    ids=str,
)
def test_a_proof_for_another_request_is_refused(proofs: Proofs, claims: dict[str, Any]) -> None:
    """Another method or address, a number or time that is none, and a nonce that nobody gave out."""
    with pytest.raises(ProofInvalid):
        check(proofs, P256.proof(**claims))


@pytest.mark.parametrize(
    "htu",
    [
        "HTTPS://API.Example.Com/v1/oauth/token",
        "https://api.example.com:443/v1/oauth/token",
        "https://api.example.com/v1/oauth/token?a=b#c",
        "https://api.example.com/v1/%6Fauth/token",
        "http://api.example.com/v1/oauth/token",
    ],
)
def test_other_spellings_of_the_address_are_the_same(proofs: Proofs, htu: str) -> None:
    """Case, default port, needless escapes, query and fragment do not count (RFC 9449 section 4.3)."""
    assert check(proofs, P256.proof(htu=htu)) == P256.jkt


def test_a_public_https_server_takes_no_http_address(clock: ManualClock) -> None:
    """Behind a proxy the request may come as http, and its proof still says https."""
    proofs = checker(clock, public_url="https://public.example")
    url = "https://public.example/v1/oauth/token"
    assert check(proofs, P256.proof(url=url), host="10.0.0.5:8420") == P256.jkt
    with pytest.raises(ProofInvalid):
        check(proofs, P256.proof(url="http://public.example/v1/oauth/token"), host="public.example")


@pytest.mark.parametrize("ath", [None, "", "x", 5, segment(hashlib.sha256(b"another").digest())], ids=str)
def test_a_proof_is_for_its_token(proofs: Proofs, ath: Any) -> None:
    """Where a token is used, the proof names it; without a token nothing is asked."""
    assert check(proofs, P256.proof(token="the-token"), token="the-token") == P256.jkt
    with pytest.raises(ProofInvalid, match="ath"):
        check(proofs, P256.proof(ath=ath), token="the-token")


class TestTimes:
    @pytest.mark.parametrize("off", [-WINDOW, 0, WINDOW])
    def test_clocks_may_differ_by_the_window(self, proofs: Proofs, off: int) -> None:
        """A proof from a minute ago or ahead counts without a nonce."""
        assert check(proofs, P256.proof(iat=NOW + off)) == P256.jkt

    @pytest.mark.parametrize("off", [-WINDOW - 1, WINDOW + 1, -NOW, 10**9])
    def test_a_wrong_clock_is_healed_by_a_nonce(self, proofs: Proofs, off: int) -> None:
        """The refusal carries a nonce; with it, the same clock is right."""
        with pytest.raises(NonceNeeded) as refused:
            check(proofs, P256.proof(iat=NOW + off))
        nonce = refused.value.details["nonce"]
        assert check(proofs, P256.proof(iat=NOW + off, nonce=nonce)) == P256.jkt

    def test_a_nonce_ends(self, clock: ManualClock) -> None:
        """It is good in its slot and the next, not later; a right time does not save it."""
        proofs = checker(clock)
        nonce = proofs.nonce()
        clock.advance(SLOT)
        check(proofs, P256.proof(nonce=nonce))
        clock.advance(SLOT)
        with pytest.raises(NonceNeeded) as refused:
            check(proofs, P256.proof(nonce=nonce, iat=NOW + 2 * SLOT))
        check(proofs, P256.proof(nonce=refused.value.details["nonce"]))

    def test_a_nonce_of_tomorrow_is_refused(self, clock: ManualClock) -> None:
        """Whoever could guess one would need the secret."""
        proofs = checker(clock)
        slot = NOW // SLOT + 1
        stolen = segment(hmac.digest(b"x" * 32, b"dpop nonce %d" % slot, "sha256")[:18])
        future = segment(hmac.digest(SECRET, b"dpop nonce %d" % slot, "sha256")[:18])
        for nonce in (stolen, future):
            with pytest.raises(NonceNeeded):
                check(proofs, P256.proof(nonce=nonce))

    def test_nodes_believe_each_other_s_nonces(self, clock: ManualClock) -> None:
        """The next secret is believed before it makes any: a rotation makes no nonce invalid."""
        before, after = checker(clock, b"1" * 32, b"2" * 32), checker(clock, b"2" * 32, b"3" * 32)
        assert check(before, P256.proof(nonce=after.nonce())) == P256.jkt
        with pytest.raises(NonceNeeded):
            check(after, P256.proof(nonce=before.nonce()))


@pytest.mark.parametrize(
    "proof",
    ["", "a", "a.b", "a.b.c", "....", "\x00", "ü.ü.ü", "e30.e30.e30", "x" * (MAX_PROOF + 1), "[].[].[]"],
)
def test_what_is_no_token_is_refused(proofs: Proofs, proof: str) -> None:
    """Whatever the header holds, the answer is the same."""
    with pytest.raises(ProofInvalid):
        check(proofs, proof)


def test_names_given_twice_are_refused(proofs: Proofs) -> None:
    """Two readers must not see two proofs: in the header, the key and the claims."""
    head, body, _ = P256.proof().split(".")
    for twice in ('{"htm":"GET","htm":"POST","htu":"https://api.example.com/v1/oauth/token"', "{"):
        signed = f"{head}.{segment(twice + '}')}"
        with pytest.raises(ProofInvalid):
            check(proofs, f"{signed}.{segment(P256.sign(signed))}")
    assert body


def test_another_signature_is_refused(proofs: Proofs) -> None:
    """Of another key, of another content, cut, empty or all zeros."""
    one, two = P256.proof(), P256.proof()
    content = one.rsplit(".", 1)[0]
    for signature in (
        two.rsplit(".", 1)[1],
        segment(OTHER.sign(content)),
        segment(b"\0" * 64),
        segment(P256.sign(content)[:63]),
        segment(P256.sign(content) + b"\0"),
    ):
        with pytest.raises(ProofInvalid):
            check(proofs, f"{content}.{signature}")
    assert check(proofs, one) == P256.jkt
